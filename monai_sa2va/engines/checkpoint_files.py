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


"""The checkpoints of a folder: which there are, which is the newest, and whether one is whole."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = ["CheckpointFile", "checkpoint_files", "in_order", "read_checkpoint", "read_run"]

_NAME = re.compile(r"resume_(\d{8,})\.pt")
# damaged files have no error class of their own; RuntimeError holds zipfile's NotImplementedError
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
)


class CheckpointFile(NamedTuple):
    """A checkpoint; of two, the newer one is the larger.

    Attributes:
        run: when its run was begun, in nanoseconds since 1970, which is what tells runs apart; 0 where the file says
            nothing of it, -1 where it can't be read.
        steps: optimizer steps.
        path: of the file.
    """

    run: int
    steps: int
    path: Path


def checkpoint_files(folder: Path) -> dict[Path, int]:
    """Optimizer steps, by the file's name, of all checkpoints in a folder, which needn't be there."""
    if not folder.is_dir():
        return {}
    return {path: int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}


def in_order(folder: Path) -> list[CheckpointFile]:
    """Checkpoints in a folder, the newest one last: of the run that was begun last the one of most steps.

    Not by their steps alone: a run killed before it removed those of an earlier one goes on with its own. Nor by the
    times of the files, which a copy doesn't keep.
    """
    return sorted(CheckpointFile(read_run(path), steps, path) for path, steps in checkpoint_files(folder).items())


def read_run(path: Path) -> int:
    """When the run of a checkpoint was begun, as :class:`CheckpointFile` has it; its tensors are not read for that."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGED:
        return -1
    run = content.get("run", 0) if isinstance(content, dict) else -1
    return run if isinstance(run, int) else -1


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """All that a checkpoint holds, on the CPU, or ``None`` where it is damaged."""
    try:
        # torch doesn't look at the check sums that it writes
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED:
        return None
    return content if isinstance(content, dict) else None
