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

"""Writing safetensors files tensor by tensor, so that a checkpoint larger than memory can be written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from monai_sa2va.errors import OutputError

__all__ = ["TensorEntry", "shards_of", "write_safetensors"]

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


@dataclass(frozen=True, eq=False)
class TensorEntry:
    """A tensor that is to be written.

    Attributes:
        key: its name in the file.
        shape: its shape.
        dtype: its type in the file.
        load: makes it, of any floating point type where ``dtype`` is one.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize


def shards_of(entries: Sequence[TensorEntry], limit: int) -> list[list[TensorEntry]]:
    """Entries in order, in files of at most ``limit`` bytes of tensors; a larger tensor has a file of its own."""
    shards: list[list[TensorEntry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def write_safetensors(path: Path, entries: Sequence[TensorEntry], metadata: Mapping[str, str]) -> None:
    """Write a file with one tensor in memory at a time, and see it on the disk.

    Args:
        path: of the file; its folder is there.
        entries: what it holds.
        metadata: texts that it holds beside the tensors.

    Raises:
        OutputError: when it can't be written.
    """
    # wide types first, so that each tensor begins at a multiple of its own width
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in ordered:
        start, end = end, end + entry.size
        header[entry.key] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for entry in ordered:
                # by bytes: numpy has no bfloat16
                tensor = entry.load().detach().to("cpu", entry.dtype).contiguous()
                file.write(tensor.flatten().view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path.name} can't be written: {error.strerror or error}; see to its folder") from error
