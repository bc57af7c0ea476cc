# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""SAM2's geometry where a checkpoint has another than hiera-L; a config.json of Sa2VA doesn't say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_sa2va.checkpoints.shards import read_json
from monai_sa2va.config import GroundingConfig, part_from_dict
from monai_sa2va.errors import CheckpointError, ConfigError

__all__ = ["read_sam2_config"]

# short names, as of a file that makes a small SAM2 for the reference's own class -> GroundingConfig's
_SHORT = {
    "hidden": "hidden_dim",
    "mem": "mem_dim",
    "heads": "num_heads",
    "glob": "global_att_blocks",
    "bkg": "window_pos_embed_bkg_spatial_size",
    "dec_mlp": "feedforward_dim",
    "iou_hidden": "iou_head_hidden_dim",
    "mem_layers": "memory_layers",
    "mem_ffn": "memory_feedforward_dim",
}


def read_sam2_config(given: GroundingConfig | Mapping[str, Any] | str | os.PathLike[str] | None) -> GroundingConfig:
    """SAM2's geometry.

    Args:
        given: itself; its fields, under :class:`GroundingConfig`'s names or short ones such as ``"hidden"``; a JSON
            file of them; or ``None`` for hiera-L, which every official checkpoint has. Fields that aren't given are
            hiera-L's.

    Raises:
        CheckpointError: when the file can't be read, or holds an unknown field or a value of the wrong type.
    """
    if given is None or isinstance(given, GroundingConfig):
        return given or GroundingConfig()
    values = given if isinstance(given, Mapping) else read_json(Path(given))
    name = "sam2_config" if isinstance(given, Mapping) else Path(given).name
    fields = {_SHORT.get(key, key): value for key, value in values.items()}
    try:
        result: GroundingConfig = part_from_dict(GroundingConfig, fields)
        return result
    except ConfigError as error:
        raise CheckpointError(f"{name}: {error.args[0]}") from error
