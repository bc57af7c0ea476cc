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

"""The families of official checkpoints: their keys and their configuration, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_sa2va.checkpoints.families.base import OFFICIAL_MODEL_TYPE, Family
from monai_sa2va.checkpoints.families.internvl import InternVLFamily
from monai_sa2va.checkpoints.families.qwen import Qwen3Family, Qwen25Family
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError

__all__ = ["FAMILIES", "detect_family", "family_of"]

# in the order in which a config.json is looked at
_ALL: tuple[Family, ...] = (InternVLFamily(), Qwen3Family(), Qwen25Family())

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""Families by :attr:`~monai_sa2va.config.Sa2VAConfig.family`."""


def family_of(config: Sa2VAConfig) -> Family:
    """The family of a network.

    Raises:
        CheckpointError: when no official checkpoint is of its family.
    """
    if config.family not in FAMILIES:
        raise CheckpointError(f"family is {config.family!r}; official checkpoints are {', '.join(FAMILIES)}")
    return FAMILIES[config.family]


def detect_family(official: Mapping[str, Any]) -> Family:
    """The family of an official checkpoint.

    Args:
        official: the content of its config.json.

    Raises:
        CheckpointError: when it is no Sa2VA's, has SAM 3 instead of SAM 2, or is of a family that isn't known.
    """
    if any("sam3" in str(part).lower() for part in _grounding_fields(official)):
        raise CheckpointError("config.json is of a checkpoint with SAM 3; this version reads those with SAM 2")
    model_type = official.get("model_type")
    if model_type != OFFICIAL_MODEL_TYPE:
        raise CheckpointError(
            f"model_type of config.json is {model_type!r}; expected {OFFICIAL_MODEL_TYPE!r}, as in Sa2VA's checkpoints"
        )
    for family in FAMILIES.values():
        if family.recognises(official):
            return family
    raise CheckpointError(
        f"config.json is of no family that this version reads ({', '.join(FAMILIES)}); "
        f"its architectures: {official.get('architectures')}"
    )


def _grounding_fields(official: Mapping[str, Any]) -> list[Any]:
    """Fields of a config.json that could name the grounding encoder."""
    named = [key for key in official if "sam" in key.lower() or "grounding" in key.lower()]
    return [*named, *(official[key] for key in named), official.get("architectures"), official.get("auto_map")]
