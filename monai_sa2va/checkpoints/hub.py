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

"""Finding a checkpoint: a folder or file here, or the id of one on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from monai_sa2va.errors import CheckpointError

__all__ = ["find_checkpoint"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.md", "*.py", "LICENSE*"]


def find_checkpoint(path: str | os.PathLike[str], allow_pickle: bool = False) -> Path:
    """Where a checkpoint lies; one of the hub is fetched, or taken from its cache.

    Args:
        path: a folder or file, or a hub id such as ``"ByteDance/Sa2VA-4B"``. What exists here is never looked for on
            the hub. Code that comes with a checkpoint is never run.
        allow_pickle: fetch weights that are pickles, too.

    Raises:
        CheckpointError: when there is none, or the hub can't be reached.
    """
    place, name = Path(path), os.fspath(path)
    if not name:
        raise CheckpointError("the checkpoint's path is empty; give a folder, a file, or a hub id such as owner/name")
    try:
        if place.exists():
            return place
    # a name that is longer than any file's
    except OSError as error:
        raise CheckpointError(f"the checkpoint {name[:40]!r}... can't be looked for: {error.strerror}") from error
    if not _ID.fullmatch(name):
        raise CheckpointError(f"there is no checkpoint {name!r}; give a folder, a file, or a hub id such as owner/name")
    wanted = [*_SMALL, "*.safetensors", *(["*.bin"] if allow_pickle else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    # of the hub, of the connection, of the cache and of the way of transfer, which have no class in common
    except Exception as error:
        raise CheckpointError(
            f"there is no folder {name!r} here, and it can't be fetched from the hub "
            f"({type(error).__name__}); fetch it where there is a connection, and give its folder"
        ) from error
