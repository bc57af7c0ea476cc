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


"""What a checkpoint says beside its weights: the network's configuration, and how its images were prepared."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError

__all__ = ["INFO_KEY", "PRESENCE", "WEIGHT_FILES", "ModelInfo", "checkpoint_file", "is_adapter", "read_info", "stored"]

INFO_KEY = "info"
"""Where a checkpoint holds its information: a key beside ``"model"``, or the JSON of a safetensors file's metadata."""

WEIGHT_FILES = ("model.safetensors", "model.pt")
"""Names of the file of weights in the folder of a checkpoint of this package."""

PRESENCE = ("presence_threshold", "presence_scale", "presence_bias")
"""Fields of a configuration that training finds out by itself."""


class ModelInfo:
    """Information that MONAI's ``CheckpointSaver`` writes beside the weights, under ``"info"`` of its ``save_dict``.

    Args:
        config: of the network.
        **preprocessing: plain values that decide what the network sees, such as ``window="auto"``.

    Example:
        >>> ModelInfo(get_preset("tiny"), window="abdomen").state_dict()["window"]
        'abdomen'
    """

    def __init__(self, config: Sa2VAConfig, **preprocessing: Any) -> None:
        self._state = {"config": config.to_dict(), **preprocessing}

    def state_dict(self) -> dict[str, Any]:
        """``config``, nested plain values, and what else was given."""
        return dict(self._state)

    def set_presence(self, threshold: float | None, scale: float, bias: float) -> None:
        """Note what a validation says of the object scores, see :class:`~monai_sa2va.config.Sa2VAConfig`.

        Args:
            threshold: presence below which a mask is emptied; ``None`` for never.
            scale: of the object score.
            bias: added to it.
        """
        self._state["config"] = {**self._state["config"], **dict(zip(PRESENCE, (threshold, scale, bias), strict=True))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a run goes on as it began; what validation said of the object scores is taken over, no more.

        Raises:
            CheckpointError: naming the values that differ.
        """
        told = state.get("config")
        if isinstance(told, Mapping):
            tuned = {key: told[key] for key in PRESENCE if key in told}
            self._state["config"] = {**self._state["config"], **tuned}
        shared = self._state.keys() & state.keys()
        odd = sorted(key for key in shared if _given(self._state[key]) != _given(state[key]))
        if odd:
            raise CheckpointError(
                f"the checkpoint was trained with another {' and '.join(odd)}: go on with the same, or start anew"
            )


def _given(value: Any) -> Any:
    """A value without what training finds out by itself."""
    return {key: v for key, v in value.items() if key not in PRESENCE} if isinstance(value, Mapping) else value


def checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint: itself, or the one in the folder of a converted checkpoint.

    Raises:
        CheckpointError: when there is none, or the folder is one of an official checkpoint.
    """
    named, path = os.fspath(path), Path(path)
    if named and path.is_dir():
        if (path / "config.json").exists():
            raise CheckpointError(
                f"{path.name} is the folder of a Hugging Face checkpoint; make it one of this package's first: "
                "monai-sa2va convert SRC DST --to bundle"
            )
        found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if len(found) != 1:
            raise CheckpointError(
                f"the folder {path.name!r} holds {len(found)} of {' and '.join(WEIGHT_FILES)}; name the file itself"
            )
        return found[0]
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {named!r}; train one, or name another with checkpoint")
    return path


def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself; empty where it holds weights alone.

    Args:
        path: as for :func:`~monai_sa2va.checkpoints.load.read_weights`.

    Raises:
        CheckpointError: when the file is missing or can't be read.
    """
    path = checkpoint_file(path)
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                info = json.loads((file.metadata() or {}).get(INFO_KEY, "{}"))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            info = content.get(INFO_KEY, {}) if isinstance(content, Mapping) else {}
    # torch has no error class of its own for damaged files
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} can't be read as a checkpoint: it is damaged, or none") from error
    if not isinstance(info, Mapping):
        raise CheckpointError(f"{path.name} holds a {type(info).__name__} under {INFO_KEY!r}; a dictionary is expected")
    return _with_tokenizer(dict(info), path.parent)


def _with_tokenizer(info: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A tokenizer that lies beside the checkpoint is named relative to it, so that the folder may be moved."""
    config = info.get("config")
    if isinstance(config, Mapping) and isinstance(config.get("tokenizer"), str):
        beside = folder / config["tokenizer"]
        if config["tokenizer"] != "bytes" and beside.is_dir():
            return {**info, "config": {**config, "tokenizer": os.path.abspath(beside)}}
    return info


def is_adapter(info: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's information is that of an adapter: it names the base that it can't do without."""
    return isinstance(info.get("base"), Mapping)


def stored(path: str | os.PathLike[str] | None, key: str, default: Any) -> Any:
    """A value that a checkpoint holds of itself, for use in a configuration.

    Args:
        path: of the checkpoint. Where there is none yet, as when a network is only looked at, ``default`` holds;
            loading its weights says what is missing. ``None`` is refused: what asks begins from a checkpoint.
        key: ``"config"``, ``"window"`` or ``"axis"``.
        default: for a checkpoint that doesn't say.

    Raises:
        CheckpointError: when none is named, or the file can't be read.
    """
    if path is None:
        raise CheckpointError(
            "no checkpoint is named; give one as weights to fine-tune from it (train.json alone begins from random "
            "weights), or as checkpoint to segment with it"
        )
    return read_info(path).get(key, default) if Path(path).exists() else default
