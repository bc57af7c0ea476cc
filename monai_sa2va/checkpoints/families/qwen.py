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
"""Qwen2.5-VL and Qwen3-VL: the whole multimodal LLM under ``model.``, by transformers' own names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from monai_sa2va.checkpoints.families.base import Family, required, required_part
from monai_sa2va.checkpoints.families.key_map import KeyRule
from monai_sa2va.checkpoints.families.shipped_template import shipped_template
from monai_sa2va.config import Sa2VAConfig, TextConfig
from monai_sa2va.data.tokenizer import load_tokenizer
from monai_sa2va.errors import CheckpointError
from monai_sa2va.qwen_config import Qwen3VisionConfig, Qwen25VisionConfig, QwenVisionConfig

__all__ = ["Qwen3Family", "Qwen25Family"]

_VISION = "mllm.model.visual."
_TEXT = "mllm.model.language_model."
_HEAD = KeyRule("model.lm_head.*", ("mllm.lm_head.*",))
_SPELLINGS: dict[str, tuple[KeyRule, ...]] = {
    "nested": (
        KeyRule("model.model.visual.**", (f"{_VISION}**",)),
        KeyRule("model.model.language_model.**", (f"{_TEXT}**",)),
        _HEAD,
    ),
    # as transformers wrote it up to 4.51
    "flat": (
        KeyRule("model.visual.**", (f"{_VISION}**",)),
        *(KeyRule(f"model.model.{part}", (f"{_TEXT}{part}",)) for part in ("embed_tokens.*", "layers.**", "norm.*")),
        _HEAD,
    ),
}

# the values of vision_config, by transformers' name and by ours
_VISION_FIELDS = {
    "depth": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "patch_size": "patch_size",
    "spatial_merge_size": "merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
)
# fields whose other values would need another network; absent, they have this value
_FIXED: dict[str, dict[str, Any]] = {
    "": {"tie_word_embeddings": False},
    "vision_config": {"in_channels": 3},
    "text_config": {
        "hidden_act": "silu", "tie_word_embeddings": False, "use_sliding_window": False, "attention_bias": False,
    },
}  # fmt: skip
_ROPE_TYPES = ("default", "mrope")


class _QwenFamily(Family):
    """What the two have in common.

    Attributes:
        vision_class: of the vision tower's geometry.
        vision_fields: what only this family's ``vision_config`` has, by transformers' name and by ours.
        vision_act: the activation of its vision tower.
        text_type: ``model_type`` of its language model.
        seg_state: where the reference reads [SEG].
    """

    vision_class: ClassVar[type[Qwen25VisionConfig] | type[Qwen3VisionConfig]]
    vision_fields: ClassVar[dict[str, str]]
    vision_act: ClassVar[str]
    text_type: ClassVar[str]
    seg_state: ClassVar[str]

    @abstractmethod
    def recognises(self, official: Mapping[str, Any]) -> bool:
        """Whether ``vision_config`` has what only this family's has."""

    def geometry(self, official: Mapping[str, Any]) -> dict[str, Any]:
        """Read ``vision_config``, and ``text_config`` or, as older checkpoints have it, its fields beside it.

        The range of pixels is no field of it: the reference's inference always takes the same.

        Raises:
            CheckpointError: when a field is missing, or has a value that the network can't be built with.
        """
        vision = required_part(official, "vision_config")
        text = required_part(official, "text_config") if official.get("text_config") else official
        fixed = {**_FIXED["vision_config"], "hidden_act": self.vision_act, "out_hidden_size": text.get("hidden_size")}
        parts = (
            ("", official, _FIXED[""]),
            ("vision_config", vision, fixed),
            ("text_config", text, _FIXED["text_config"]),
        )
        for part, values, expected in parts:
            for key, value in expected.items():
                if values.get(key, value) != value:
                    name = f"{part}.{key}" if part else key
                    raise CheckpointError(f"{name} of config.json is {values[key]!r}; this version reads {value!r}")
        return {"vision": self._vision(vision), "text": self._text(text), "seg_state": self.seg_state}

    def template(self, official: Mapping[str, Any], tokenizer: str) -> str:
        """The one in the folder, which the reference asks by, else the one that config.json names.

        Raises:
            CheckpointError: when it is none that is known.
        """
        return shipped_template(Path(tokenizer)) or super().template(official, tokenizer)

    def new_config(self, config: Sa2VAConfig) -> dict[str, Any]:
        """Write what :meth:`geometry` reads, and the ids of the tokens that stand for a picture."""
        vision, text = config.vision, config.text
        assert isinstance(vision, QwenVisionConfig)
        tokenizer = load_tokenizer(config)
        ids = {
            f"{name}_token_id": int(tokenizer.convert_tokens_to_ids(token))
            for name, token in (
                ("image", "<|image_pad|>"),
                ("vision_start", "<|vision_start|>"),
                ("vision_end", "<|vision_end|>"),
            )
        }
        fields = {**_VISION_FIELDS, **self.vision_fields}
        written = {name: getattr(vision, ours) for name, ours in fields.items()}
        return {
            "architectures": ["Sa2VAChatModelQwen"],
            **ids,
            "tie_word_embeddings": False,
            "vision_config": {
                **{name: list(value) if isinstance(value, tuple) else value for name, value in written.items()},
                "hidden_act": self.vision_act,
                "in_channels": 3,
                "initializer_range": vision.initializer_range,
                "model_type": self.name,
                "out_hidden_size": text.hidden_size,
            },
            "text_config": {
                **{name: getattr(text, name) for name in _TEXT_FIELDS},
                **({} if text.head_dim is None else {"head_dim": text.head_dim}),
                "hidden_act": "silu",
                "initializer_range": text.initializer_range,
                "model_type": self.text_type,
                "rope_scaling": {"rope_type": "default", **(text.rope_scaling or {})},
                "rope_theta": text.rope_theta,
                "tie_word_embeddings": False,
            },
        }

    def mllm_rules(self, config: Sa2VAConfig) -> Mapping[str, Sequence[KeyRule]]:
        """All under one ``model.``, as transformers writes it now and as it did."""
        return _SPELLINGS

    def _vision(self, values: Mapping[str, Any]) -> Qwen25VisionConfig | Qwen3VisionConfig:
        fields = {**_VISION_FIELDS, **self.vision_fields}
        read: dict[str, Any] = {
            "initializer_range": values.get("initializer_range", QwenVisionConfig.initializer_range)
        }
        for name, ours in fields.items():
            value = required(values, name, "vision_config")
            read[ours] = tuple(value) if isinstance(value, list) else value
        return self.vision_class(**read)

    def _text(self, values: Mapping[str, Any]) -> TextConfig:
        rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _ROPE_TYPES:
            raise CheckpointError(
                f"the rope_type of config.json is {kind!r}; this version reads {' and '.join(_ROPE_TYPES)}"
            )
        section = {"mrope_section": list(required(rope, "mrope_section", "text_config.rope_scaling"))}
        interleaved = {key: rope[key] for key in ("mrope_interleaved",) if key in rope}
        # transformers 5 put it among the rope's own parameters
        theta = values.get("rope_theta", rope.get("rope_theta"))
        if theta is None:
            raise CheckpointError("config.json has no text_config.rope_theta; give the whole checkpoint")
        return TextConfig(
            model_type=self.text_type,
            **{name: required(values, name, "text_config") for name in _TEXT_FIELDS},
            rope_theta=float(theta),
            initializer_range=values.get("initializer_range", TextConfig.initializer_range),
            rope_scaling={**section, **interleaved},
            head_dim=values.get("head_dim"),
        )


