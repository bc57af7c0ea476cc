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

"""Writing of checkpoints: whole or not at all, also where the process is killed or the power fails."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from monai_sa2va.errors import OutputError

__all__ = ["save_checkpoint", "temporary_path"]


def temporary_path(path: Path) -> Path:
    """Where a checkpoint is written before it takes its place: a hidden file beside it."""
    return path.with_name(f".{path.name}.tmp")


def save_checkpoint(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file that :func:`torch.load` reads; one of that name is replaced once the new one is on the disk.

    Args:
        content: plain values and tensors, so that it can be read without running code.
        path: of the file; its folder is made where it is missing. With the suffix ``.safetensors`` it holds the
            tensors of ``content["model"]``, and all else as JSON in its metadata.

    Raises:
        OutputError: when it can't be written; what was there before is still there.
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".safetensors":
            _save_safetensors(content, temporary)
        else:
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"the checkpoint {path.name!r} can't be written: {_reason(error)}; see to its folder"
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def _save_safetensors(content: Mapping[str, Any], path: Path) -> None:
    tensors = {name: tensor.detach().contiguous() for name, tensor in content["model"].items()}
    metadata = {key: json.dumps(value) for key, value in content.items() if key != "model"}
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    # safetensors makes a private file, a checkpoint is for everyone who may read the folder
    path.chmod(0o644)


def _reason(error: BaseException) -> str:
    """What the file said, such as that the disk is full: torch raises an error of its own over that."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder can't be opened
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
