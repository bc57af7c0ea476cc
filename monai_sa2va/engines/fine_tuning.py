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

"""Fine-tuning a network from a base, of which only what is trained is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from monai_sa2va.checkpoints.fingerprint import fingerprint
from monai_sa2va.errors import CheckpointError, ConfigError
from monai_sa2va.networks.lora import LoRA, add_lora

__all__ = ["FineTuning", "spare_memory"]

_FROZEN_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class FineTuning:
    """A network with the weights of its base, and what of it trains.

    Its ``state_dict()`` is that of the trained parameters alone, so in a checkpoint it stands where the network would.

    Args:
        network: a Sa2VA with the weights of its base, and frozen as
            :func:`~monai_sa2va.networks.parts.freeze` does it; it gets LoRA in place.
        lora: of the language model; ``None`` for none.

    Attributes:
        network: the same one.
        about: plain values that bind an adapter to its base, for :class:`~monai_sa2va.checkpoints.info.ModelInfo`:
            ``base`` (hashes of its weights), ``lora`` (settings or ``None``), ``trained`` (names of the parameters).

    Raises:
        ConfigError: as :func:`~monai_sa2va.networks.lora.add_lora`, and where nothing trains.
    """

    def __init__(self, network: nn.Module, lora: LoRA | None = None) -> None:
        base = fingerprint(network.state_dict())
        if lora is not None:
            add_lora(network, lora)
        self.network = network
        trained = sorted(self._trained())
        if not trained:
            raise ConfigError("lora is disabled and all parts are frozen, so nothing trains; switch a part on")
        self.about: dict[str, Any] = {
            "base": base,
            "lora": None if lora is None else lora.to_dict(),
            "trained": trained,
        }

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Trained parameters by name; LoRA's are called ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``."""
        return {name: parameter.detach() for name, parameter in self._trained().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put saved values in their place.

        Raises:
            CheckpointError: when they are not those of just the trained parameters.
        """
        own = self._trained()
        odd = sorted(
            key
            for key in own.keys() | state.keys()
            if key not in own or key not in state or own[key].shape != state[key].shape
        )
        if odd:
            raise CheckpointError(
                f"the checkpoint was written by a fine-tuning of other parameters ({odd[0]}, ...): go on with the same "
                "lora and trained, or start anew without resume"
            )
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(state[key])

    def _trained(self) -> dict[str, nn.Parameter]:
        # peft puts the name of one of several adapters in between
        return {
            name.replace(".default.", ".") if ".lora_" in name else name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }


def spare_memory(
    network: nn.Module, gradient_checkpointing: bool = False, frozen_dtype: str | None = None, amp: bool = False
) -> nn.Module:
    """Let a network train in less memory.

    Args:
        network: a Sa2VA, changed in place.
        gradient_checkpointing: compute the language model's activations anew in the backward pass: slower, and the
            same gradients.
        frozen_dtype: ``"bfloat16"`` halves what doesn't train, ``"float32"`` widens it; ``None`` leaves it. What trains
            is float32 where this is given: an optimizer's steps would be lost in the rounding of bfloat16.
        amp: whether the training autocasts, which parameters of two types need.

    Returns:
        The same network, for use in a configuration.

    Raises:
        ConfigError: when there is no such type, or bfloat16 is asked for without autocast.
    """
    if frozen_dtype is not None:
        if frozen_dtype not in _FROZEN_TYPES:
            raise ConfigError(f"frozen_dtype is {frozen_dtype!r}; give {' or '.join(_FROZEN_TYPES)}, or null")
        if frozen_dtype == "bfloat16" and not amp:
            raise ConfigError("frozen_dtype is bfloat16, which needs autocast: set amp, or leave frozen_dtype out")
        for parameter in network.parameters():
            if parameter.is_floating_point():
                dtype = torch.float32 if parameter.requires_grad else _FROZEN_TYPES[frozen_dtype]
                parameter.data = parameter.data.to(dtype)
    if gradient_checkpointing:
        model: Any = network
        model.gradient_checkpointing_enable()
    return network
