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

"""The files that came with an official checkpoint, its tokenizer among them: they stay with what is made of it."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_sa2va.errors import OutputError

__all__ = ["ADAPTER_CONFIG", "COMPANIONS", "EXTRAS_FILE", "copy_companions", "keep_companions", "same_tokenizer"]

EXTRAS_FILE = "monai_sa2va.json"
"""Beside a config.json: what that can't say of a network, such as its calibrated presence."""

COMPANIONS = "official"
"""In the folder of a checkpoint of this package: the files that came with the official one."""

ADAPTER_CONFIG = "adapter_config.json"
"""File in which peft says how an adapter is applied."""

_TOKENIZER = "tokenizer"
# weights and their indexes, and what is written anew
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
# LoRA is merged into all that is written, and transformers looks for an adapter where its config is
_WRITTEN = ("config.json", EXTRAS_FILE, ADAPTER_CONFIG)
# what a tokenizer is read from
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def copy_companions(source: Path, target: Path) -> None:
    """Copy the files that came with a checkpoint: its tokenizer, its licence, code that is never run here.

    Args:
        source: folder of the checkpoint, or of its companions; weights and what a conversion writes anew are left out.
        target: folder that gets them.

    Raises:
        OutputError: when a file can't be copied.
    """
    try:
        for inside in _companions(source):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / inside, target / inside)
    except OSError as error:
        raise OutputError(f"{error.filename} can't be copied: {error.strerror or error}; see to its folder") from error


def keep_companions(info: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Put the companions that a checkpoint's information names beside the checkpoint, where they move with it.

    Args:
        info: as :class:`~monai_sa2va.checkpoints.info.ModelInfo` gives it.
        folder: of the checkpoint, made where it is missing; companions of an earlier one there are replaced.

    Returns:
        The same information, which names the tokenizer relative to ``folder``.

    Raises:
        OutputError: when the files can't be copied.
    """
    config = info.get("config")
    named = config.get("tokenizer") if isinstance(config, Mapping) else None
    if not isinstance(named, str) or not os.path.isdir(named):
        return dict(info)
    tokenizer, target = Path(named).resolve(), folder.resolve() / COMPANIONS
    # a tokenizer may have a folder of its own among the companions
    source = tokenizer.parent if tokenizer.parent.name == COMPANIONS else tokenizer
    if source != target and not _same_files(source, target):
        _replace(source, target)
    inside = Path(COMPANIONS) / tokenizer.relative_to(source)
    return {**info, "config": {**info["config"], "tokenizer": inside.as_posix()}}


def same_tokenizer(first: str, second: str) -> bool:
    """Whether two configurations name one tokenizer, be it in two copies.

    Args:
        first: ``"bytes"``, or a folder.
        second: likewise.
    """
    if first == second or not (os.path.isdir(first) and os.path.isdir(second)):
        return first == second
    kept = [[name for name in _TOKENIZER_FILES if Path(place, name).is_file()] for place in (first, second)]
    return kept[0] == kept[1] and all(
        filecmp.cmp(os.path.join(first, name), os.path.join(second, name), shallow=False) for name in kept[0]
    )


def _companions(source: Path) -> list[Path]:
    """What is copied of a folder, relative to it."""
    return [
        file.relative_to(source)
        for folder in (source, source / _TOKENIZER)
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in _WRITTEN
    ]


def _same_files(source: Path, target: Path) -> bool:
    files = _companions(source)
    return files == _companions(target) and all(
        filecmp.cmp(source / inside, target / inside, shallow=False) for inside in files
    )


def _replace(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as half:
            whole = Path(half, target.name)
            copy_companions(source, whole)
            if target.exists():
                shutil.rmtree(target)
            whole.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{target.name!r} can't be written: {error.strerror or error}; see to its folder") from error
