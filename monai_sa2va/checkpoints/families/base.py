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

"""What the checkpoints of one family of multimodal LLM have in common, and all families among them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any, ClassVar

from monai_sa2va.checkpoints.families.key_map import KeyRule, Layout
from monai_sa2va.config import GroundingConfig, Sa2VAConfig
from monai_sa2va.errors import CheckpointError, ConfigError
from monai_sa2va.transforms.chat import CHAT_TEMPLATES

__all__ = ["OFFICIAL_MODEL_TYPE", "Family", "required", "required_part", "with_layout"]

OFFICIAL_MODEL_TYPE = "sa2va_chat"
"""``model_type`` in the config.json of every official checkpoint."""

_SAM2 = "grounding_encoder.sam2_model."
_LAYER_SCALE = f"{_SAM2}memory_encoder.fuser.layers.*."
_SHARED = (
    KeyRule("text_hidden_fcs.**", ("text_hidden_fcs.**",)),
    KeyRule(f"{_SAM2}**", (f"{_SAM2}**",)),
)
# official checkpoints renamed SAM2's gamma, which old releases of transformers rewrote to weight when they loaded it
_LAYER_SCALES = {"g_weight": f"{_LAYER_SCALE}g_weight", "gamma": f"{_LAYER_SCALE}gamma"}


class Family(ABC):
    """Keys and configuration of one family, both ways. It holds no state; one instance is registered.

    Attributes:
        name: as :attr:`Sa2VAConfig.family` has it.
    """

    name: ClassVar[str]

    @abstractmethod
    def recognises(self, official: Mapping[str, Any]) -> bool:
        """Whether a config.json (of ``model_type`` ``sa2va_chat``) is of this family."""

    @abstractmethod
    def geometry(self, official: Mapping[str, Any]) -> dict[str, Any]:
        """What a config.json says of the network, as keyword arguments of :class:`Sa2VAConfig`.

        ``name``, ``family``, ``template``, ``tokenizer``, ``grounding`` and ``origin`` are not among them.

        Raises:
            CheckpointError: when a field is missing, or has a value that the network can't be built with.
        """

    @abstractmethod
    def new_config(self, config: Sa2VAConfig) -> dict[str, Any]:
        """The config.json of a network that never had one: what :meth:`geometry` reads, and ``architectures``."""

    @abstractmethod
    def mllm_rules(self, config: Sa2VAConfig) -> Mapping[str, Sequence[KeyRule]]:
        """Rules for the keys of the multimodal LLM, by name of the spelling; the published one first."""

    def read_config(
        self, official: Mapping[str, Any], *, name: str, tokenizer: str, grounding: GroundingConfig
    ) -> Sa2VAConfig:
        """The configuration of an official checkpoint.

        Args:
            official: the content of its config.json.
            name: what the network is called.
            tokenizer: folder of its tokenizer.
            grounding: SAM2's geometry, which a config.json doesn't hold.

        Raises:
            CheckpointError: when a field is missing, or has a value that the network can't be built with.
        """
        template = self.template(official, tokenizer)
        try:
            geometry = self.geometry(official)
            # by way of plain values, whose types are looked at
            plain = {key: _plain(value) for key, value in geometry.items()}
            return Sa2VAConfig.from_dict(
                {
                    "name": name,
                    "family": self.name,
                    "template": template,
                    "tokenizer": tokenizer,
                    "grounding": grounding,
                    "origin": {"config": copy.deepcopy(dict(official))},
                    **plain,
                }
            )
        except ConfigError as error:
            raise CheckpointError(f"config.json: {error.args[0]}") from error
        except CheckpointError:
            raise
        # whatever else is made of a value of another kind
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"config.json has a value of the wrong kind ({error}); take the one that came with the checkpoint"
            ) from error

    def template(self, official: Mapping[str, Any], tokenizer: str) -> str:
        """Name of the chat template of an official checkpoint.

        Args:
            official: the content of its config.json.
            tokenizer: folder of its tokenizer.

        Raises:
            CheckpointError: when it names none, or none that is known.
        """
        template = required(official, "template")
        if not isinstance(template, str) or template not in CHAT_TEMPLATES:
            raise CheckpointError(f"template of config.json is {template!r}; known: {', '.join(CHAT_TEMPLATES)}")
        return str(template)

    def write_config(self, config: Sa2VAConfig) -> dict[str, Any]:
        """The config.json of a network: the very one it came with, or a new one.

        Raises:
            CheckpointError: when the network no longer is what its config.json says.
        """
        came_with = (config.origin or {}).get("config")
        result: dict[str, Any] = (
            {"model_type": OFFICIAL_MODEL_TYPE, "template": config.template, **self.new_config(config)}
            if came_with is None
            else copy.deepcopy(came_with)
        )
        told = self.read_config(result, name=config.name, tokenizer=config.tokenizer, grounding=config.grounding)
        keys = ("template", *self.geometry(result))
        odd = [key for key in keys if getattr(told, key) != getattr(config, key)]
        if odd:
            raise CheckpointError(
                f"config.json can't say {', '.join(odd)} of this network, whose values are no official ones"
            )
        return result

    def layouts(self, config: Sa2VAConfig) -> tuple[Layout, ...]:
        """All spellings of this family's keys, the published one first."""
        return tuple(
            Layout(
                f"{spelling}/{scale}",
                (*rules, KeyRule(key, (_LAYER_SCALES["gamma"],)), *_SHARED),
            )
            for spelling, rules in self.mllm_rules(config).items()
            for scale, key in _LAYER_SCALES.items()
        )

    def layout(self, config: Sa2VAConfig) -> Layout:
        """The spelling that a network came in; the published one where it doesn't remember any."""
        known = {layout.name: layout for layout in self.layouts(config)}
        name = (config.origin or {}).get("layout", next(iter(known)))
        if name not in known:
            raise CheckpointError(
                f"the layout {name!r} of this checkpoint's keys is unknown; known: {', '.join(known)}"
            )
        return known[name]


def with_layout(config: Sa2VAConfig, layout: Layout) -> Sa2VAConfig:
    """The configuration, which remembers in which spelling its checkpoint came."""
    return replace(config, origin={**(config.origin or {}), "layout": layout.name})


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def required_part(official: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a config.json that has to be there, and an object.

    Raises:
        CheckpointError: when it is missing, or something else.
    """
    value = required(official, key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{key} of config.json is a {type(value).__name__}; an object is expected")
    return value


def required(values: Mapping[str, Any], key: str, where: str = "") -> Any:
    """A field of a config.json that has to be there.

    Args:
        values: the part of the config.json that holds it.
        key: its name.
        where: name of that part, for the message.

    Raises:
        CheckpointError: when it is missing.
    """
    if key not in values:
        raise CheckpointError(f"config.json has no {where + '.' if where else ''}{key}; give the whole checkpoint")
    return values[key]
