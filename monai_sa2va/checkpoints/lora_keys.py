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

"""Weights that were stored with LoRA beside them, as peft's wrapper names them: merged where a config says how."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monai_sa2va.checkpoints.companions import ADAPTER_CONFIG
from monai_sa2va.checkpoints.shards import WeightFiles, read_json
from monai_sa2va.errors import CheckpointError

__all__ = ["RANK_FIELDS", "MergedWeights", "merge_lora", "refuse_lora"]

RANK_FIELDS = {"language_model.": "use_llm_lora", "vision_model.": "use_backbone_lora"}
"""Fields of InternVL's config.json that give the rank of a part's LoRA; the reference's alpha is always twice that."""

_LORA = re.compile(r"(^|\.)(lora_[A-Za-z_]+|base_model|base_layer|modules_to_save|original_module)\.")
_WRAPPED = re.compile(r"(?P<part>(?:[^.]+\.)*?)base_model\.model\.(?P<key>.+)")
_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(\.[^.]+)?\.weight")
_TRAINED_WHOLE = re.compile(r"\.modules_to_save\.[^.]+\.")
# fields of adapter_config.json with which the product is another than B A alpha / rank
_PLAIN = {"use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False}
_ADVICE = "give the weights with LoRA merged, or the adapter with its config and its base"


class _Factors(NamedTuple):
    """Keys of a layer's LoRA, and what its product is multiplied by."""

    a: str
    b: str
    scale: float


class MergedWeights(WeightFiles):
    """Weights with LoRA as if it had been merged before they were stored.

    Args:
        weights: as they are stored.
        plain: stored key by the key without LoRA.
        factors: of the layers that have LoRA, by the key of the layer's weight without it.
    """

    def __init__(self, weights: WeightFiles, plain: Mapping[str, str], factors: Mapping[str, _Factors]) -> None:
        super().__init__({})
        self._weights, self._plain, self._factors = weights, dict(plain), dict(factors)
        for key, stored in plain.items():
            self.shapes[key], self.dtypes[key] = weights.shapes[stored], weights.dtypes[stored]
            self.files[key] = weights.files[stored]

    def stored(self, key: str) -> tuple[str, ...]:
        """The stored keys that a tensor is made of: its own, and those of its LoRA."""
        found = self._factors.get(key)
        return (self._plain[key],) if found is None else (self._plain[key], found.a, found.b)

    def tensor(self, key: str) -> torch.Tensor:
        """One tensor, with its LoRA added in float32 or better, of the type in which it is stored."""
        value = self._weights.tensor(self._plain[key])
        found = self._factors.get(key)
        if found is None:
            return value
        precise = torch.promote_types(value.dtype, torch.float32)
        a, b = (self._weights.tensor(name).to(precise) for name in (found.a, found.b))
        return (value.to(precise) + (b @ a) * found.scale).to(value.dtype)


def refuse_lora(weights: WeightFiles) -> WeightFiles:
    """Weights in which nothing is LoRA's.

    Raises:
        CheckpointError: when a key is.
    """
    lora = next((key for key in weights if _LORA.search(key)), None)
    if lora is not None:
        raise CheckpointError(
            f"{weights.files[lora]} holds the LoRA key {lora}, and nothing says how it is applied; {_ADVICE}"
        )
    return weights


def merge_lora(weights: WeightFiles, official: Mapping[str, Any], folder: Path) -> WeightFiles:
    """Weights without LoRA: as they are, or with LoRA merged into them where a config gives its rank and alpha.

    Args:
        weights: of an official checkpoint.
        official: its config.json, whose :data:`RANK_FIELDS` count first, as in the reference.
        folder: of the checkpoint, where :data:`ADAPTER_CONFIG` counts for all other parts.

    Raises:
        CheckpointError: when there is LoRA and no config of it, or the two don't fit each other.
    """
    if not any(_LORA.search(key) for key in weights):
        return weights
    plain: dict[str, str] = {}
    factors: dict[str, dict[str, str]] = {}
    parts: dict[str, str] = {}
    for stored in weights:
        part, key = _unwrapped(stored)
        factor = _FACTOR.fullmatch(key)
        if factor is not None:
            layer = f"{factor['layer']}.weight"
            parts[layer] = part
            if factors.setdefault(layer, {}).setdefault(factor["side"], stored) != stored:
                raise CheckpointError(f"{weights.files[stored]} holds several LoRAs of {layer}; {_ADVICE}")
        elif ".original_module." not in key:
            key = _TRAINED_WHOLE.sub(".", key.replace(".base_layer.", "."))
            if _LORA.search(key):
                raise CheckpointError(
                    f"{weights.files[stored]} holds {stored}, which this version can't merge; {_ADVICE}"
                )
            if key in plain:
                raise CheckpointError(f"{plain[key]} and {stored} are of one tensor; {_ADVICE}")
            plain[key] = stored
    scales = {part: _scale(part, official, folder) for part in set(parts.values())}
    merged = {}
    for layer, pair in factors.items():
        found = scales[parts[layer]]
        if found is None:
            break
        rank, scale = found
        if layer not in plain or pair.keys() != {"A", "B"}:
            raise CheckpointError(
                f"{weights.files[next(iter(pair.values()))]} holds no weight, A and B of LoRA for {layer}; {_ADVICE}"
            )
        rows, columns = (*weights.shapes[plain[layer]], 0)[:2]
        if (weights.shapes[pair["A"]], weights.shapes[pair["B"]]) != ((rank, columns), (rows, rank)):
            raise CheckpointError(
                f"LoRA of {layer} isn't of rank {rank}, as its config says, or of another weight; {_ADVICE}"
            )
        merged[layer] = _Factors(pair["A"], pair["B"], scale)
    return MergedWeights(weights, plain, merged) if merged and len(merged) == len(factors) else refuse_lora(weights)


def _unwrapped(key: str) -> tuple[str, str]:
    """The part of the network that peft wrapped, and the key as it is without the wrapper."""
    found = _WRAPPED.fullmatch(key)
    return ("", key) if found is None else (found["part"], found["part"] + found["key"])


def _scale(part: str, official: Mapping[str, Any], folder: Path) -> tuple[int, float] | None:
    """Rank of a part's LoRA, and what its products are multiplied by; ``None`` where nothing says it."""
    rank = official.get(RANK_FIELDS.get(part, ""))
    if rank:
        return _checked(rank, 2 * rank, f"{RANK_FIELDS[part]} of config.json")
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    told = read_json(folder / ADAPTER_CONFIG)
    odd = [key for key, value in {"peft_type": "LORA", **_PLAIN}.items() if (told.get(key) or value) != value]
    if odd:
        raise CheckpointError(
            f"{odd[0]} of {ADAPTER_CONFIG} is {told[odd[0]]!r}, which this version can't merge; {_ADVICE}"
        )
    return _checked(told.get("r"), told.get("lora_alpha"), f"r or lora_alpha of {ADAPTER_CONFIG}")


def _checked(rank: Any, alpha: Any, where: str) -> tuple[int, float]:
    whole, plain = isinstance(rank, int) and not isinstance(rank, bool), isinstance(alpha, int | float)
    if not whole or not plain or rank <= 0 or not 0 < alpha < math.inf:
        raise CheckpointError(f"{where} is no number above 0; {_ADVICE}")
    return rank, alpha / rank
