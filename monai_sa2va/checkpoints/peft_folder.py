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

"""An adapter as peft's own folder: what it changes of the multimodal language model, and the other parts beside it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monai_sa2va.checkpoints.adapters import check_base, lora_layers, read_adapter
from monai_sa2va.checkpoints.companions import keep_companions
from monai_sa2va.checkpoints.info import INFO_KEY
from monai_sa2va.checkpoints.load import read_weights
from monai_sa2va.checkpoints.save import save_checkpoint
from monai_sa2va.errors import CheckpointError, OutputError

__all__ = ["OTHER_PARTS", "WrittenCounts", "write_peft_folder"]

OTHER_PARTS = "sa2va_parts.safetensors"
"""File of the trained parts that peft's model has no place for: the projector to SAM2, and SAM2's own."""

_MLLM, _PEFT = "mllm.", "base_model.model."


class WrittenCounts(NamedTuple):
    """Tensors of a peft folder.

    Attributes:
        language_model: in ``adapter_model.safetensors``.
        others: in :data:`OTHER_PARTS`.
    """

    language_model: int
    others: int


def write_peft_folder(
    adapter: str | os.PathLike[str], base: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> WrittenCounts:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as peft reads them for the bare MLLM.

    peft knows no hash of a base, so the adapter is checked against its base once more here.

    Args:
        adapter: as for :func:`~monai_sa2va.checkpoints.adapters.read_adapter`.
        base: that it was trained on.
        folder: is made, and must not hold an adapter yet.

    Raises:
        CheckpointError: when the adapter has no LoRA, or is of another base.
        OutputError: when the folder holds an adapter, or can't be written to.
    """
    read, folder = read_adapter(adapter), Path(folder)
    if read.info["lora"] is None:
        raise CheckpointError(f"{read.name} has no LoRA, so it is no adapter to peft; merge it into a whole checkpoint")
    weights = read_weights(base)
    check_base(weights, read)
    layers = lora_layers(read)
    inside = {name: value for name, value in read.tensors.items() if name.startswith(_MLLM)}
    others = {name: value for name, value in read.tensors.items() if name not in inside}
    whole = sorted(name for name in inside if ".lora_" not in name)
    lora = read.info["lora"]
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "r": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "bias": "none",
        "inference_mode": True,
        # whole names: the vision tower has layers that end alike
        "target_modules": "|".join(re.escape(layer.removeprefix(_MLLM)) for layer in layers),
        "modules_to_save": _modules(whole, weights) or None,
    }
    if folder.is_dir() and any(folder.glob("adapter_*")):
        raise OutputError(f"{os.fspath(folder)!r} holds an adapter already; name a new folder")
    _write_config(folder / "adapter_config.json", config)
    named = {f"{_PEFT}{name.removeprefix(_MLLM)}": value for name, value in inside.items()}
    info = keep_companions(read.info, folder)
    save_checkpoint({"model": named, INFO_KEY: info}, folder / "adapter_model.safetensors")
    if others:
        save_checkpoint({"model": others, INFO_KEY: info}, folder / OTHER_PARTS)
    return WrittenCounts(len(named), len(others))


def _modules(whole: list[str], weights: dict[str, torch.Tensor]) -> list[str]:
    """The modules that hold these parameters and no other: peft keeps a copy of modules, not of parameters."""
    modules = sorted({name.removeprefix(_MLLM).rpartition(".")[0] for name in whole})
    for module in modules:
        missing = [name for name in weights if name.startswith(f"{_MLLM}{module}.") and name not in whole]
        if missing:
            raise CheckpointError(
                f"{missing[0]} isn't trained, others of its module are; merge into a whole checkpoint"
            )
    return modules


def _write_config(path: Path, config: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path.name} can't be written: {error.strerror or error}; see to its folder") from error
