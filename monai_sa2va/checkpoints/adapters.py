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

"""Adapters: what a fine-tuning changed, bound to the weights that it began from, and merged into them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from monai_sa2va.checkpoints.companions import keep_companions, same_tokenizer
from monai_sa2va.checkpoints.fingerprint import fingerprint_of_stored
from monai_sa2va.checkpoints.fit import listed
from monai_sa2va.checkpoints.info import INFO_KEY, PRESENCE, checkpoint_file, is_adapter, read_info
from monai_sa2va.checkpoints.load import read_weights
from monai_sa2va.checkpoints.save import save_checkpoint
from monai_sa2va.errors import CheckpointError, OutputError

__all__ = [
    "AdapterFile",
    "MergedCounts",
    "apply_adapter",
    "check_base",
    "lora_layers",
    "merge_files",
    "merge_into",
    "read_adapter",
]

_A, _B = ".lora_A.weight", ".lora_B.weight"
_Network = TypeVar("_Network", bound=nn.Module)


class AdapterFile(NamedTuple):
    """An adapter as it was read.

    Attributes:
        name: of the file, without folders.
        tensors: by name, on the CPU: LoRA's (``...q_proj.lora_A.weight``), and parameters that were trained whole.
        info: what it says of itself: ``base`` (hashes), ``lora`` (settings or ``None``), ``trained`` (names), and
            ``config``, ``window``, ``axis`` of the training.
    """

    name: str
    tensors: dict[str, torch.Tensor]
    info: dict[str, Any]


class MergedCounts(NamedTuple):
    """Where the tensors of merged weights came from.

    Attributes:
        base: as they were in the base.
        lora: of the base, with LoRA's product added.
        replaced: of the adapter.
    """

    base: int
    lora: int
    replaced: int


def read_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """Read an adapter, and check that it is whole.

    Args:
        path: a ``.safetensors`` file that fine-tuning wrote.

    Raises:
        CheckpointError: when it can't be read, is a whole checkpoint, or holds LoRA without its configuration.
    """
    path = Path(path)
    tensors = read_weights(path)
    info = read_info(path)
    lora = next((key for key in tensors if ".lora_" in key), None)
    if not is_adapter(info) or (lora is not None and not isinstance(info.get("lora"), Mapping)):
        if lora is None:
            raise CheckpointError(f"{path.name} is no adapter: it names no base; give a whole checkpoint as checkpoint")
        raise CheckpointError(
            f"{path.name} holds LoRA weights ({lora}) without their configuration (rank, alpha, base), so they can't "
            "be merged; give the adapter that the training wrote"
        )
    expected = set(info.get("trained", ()))
    faults = [
        listed("missing", sorted(expected - tensors.keys())),
        listed("unexpected", sorted(tensors.keys() - expected)),
    ]
    if any(faults):
        raise CheckpointError(f"{path.name} isn't whole: {'; '.join(filter(None, faults))}; take another copy of it")
    return AdapterFile(path.name, tensors, info)


def lora_layers(adapter: AdapterFile) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A (rank, in) and B (out, rank) of each layer with LoRA.

    Raises:
        CheckpointError: when one of a pair is missing, or of another rank than the configuration says.
    """
    layers = {}
    for layer in sorted({key.partition(".lora_")[0] for key in adapter.tensors if ".lora_" in key}):
        a, b = adapter.tensors.get(layer + _A), adapter.tensors.get(layer + _B)
        rank = adapter.info["lora"]["rank"]
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or not len(a) == b.shape[1] == rank:
            raise CheckpointError(
                f"{adapter.name} holds no A and B of rank {rank} for {layer}; take another copy of it"
            )
        layers[layer] = (a, b)
    return layers


def merge_into(weights: Mapping[str, torch.Tensor], adapter: AdapterFile) -> set[str]:
    """Add LoRA's products to the weights of a base and put what was trained whole in its place.

    Args:
        weights: of the base by name, changed in place and only where all fits; products are added in float32, and
            rounded to each weight's own type.
        adapter: as read.

    Returns:
        Names of the weights that changed.

    Raises:
        CheckpointError: when the weights are not those that the adapter was trained on, or a tensor doesn't fit.
    """
    check_base(weights, adapter)
    return _merge(weights, adapter)


