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

"""From an official checkpoint to one of this package and back, tensor by tensor and bit by bit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.checkpoints.families import family_of
from monai_sa2va.checkpoints.families.key_map import Layout
from monai_sa2va.checkpoints.forms import SHARD_SIZE, write_bundle_form, write_official_form
from monai_sa2va.checkpoints.pretrained import as_dtype, build_without_memory
from monai_sa2va.checkpoints.safetensors_file import TensorEntry
from monai_sa2va.checkpoints.source import NATIVE, CheckpointSource, open_checkpoint
from monai_sa2va.config import GroundingConfig
from monai_sa2va.errors import CheckpointError, ConfigError
from monai_sa2va.networks.parts import PARTS, part_of
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["FORMS", "Conversion", "TensorOrigin", "convert_checkpoint"]

FORMS = ("bundle", "hf")
"""What a checkpoint can be made: one of this package, or an official one as the Hugging Face hub has them."""


@dataclass(frozen=True)
class TensorOrigin:
    """Where a tensor of a converted checkpoint came from.

    Attributes:
        key: in the converted checkpoint.
        part: of the network that it belongs to, see :data:`~monai_sa2va.networks.parts.PARTS`.
        source_keys: in the source; several where they were joined, or LoRA's merged.
        source_files: that hold them.
        shape: of the tensor.
        dtype: of the tensor.
    """

    key: str
    part: str
    source_keys: tuple[str, ...]
    source_files: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        files = ", ".join(self.source_files)
        return f"{self.key} {tuple(self.shape)} {kind} <- {' + '.join(self.source_keys)} of {files}"


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        folder: that it wrote.
        tensors: all of the converted checkpoint, each with where it came from.
        remarks: what the reference's own classes can't read of it, a sentence each.
    """

    folder: Path
    tensors: tuple[TensorOrigin, ...]
    remarks: tuple[str, ...]

    def by_part(self) -> list[tuple[str, int, tuple[str, ...]]]:
        """Of each part of the network: its name, the number of its tensors, and the files that they came from."""
        rows = []
        for part in PARTS:
            mine = [tensor for tensor in self.tensors if tensor.part == part]
            rows.append((part, len(mine), tuple(sorted({file for tensor in mine for file in tensor.source_files}))))
        return rows


def convert_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    to: str,
    *,
    sam2_config: GroundingConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
    allow_pickle: bool = False,
    shard_size: int = SHARD_SIZE,
) -> Conversion:
    """Convert a checkpoint. Every tensor comes from ``source``: no other weights are ever looked at.

    Args:
        source: as for :func:`~monai_sa2va.checkpoints.source.open_checkpoint`, like ``sam2_config`` and
            ``allow_pickle``.
        destination: folder that is written, whole or not at all; it must not be there yet, or be empty.
        to: ``"bundle"``: one file ``model.safetensors`` of the network's own keys, which says its configuration, and
            the files that came with the official checkpoint. ``"hf"``: the official keys and config.json.
        sam2_config: SAM2's geometry where it isn't hiera-L.
        dtype: of all floating point tensors; ``None`` keeps each tensor's own, bit by bit.
        allow_pickle: read pickles where there are no safetensors.
        shard_size: most bytes of tensors in one file of ``"hf"``.

    Raises:
        CheckpointError: when the source can't be used, or isn't whole.
        ConfigError: when ``to`` is no form, or the source's tokenizer can't be used.
        OutputError: when the destination is in use or can't be written.
    """
    if to not in FORMS:
        raise ConfigError(f"to is {to!r}; give {' or '.join(FORMS)}")
    wanted = as_dtype(dtype)
    opened = open_checkpoint(source, sam2_config=sam2_config, allow_pickle=allow_pickle)
    # the network itself says what is whole
    state = build_without_memory(Sa2VA, opened.config).state_dict()
    opened.check(state)
    layout = NATIVE if to == "bundle" else family_of(opened.config).layout(opened.config)
    entries, tensors = _planned(opened, state, layout, wanted)
    target = Path(destination)
    remarks: Sequence[str] = ()
    if to == "bundle":
        write_bundle_form(target, opened, entries)
    else:
        remarks = write_official_form(target, opened, entries, wanted, shard_size)
    return Conversion(target, tuple(tensors), tuple(remarks))


def _planned(
    source: CheckpointSource, state: Mapping[str, torch.Tensor], layout: Layout, dtype: torch.dtype | None
) -> tuple[list[TensorEntry], list[TensorOrigin]]:
    entries, origins = [], []
    for key, natives in layout.sources(state).items():
        sources = tuple(dict.fromkeys(source.official(native) for native in natives))
        kinds = {source.weights.dtypes[name] for name in sources}
        if len(kinds) > 1 and dtype is None:
            raise CheckpointError(f"{', '.join(sources)} of {source.name} are of several types; choose one with dtype")
        kind = next(iter(kinds))
        if dtype is not None and kind.is_floating_point:
            kind = dtype
        shape = tuple(layout.join(key, [state[native] for native in natives]).shape)
        entries.append(TensorEntry(key, shape, kind, partial(_tensor, source, layout, key, natives)))
        files = tuple(sorted({source.weights.files[name] for name in sources}))
        stored = tuple(name for official in sources for name in source.weights.stored(official))
        origins.append(TensorOrigin(key, part_of(natives[0]), stored, files, shape, kind))
    return entries, origins


def _tensor(source: CheckpointSource, layout: Layout, key: str, natives: Sequence[str]) -> torch.Tensor:
    return layout.join(key, [source.tensor(native) for native in natives])
