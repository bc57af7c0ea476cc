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

"""Datalists from the lists of other projects: Sa2VA's ``annotations.json`` and nnU-Net's ``dataset.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_sa2va.data.annotations import draw_annotations
from monai_sa2va.data.make_datalist import MadeDatalist, make_datalist, split_entries
from monai_sa2va.data.nnunet import read_nnunet
from monai_sa2va.errors import DatalistError

__all__ = ["import_datalist"]


def import_datalist(
    source: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    *,
    base_dir: str | os.PathLike[str],
    prompts: Sequence[str] = (),
    channel: str | None = None,
    group_regex: str | None = None,
    **options: Any,
) -> MadeDatalist:
    """Make a datalist from another project's list; which one it is, its content says.

    Args:
        source: ``annotations.json`` (a list) or ``dataset.json`` (an object with ``labels``).
        masks: folder that the masks of ``annotations.json``'s polygons are written to.
        base_dir: folder that the datalist will lie in.
        prompts: in place of ``dataset.json``'s own names, as for
            :func:`~monai_sa2va.data.make_datalist.make_datalist`.
        channel: of ``dataset.json``, number or name.
        group_regex: as for :func:`~monai_sa2va.data.make_datalist.make_datalist`.
        **options: further ones of it; of ``annotations.json`` those of
            :func:`~monai_sa2va.data.make_datalist.split_entries`.

    Raises:
        DatalistError: when the file can't be read, is neither, or can't be used.
    """
    source = Path(source)
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatalistError(f"{source} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DatalistError(f"{source} is not JSON: {error}") from error
    if isinstance(content, list):
        if prompts or channel is not None:
            raise DatalistError(f"{source.name} says its phrases itself; leave out --prompt and --channel")
        found = draw_annotations(content, source.parent, Path(masks), Path(base_dir), group_regex)
        return split_entries(*found, grouped=group_regex is not None, **options)
    if not isinstance(content, dict):
        raise DatalistError(f"{source.name} is neither Sa2VA's annotations.json nor nnU-Net's dataset.json")
    dataset = read_nnunet(content, source.parent, channel)
    made = make_datalist(
        source.parent,
        source.parent,
        list(prompts) or dataset.prompts,
        base_dir=base_dir,
        group_regex=group_regex,
        paired=(dataset.pairs, dataset.left_out),
        common={"family": dataset.channel} if dataset.channel else None,
        **options,
    )
    made.warnings.extend(dataset.warnings)
    return made