def _merge(weights: Mapping[str, torch.Tensor], adapter: AdapterFile) -> set[str]:
    layers = lora_layers(adapter)
    whole = {key: value for key, value in adapter.tensors.items() if ".lora_" not in key}
    shapes = {key: value.shape for key, value in whole.items()}
    shapes |= {f"{layer}.weight": torch.Size((len(b), a.shape[1])) for layer, (a, b) in layers.items()}
    odd = [key for key, shape in shapes.items() if key not in weights or weights[key].shape != shape]
    if odd:
        raise CheckpointError(
            f"{adapter.name} doesn't fit this network: {listed('missing or of another shape', sorted(odd))}; "
            "give the base's own configuration"
        )
    with torch.no_grad():
        for layer, (a, b) in layers.items():
            weight = weights[f"{layer}.weight"]
            scale = adapter.info["lora"]["alpha"] / adapter.info["lora"]["rank"]
            a, b = (part.to(weight.device, torch.float32) for part in (a, b))
            weight.copy_(weight.to(torch.float32) + scale * (b @ a))
        for key, value in whole.items():
            weights[key].copy_(value)
    return set(shapes)


def apply_adapter(network: _Network, path: str | os.PathLike[str] | None) -> _Network:
    """Merge an adapter into a network that holds the weights of its base.

    Args:
        network: a Sa2VA, changed in place and only where all fits; its presence values become the adapter's.
        path: of the adapter; ``None`` changes nothing.

    Returns:
        The same network, for use in a configuration.

    Raises:
        CheckpointError: as :func:`read_adapter` and :func:`merge_into`, and where the network's configuration is
            another than the adapter's.
    """
    if path is None:
        return network
    adapter = read_adapter(path)
    holder: Any = network
    config, told = holder.config, adapter.info["config"]
    odd = [key for key in config.differing(told) if key not in (*PRESENCE, "name")]
    if "tokenizer" in odd and same_tokenizer(config.tokenizer, told["tokenizer"]):
        odd.remove("tokenizer")
    if odd:
        raise CheckpointError(
            f"{adapter.name} was trained with another {', '.join(odd)} than this network has; give its own base"
        )
    merge_into(network.state_dict(), adapter)
    holder.config = replace(config, **{key: told[key] for key in PRESENCE if key in told})
    return network


def merge_files(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
) -> MergedCounts:
    """Write a whole checkpoint from a base and an adapter, which depends on neither of them any more.

    Where the base has a tokenizer of its own, it is copied into the output's folder.

    Args:
        base: as for :func:`~monai_sa2va.checkpoints.load.read_weights`.
        adapter: as for :func:`read_adapter`.
        output: of the file: ``.safetensors``, or ``.pt``.
        dtype: of all decimals; ``None`` keeps the base's type for what didn't change, and writes float32 for what did,
            so that nothing is rounded.

    Raises:
        CheckpointError: as :func:`merge_into`.
        OutputError: when the file can't be written, or is the base or the adapter itself.
    """
    read = read_adapter(adapter)
    for given in (checkpoint_file(adapter), checkpoint_file(base)):
        if os.path.exists(output) and os.path.samefile(output, given):
            raise OutputError(f"the output is {given.name}, which is merged and would be lost; name another file")
    weights = read_weights(base)
    check_base(weights, read)
    touched = {f"{layer}.weight" for layer in lora_layers(read)} | {key for key in read.tensors if ".lora_" not in key}
    merged = {
        key: value.to(torch.float32) if key in touched and value.is_floating_point() else value
        for key, value in weights.items()
    }
    _merge(merged, read)
    if dtype is not None:
        merged = {key: value.to(dtype) if value.is_floating_point() else value for key, value in merged.items()}
    info = {key: value for key, value in read.info.items() if key not in ("base", "lora", "trained")}
    save_checkpoint({"model": merged, INFO_KEY: keep_companions(info, Path(output).parent)}, output)
    n_lora = len(lora_layers(read))
    return MergedCounts(len(merged) - len(touched), n_lora, len(touched) - n_lora)


def check_base(weights: Mapping[str, torch.Tensor], adapter: AdapterFile) -> None:
    """Refuse weights that are not those the adapter was trained on.

    Raises:
        CheckpointError: with the beginnings of both hashes.
    """
    kind, found = fingerprint_of_stored(weights)
    expected = adapter.info["base"].get(kind)
    if found != expected:
        raise CheckpointError(
            f"{adapter.name} was trained on another base (hash {str(expected)[:12]}, this one has {found[:12]}); give "
            "the checkpoint that it was fine-tuned from"
        )