def _vision_has(official: Mapping[str, Any], key: str) -> bool:
    vision = official.get("vision_config")
    return isinstance(vision, Mapping) and key in vision


class Qwen25Family(_QwenFamily):
    """Sa2VA-Qwen2_5-VL."""

    name = "qwen2_5_vl"
    vision_class = Qwen25VisionConfig
    vision_fields: ClassVar[dict[str, str]] = {
        "window_size": "window_size",
        "fullatt_block_indexes": "full_attention_layers",
    }
    vision_act = "silu"
    text_type = "qwen2_5_vl_text"
    seg_state = "post_norm"

    def recognises(self, official: Mapping[str, Any]) -> bool:
        """Whether ``vision_config`` names layers with attention over the whole picture."""
        return _vision_has(official, "fullatt_block_indexes")


class Qwen3Family(_QwenFamily):
    """Sa2VA-Qwen3-VL, whose [SEG] the reference reads before the final norm."""

    name = "qwen3_vl"
    vision_class = Qwen3VisionConfig
    vision_fields: ClassVar[dict[str, str]] = {
        "num_position_embeddings": "num_position_embeddings",
        "deepstack_visual_indexes": "deepstack_layers",
    }
    vision_act = "gelu_pytorch_tanh"
    text_type = "qwen3_vl_text"
    seg_state = "pre_norm"

    def recognises(self, official: Mapping[str, Any]) -> bool:
        """Whether ``vision_config`` has deepstack."""
        return _vision_has(official, "deepstack_visual_indexes")
