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

"""The two forms in which whole checkpoints are written: this package's folder, and a Hugging Face folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.checkpoints.families import family_of
from monai_sa2va.checkpoints.info import INFO_KEY, ModelInfo
from monai_sa2va.checkpoints.lora_keys import ADAPTER_CONFIG
from monai_sa2va.checkpoints.safetensors_file import TensorEntry, shards_of, write_safetensors
from monai_sa2va.checkpoints.source import COMPANIONS, EXTRAS_FILE, CheckpointSource, extras_of
from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.errors import OutputError

__all__ = ["SHARD_SIZE", "write_bundle_form", "write_official_form"]

SHARD_SIZE = 5 * 10**9
"""Most bytes of tensors in one file of an official checkpoint, as the hub's are."""

_TOKENIZER = "tokenizer"
# weights and their indexes, and what is written anew
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
# LoRA is merged into all that is written, and transformers looks for an adapter where its config is
_WRITTEN = ("config.json", EXTRAS_FILE, ADAPTER_CONFIG)
_TYPE_FIELDS = ("dtype", "torch_dtype")


def write_bundle_form(target: Path, source: CheckpointSource, entries: Sequence[TensorEntry]) -> None:
    """Write ``model.safetensors``, which says its configuration, and beside it the files that came with the source.

    Args:
        target: folder that is written, whole or not at all.
        source: what is converted.
        entries: all tensors, under the network's own keys.

    Raises:
        OutputError: when ``target`` is in use or can't be written.
    """
    config = source.config
    if source.companions is not None:
        inside = os.path.relpath(config.tokenizer, source.companions)
        # relative, so that the folder may be moved
        config = replace(config, tokenizer=Path(COMPANIONS, inside).as_posix())
    info = ModelInfo(config, **source.preprocessing).state_dict()
    with _whole_folder(target) as folder:
        if source.companions is not None:
            _copy_companions(source.companions, folder / COMPANIONS)
        write_safetensors(folder / "model.safetensors", entries, {"format": "pt", INFO_KEY: json.dumps(info)})


def write_official_form(
    target: Path, source: CheckpointSource, entries: Sequence[TensorEntry], dtype: torch.dtype | None, shard_size: int
) -> list[str]:
    """Write config.json, the weights, and the files that came with the source.

    Args:
        target: folder that is written, whole or not at all.
        source: what is converted.
        entries: all tensors, under official keys.
        dtype: that they were given, for the config.json; ``None`` where each kept its own.
        shard_size: most bytes of tensors in one file.

    Returns:
        What the reference's own classes can't read of it, a sentence each.

    Raises:
        CheckpointError: when no config.json can say what the network is.
        OutputError: when ``target`` is in use or can't be written.
    """
    family = family_of(source.config)
    official = family.write_config(source.config)
    if dtype is not None:
        official = _with_dtype(official, str(dtype).removeprefix("torch."))
    extras = {**extras_of(source.config, family, official), **source.preprocessing}
    with _whole_folder(target) as folder:
        if source.companions is None:
            byte_tokenizer().save_pretrained(folder)
        else:
            _copy_companions(source.companions, folder)
        _write_json(folder / "config.json", official)
        if extras:
            _write_json(folder / EXTRAS_FILE, extras)
        _write_shards(folder, entries, shard_size)
    if not extras:
        return []
    return [f"{EXTRAS_FILE} says {', '.join(extras)}, which this package reads and the reference's own classes don't"]


def _write_shards(folder: Path, entries: Sequence[TensorEntry], shard_size: int) -> None:
    shards = shards_of(entries, shard_size)
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard, {"format": "pt"})
        places.update(dict.fromkeys((entry.key for entry in shard), name))
    total = sum(entry.size for entry in entries)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _with_dtype(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The type of the weights, wherever a config.json says it."""
    return {
        key: _with_dtype(value, name) if isinstance(value, dict) else name if key in _TYPE_FIELDS and value else value
        for key, value in values.items()
    }


def _copy_companions(source: Path, target: Path) -> None:
    """Copy the files that came with a checkpoint: its tokenizer, its licence, code that is never run here."""
    try:
        for folder in (source, source / _TOKENIZER):
            place = target / folder.relative_to(source)
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in _WRITTEN:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, place / file.name)
    except OSError as error:
        raise OutputError(f"{error.filename} can't be copied: {error.strerror or error}; see to its folder") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write to, which takes its place when all is written."""
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(f"{target.name!r} is there already; name another folder, or remove it")
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        # as any other folder, where mkdtemp lets nobody else in
        folder.chmod(0o755)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{target.name!r} can't be written: {error.strerror or error}; see to its folder") from error
    try:
        yield folder
        if target.exists():
            target.rmdir()
        folder.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{target.name!r} can't be written: {error.strerror or error}; see to its folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
