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

"""The tensors of a checkpoint, one at a time: from one file or from shards with their index, checked before use."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from monai_sa2va.errors import CheckpointError

__all__ = ["WeightFiles", "open_file", "open_folder", "read_json"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "*.bin", "*.pth", "*.pt")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _OpenFile(Protocol):
    """One file of tensors."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def tensor(self, key: str) -> torch.Tensor:
        """One tensor, which may lie in the file itself: read it, don't write to it."""


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        try:
            # kept open: a shard is mapped into memory once, whatever is read of it
            self._file = safe_open(path, framework="pt")
            for key in self._file.keys():  # noqa: SIM118 - it is no mapping
                entry = self._file.get_slice(key)
                self.shapes[key] = tuple(entry.get_shape())
                kind = str(entry.get_dtype())
                if kind not in _DTYPES:
                    raise CheckpointError(
                        f"{path.name} holds {key} as {kind}; give weights of a type among {', '.join(_DTYPES)}"
                    )
                self.dtypes[key] = _DTYPES[kind]
        except (SafetensorError, OSError) as error:
            raise _damaged(path) from error

    def tensor(self, key: str) -> torch.Tensor:
        try:
            value: torch.Tensor = self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(self._path) from error
        return value


class _Pickle:
    def __init__(self, path: Path) -> None:
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # torch has no error class of its own for damaged files
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path.name} is damaged, holds more than tensors, of which no code is ever run, or was written by a "
                "torch before 1.6; give a .safetensors file"
            ) from error
        if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
            content = content["model"]
        if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise CheckpointError(f"{path.name} holds no state dictionary, and none under 'model'; save one there")
        self._content = {str(key): value for key, value in content.items()}
        for key, value in self._content.items():
            if value.dtype not in _DTYPES.values() or value.layout is not torch.strided or value.is_meta:
                kind = str(value.dtype).removeprefix("torch.")
                raise CheckpointError(
                    f"{path.name} holds {key} as {kind} that is quantized, sparse or empty; "
                    f"give plain weights of a type among {', '.join(_DTYPES)}"
                )
        self.shapes = {key: tuple(value.shape) for key, value in self._content.items()}
        self.dtypes = {key: value.dtype for key, value in self._content.items()}

    def tensor(self, key: str) -> torch.Tensor:
        return self._content[key]


class WeightFiles:
    """All tensors of a checkpoint by key; they are read when they are asked for.

    Args:
        files: opened files by name.

    Attributes:
        shapes: of each tensor.
        dtypes: of each tensor.
        files: name of the file that each tensor is in; keys in the order of the files.

    Raises:
        CheckpointError: when two files hold the same key.
    """

    def __init__(self, files: Mapping[str, _OpenFile]) -> None:
        self._open = dict(files)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.files: dict[str, str] = {}
        for name, file in self._open.items():
            for key, shape in file.shapes.items():
                if key in self.files:
                    raise CheckpointError(f"{self.files[key]} and {name} both hold {key}; give one checkpoint")
                self.shapes[key], self.dtypes[key], self.files[key] = shape, file.dtypes[key], name

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def stored(self, key: str) -> tuple[str, ...]:
        """The keys in the files that a tensor is made of: its own."""
        return (key,)

    def tensor(self, key: str) -> torch.Tensor:
        """One tensor, as it is stored. It may lie in the file itself: read it, don't write to it.

        Raises:
            CheckpointError: when it can't be read.
        """
        return self._open[self.files[key]].tensor(key)


def open_file(path: Path) -> WeightFiles:
    """The tensors of one file: ``.safetensors``, or a state dictionary that ``torch.save`` wrote.

    Raises:
        CheckpointError: when it can't be read, or holds something else.
    """
    return WeightFiles({path.name: _Safetensors(path) if path.suffix.lower() == ".safetensors" else _Pickle(path)})


def open_folder(folder: Path, allow_pickle: bool = False) -> WeightFiles:
    """The tensors of a Hugging Face checkpoint: ``model.safetensors``, or shards with their index.

    Args:
        folder: that holds them.
        allow_pickle: read ``pytorch_model.bin`` files where there is no safetensors file. Code in them is never run.

    Raises:
        CheckpointError: when there are none; a shard is missing or damaged; the index doesn't fit its shards; or there
            are pickles only, and they aren't allowed.
    """
    single, index = folder / _SINGLE, folder / _INDEX
    if single.is_file() and index.is_file():
        raise CheckpointError(f"the folder {folder.name!r} holds {_SINGLE} and {_INDEX}; remove the one that is stale")
    if single.is_file():
        return WeightFiles({_SINGLE: _Safetensors(single)})
    if index.is_file():
        return _open_shards(folder, index, _Safetensors)
    if (folder / "adapter_model.safetensors").is_file():
        raise CheckpointError(
            f"the folder {folder.name!r} holds a peft adapter, which is no whole checkpoint; "
            "merge it into its base with peft (merge_and_unload), and give what that saves"
        )
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        raise CheckpointError(f"the folder {folder.name!r} holds {shards[0].name}, but no {_INDEX}; fetch it, too")
    pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if not pickles:
        raise CheckpointError(f"the folder {folder.name!r} holds no {_SINGLE} and no {_INDEX}; give a whole checkpoint")
    if not allow_pickle:
        raise CheckpointError(
            f"the folder {folder.name!r} holds weights as pickle only ({pickles[0]}); "
            "allow it with allow_pickle (--allow-pickle), or give safetensors"
        )
    if pickles[0] == _PICKLES[0]:
        return WeightFiles({pickles[0]: _Pickle(folder / pickles[0])})
    if _PICKLES[1] in pickles:
        return _open_shards(folder, folder / _PICKLES[1], _Pickle)
    raise CheckpointError(f"the folder {folder.name!r} holds {pickles[0]}, but no {_PICKLES[0]}; rename it so")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: when it is missing, no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path.name} in {path.parent.name!r}; give the whole checkpoint") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}; an object is expected")
    return content


def _open_shards(folder: Path, index: Path, kind: type[_Safetensors] | type[_Pickle]) -> WeightFiles:
    told = read_json(index).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(name, str) for name in told.values()):
        raise CheckpointError(f"{index.name} holds no weight_map of keys and files; fetch it again")
    files: dict[str, _OpenFile] = {}
    for name in sorted(set(told.values())):
        if os.path.basename(name) != name:
            raise CheckpointError(f"{index.name} names {name!r}, which is no file beside it; fetch it again")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index.name} names the shard {name}, which is missing; fetch it, too")
        files[name] = kind(folder / name)
        mapped = {key for key, file in told.items() if file == name}
        odd = sorted(mapped ^ files[name].shapes.keys())
        if odd:
            where = f"{name} doesn't hold" if odd[0] in mapped else f"{name} holds, and {index.name} doesn't name,"
            raise CheckpointError(
                f"{index.name} is another checkpoint's: {where} {odd[0]} ({len(odd)} such keys); fetch both again"
            )
    return WeightFiles(files)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path.name} can't be read: cut short, damaged, or no safetensors file; fetch it again")
