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

"""The parts of a Sa2VA by parameter name: what is frozen, trained, saved or reported together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from monai_sa2va.errors import ConfigError

__all__ = ["LORA", "PARTS", "freeze", "part_of", "trainable_summary", "weights_hash"]

_QWEN = "mllm.model.visual."
_SAM2 = "grounding_encoder.sam2_model."

PARTS: dict[str, tuple[str, ...]] = {
    "vision_tower": (
        "mllm.model.vision_tower.",
        *(f"{_QWEN}{name}." for name in ("patch_embed", "pos_embed", "blocks")),
    ),
    "multi_modal_projector": ("mllm.model.multi_modal_projector.", _QWEN),
    "embeddings": ("mllm.model.language_model.embed_tokens.", "mllm.lm_head."),
    "language_model": ("mllm.model.language_model.",),
    "text_hidden_fcs": ("text_hidden_fcs.",),
    "grounding_encoder.image_encoder": (f"{_SAM2}image_encoder.",),
    "grounding_encoder.prompt_encoder": (f"{_SAM2}sam_prompt_encoder.",),
    "grounding_encoder.mask_decoder": (f"{_SAM2}sam_mask_decoder.",),
    "grounding_encoder.memory": (_SAM2,),
}
"""Prefixes of the parameter names of each part; a name belongs to the first part that matches."""

LORA = "lora"
"""The part that :func:`~monai_sa2va.networks.lora.add_lora` makes, whose parameters lie inside the language model."""


def part_of(name: str) -> str:
    """Name of the part that a parameter of :class:`~monai_sa2va.networks.sa2va.Sa2VA` belongs to.

    Raises:
        ConfigError: when no part has it.
    """
    if ".lora_" in name:
        return LORA
    for part, prefixes in PARTS.items():
        if name.startswith(prefixes):
            return part
    raise ConfigError(f"parameter {name!r} belongs to no part of Sa2VA")


def freeze(network: nn.Module, parts: Iterable[str]) -> nn.Module:
    """Freeze whole parts; all others are made trainable.

    Args:
        network: a Sa2VA.
        parts: names from :data:`PARTS`, or a common beginning such as ``"grounding_encoder"`` or ``""``.

    Returns:
        The same network, for use in a configuration.

    Raises:
        ConfigError: when a name matches no part, or nothing would be left to train.
    """
    names = list(parts)
    for name in names:
        if not any(_within(part, name) for part in PARTS):
            raise ConfigError(f"freeze: there is no part {name!r}; parts: {', '.join(PARTS)}")
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(not any(_within(part_of(key), name) for name in names))
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError(f"freeze: {names} leaves nothing to train")
    return network


def trainable_summary(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters by part: (trained, all), parts in the order of :data:`PARTS`, LoRA behind them where there is any."""
    totals = dict.fromkeys(PARTS, (0, 0))
    for part, count, trained in _counts(network):
        before = totals.get(part, (0, 0))
        totals[part] = (before[0] + (count if trained else 0), before[1] + count)
    return totals


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of all weights and buffers with their names, as 64 hexadecimal digits; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _counts(network: nn.Module) -> Iterator[tuple[str, int, bool]]:
    for key, parameter in network.named_parameters():
        yield part_of(key), parameter.numel(), parameter.requires_grad


def _within(part: str, name: str) -> bool:
    return name == "" or part == name or part.startswith(f"{name}.")
