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

"""LoRA on the language model: small trained matrices beside frozen ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.parts import part_of

__all__ = ["LoRA", "add_lora"]

_OWN_PARTS = ("language_model", "embeddings")


@dataclass(frozen=True)
class LoRA:
    """What LoRA trains of the language model: W + alpha / rank * B A, with W frozen.

    Attributes:
        rank: rows of A and columns of B, at least 1.
        alpha: see there; above 0.
        dropout: probability of the dropout in front of A, 0 to below 1.
        target_modules: last parts of the names of the linear layers that get it, such as ``("q_proj", "v_proj")``;
            ``None`` is every linear layer of the language model.
        modules_to_save: last parts of the names of modules that are trained whole beside it, such as
            ``("embed_tokens", "lm_head")``.
        seed: for A, which begins at random while B begins as 0.

    Raises:
        ConfigError: when a value can't be used.
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05
    target_modules: Sequence[str] | None = None
    modules_to_save: Sequence[str] = ("embed_tokens", "lm_head")
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ConfigError(f"lora rank is {self.rank!r}; give a whole number of at least 1")
        if not self.alpha > 0:
            raise ConfigError(f"lora alpha is {self.alpha!r}; give a number above 0, usually twice the rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora dropout is {self.dropout!r}; give 0 to below 1")
        for key in ("target_modules", "modules_to_save"):
            names = getattr(self, key)
            if isinstance(names, str) or (names is not None and not all(isinstance(name, str) for name in names)):
                raise ConfigError(f'lora {key} is {names!r}; give a list of names, such as ["q_proj", "v_proj"]')
        if self.target_modules is not None and not self.target_modules:
            raise ConfigError("lora target_modules is empty; name layers, or give null for all linear ones")
        # lists, as JSON keeps them, so that what was stored compares equal
        object.__setattr__(self, "modules_to_save", list(self.modules_to_save))
        object.__setattr__(self, "target_modules", None if self.target_modules is None else list(self.target_modules))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as an adapter stores them."""
        return asdict(self)


def add_lora(network: nn.Module, lora: LoRA) -> list[str]:
    """Put LoRA into a Sa2VA's language model, whose own weights stay frozen; the answers stay the same at first.

    Other parts keep their ``requires_grad``; what ``modules_to_save`` names is trained whole.

    Args:
        network: a Sa2VA, changed in place, whose language model and embeddings are frozen.
        lora: what trains.

    Returns:
        Names of the layers that got it.

    Raises:
        ConfigError: when peft is not installed, a name matches nothing, or the language model isn't frozen.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "lora needs the package peft; pip install 'monai-sa2va[finetune]', or disable lora"
        ) from error
    trained = {part_of(name) for name, parameter in network.named_parameters() if parameter.requires_grad}
    if odd := [part for part in _OWN_PARTS if part in trained]:
        raise ConfigError(
            f"lora trains beside frozen weights, and {' and '.join(odd)} would be trained whole; freeze it, name it in "
            "modules_to_save, or disable lora"
        )
    model: Any = network.language_model
    whole = _whole_modules(network, lora.modules_to_save)
    layers = _layers(model, lora)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(lora.seed)
        # peft looks for a model's card, which a part of a network doesn't have
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(
            LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=layers), model
        )
    for module in whole:
        module.requires_grad_(True)
    return layers


def _layers(model: nn.Module, lora: LoRA) -> list[str]:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    kinds = {_last(name) for name in linear}
    for target in lora.target_modules or ():
        if target not in kinds:
            raise ConfigError(
                f"lora target_modules names {target!r}; linear layers of the language model: {', '.join(sorted(kinds))}"
            )
    wanted = kinds if lora.target_modules is None else set(lora.target_modules)
    layers = [name for name in linear if _last(name) in wanted - set(lora.modules_to_save)]
    if not layers:
        raise ConfigError("lora target_modules are all in modules_to_save too; leave them out of one of both")
    return layers


def _whole_modules(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Modules of the language model, or its head, by the last part of their names."""
    parts = {
        name: module
        for name, module in network.named_modules()
        if any(part_of(f"{name}.{key}") in _OWN_PARTS for key, _ in module.named_parameters(recurse=False))
    }
    found = []
    for wanted in names:
        matches = [module for name, module in parts.items() if _last(name) == wanted]
        if not matches:
            known = ", ".join(sorted({_last(name) for name in parts}))
            raise ConfigError(f"lora modules_to_save names {wanted!r}; modules of the language model: {known}")
        found += matches
    return found


def _last(name: str) -> str:
    return name.rpartition(".")[2]
