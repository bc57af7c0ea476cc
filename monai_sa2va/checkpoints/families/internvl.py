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

"""InternVL 2.5 and 3: InternViT-300M or -6B with a Qwen2 or InternLM2 language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_sa2va.checkpoints.families.base import Family, required, required_part
from monai_sa2va.checkpoints.families.key_map import FusedRows, KeyRule
from monai_sa2va.config import Sa2VAConfig, TextConfig, VisionConfig
from monai_sa2va.errors import CheckpointError

__all__ = ["InternVLFamily"]

_VISION = "mllm.model.vision_tower."
_LAYER = f"{_VISION}encoder.layer.*."
_OFFICIAL_LAYER = "vision_model.encoder.layers.*."
_PROJECTOR = "mllm.model.multi_modal_projector."
_TEXT = "mllm.model.language_model."
_TEXT_LAYER = f"{_TEXT}layers.*."
_INTERNLM2 = "language_model.model."
_INTERNLM2_LAYER = f"{_INTERNLM2}layers.*."

_INTERNVIT = (
    KeyRule("vision_model.embeddings.class_embedding", (f"{_VISION}embeddings.cls_token",)),
    KeyRule("vision_model.embeddings.position_embedding", (f"{_VISION}embeddings.position_embeddings",)),
    KeyRule("vision_model.embeddings.patch_embedding.*", (f"{_VISION}embeddings.patch_embeddings.projection.*",)),
    KeyRule(f"{_OFFICIAL_LAYER}ls1", (f"{_LAYER}lambda_1",)),
    KeyRule(f"{_OFFICIAL_LAYER}ls2", (f"{_LAYER}lambda_2",)),
    KeyRule(
        f"{_OFFICIAL_LAYER}attn.qkv.*",
        tuple(f"{_LAYER}attention.{part}_proj.*" for part in "qkv"),
        FusedRows(1, (1, 1, 1)),
    ),
    KeyRule(f"{_OFFICIAL_LAYER}attn.proj.*", (f"{_LAYER}attention.projection_layer.*",)),
    KeyRule(f"{_OFFICIAL_LAYER}attn.q_norm.*", (f"{_LAYER}attention.q_norm.*",)),
    KeyRule(f"{_OFFICIAL_LAYER}attn.k_norm.*", (f"{_LAYER}attention.k_norm.*",)),
    KeyRule(f"{_OFFICIAL_LAYER}mlp.**", (f"{_LAYER}mlp.**",)),
    KeyRule(f"{_OFFICIAL_LAYER}norm1.*", (f"{_LAYER}layernorm_before.*",)),
    KeyRule(f"{_OFFICIAL_LAYER}norm2.*", (f"{_LAYER}layernorm_after.*",)),
    KeyRule("mlp1.0.*", (f"{_PROJECTOR}layer_norm.*",)),
    KeyRule("mlp1.1.*", (f"{_PROJECTOR}linear_1.*",)),
    KeyRule("mlp1.3.*", (f"{_PROJECTOR}linear_2.*",)),
)
_QWEN2 = (
    KeyRule("language_model.model.**", (f"{_TEXT}**",)),
    KeyRule("language_model.lm_head.*", ("mllm.lm_head.*",)),
)


def _internlm2_rules(text: TextConfig) -> tuple[KeyRule, ...]:
    queries = text.num_attention_heads // text.num_key_value_heads
    return (
        KeyRule(f"{_INTERNLM2}tok_embeddings.*", (f"{_TEXT}embed_tokens.*",)),
        KeyRule(
            f"{_INTERNLM2_LAYER}attention.wqkv.*",
            tuple(f"{_TEXT_LAYER}self_attn.{part}_proj.*" for part in "qkv"),
            FusedRows(text.num_key_value_heads, (queries, 1, 1)),
        ),
        KeyRule(f"{_INTERNLM2_LAYER}attention.wo.*", (f"{_TEXT_LAYER}self_attn.o_proj.*",)),
        KeyRule(f"{_INTERNLM2_LAYER}feed_forward.w1.*", (f"{_TEXT_LAYER}mlp.gate_proj.*",)),
        KeyRule(f"{_INTERNLM2_LAYER}feed_forward.w2.*", (f"{_TEXT_LAYER}mlp.down_proj.*",)),
        KeyRule(f"{_INTERNLM2_LAYER}feed_forward.w3.*", (f"{_TEXT_LAYER}mlp.up_proj.*",)),
        KeyRule(f"{_INTERNLM2_LAYER}attention_norm.*", (f"{_TEXT_LAYER}input_layernorm.*",)),
        KeyRule(f"{_INTERNLM2_LAYER}ffn_norm.*", (f"{_TEXT_LAYER}post_attention_layernorm.*",)),
        KeyRule(f"{_INTERNLM2}norm.*", (f"{_TEXT}norm.*",)),
        KeyRule("language_model.output.*", ("mllm.lm_head.*",)),
    )


# architectures[0] of llm_config -> model type of transformers' own class
_LLMS = {"Qwen2ForCausalLM": "qwen2", "InternLM2ForCausalLM": "llama"}
# fields whose other values would need another network; where one is absent, the reference's class has this value
_FIXED: dict[str, dict[str, Any]] = {
    "": {"select_layer": -1, "ps_version": "v2", "pad2square": False},
    "vision_config": {"hidden_act": "gelu", "num_channels": 3},
    "llm_config": {"hidden_act": "silu", "bias": False, "use_sliding_window": False, "tie_word_embeddings": False},
}


class InternVLFamily(Family):
    """Sa2VA-1B to -26B, Sa2VA-InternVL3 and UniBiomed."""

    name = "internvl"

    def recognises(self, official: Mapping[str, Any]) -> bool:
        """Whether the config.json holds ``llm_config``, as InternVL's do."""
        return "llm_config" in official

    def geometry(self, official: Mapping[str, Any]) -> dict[str, Any]:
        """Read ``vision_config``, ``llm_config`` and ``downsample_ratio``.

        Tiling is no field of it: the reference's inference always takes 1 to 12 tiles and a thumbnail.

        Raises:
            CheckpointError: when a field is missing, or has a value that the network can't be built with.
        """
        vision, text = required_part(official, "vision_config"), required_part(official, "llm_config")
        for part, values in (("", official), ("vision_config", vision), ("llm_config", text)):
            for key, value in _FIXED[part].items():
                if values.get(key, value) != value:
                    name = f"{part}.{key}" if part else key
                    raise CheckpointError(f"{name} of config.json is {values[key]!r}; this version reads {value!r}")
        tile = official.get("force_image_size") or vision.get("image_size")
        if tile != vision.get("image_size"):
            raise CheckpointError(
                f"force_image_size of config.json is {tile}, vision_config.image_size {vision.get('image_size')}; "
                "this version reads checkpoints where they agree"
            )
        return {
            "vision": _vision(vision),
            "text": _text(text),
            "downsample_ratio": float(required(official, "downsample_ratio")),
        }

    def new_config(self, config: Sa2VAConfig) -> dict[str, Any]:
        """Write what :meth:`geometry` reads."""
        vision, text = config.vision, config.text
        assert isinstance(vision, VisionConfig)
        rope = text.rope_scaling
        names = {model_type: name for name, model_type in _LLMS.items()}
        if text.model_type not in names:
            raise CheckpointError(f"text.model_type is {text.model_type!r}; no official checkpoint has such an LLM")
        return {
            "architectures": ["Sa2VAChatModel"],
            "downsample_ratio": config.downsample_ratio,
            "dynamic_image_size": True,
            "force_image_size": vision.image_size,
            "hidden_size": text.hidden_size,
            "max_dynamic_patch": config.max_tiles,
            "min_dynamic_patch": config.min_tiles,
            "pad2square": False,
            "ps_version": "v2",
            "select_layer": -1,
            "tie_word_embeddings": False,
            "use_backbone_lora": 0,
            "use_llm_lora": 0,
            "use_thumbnail": config.use_thumbnail,
            "vision_config": {
                "architectures": ["InternVisionModel"],
                "hidden_act": "gelu",
                "hidden_size": vision.hidden_size,
                "image_size": vision.image_size,
                "initializer_factor": vision.layer_scale_init,
                "initializer_range": vision.initializer_range,
                "intermediate_size": vision.intermediate_size,
                "layer_norm_eps": vision.layer_norm_eps,
                "model_type": "intern_vit_6b",
                "norm_type": vision.norm_type,
                "num_attention_heads": vision.num_attention_heads,
                "num_channels": 3,
                "num_hidden_layers": vision.num_hidden_layers,
                "patch_size": vision.patch_size,
                "qk_normalization": vision.qk_norm,
                "qkv_bias": vision.qkv_bias,
            },
            "llm_config": {
                "architectures": [names[text.model_type]],
                "hidden_act": "silu",
                "hidden_size": text.hidden_size,
                "initializer_range": text.initializer_range,
                "intermediate_size": text.intermediate_size,
                "max_position_embeddings": text.max_position_embeddings,
                "model_type": "qwen2" if text.model_type == "qwen2" else "internlm2",
                "num_attention_heads": text.num_attention_heads,
                "num_hidden_layers": text.num_hidden_layers,
                "num_key_value_heads": text.num_key_value_heads,
                "rms_norm_eps": text.rms_norm_eps,
                "rope_scaling": rope and {("type" if key == "rope_type" else key): v for key, v in rope.items()},
                "rope_theta": text.rope_theta,
                "tie_word_embeddings": False,
                "vocab_size": text.vocab_size,
            },
        }

    def mllm_rules(self, config: Sa2VAConfig) -> Mapping[str, Sequence[KeyRule]]:
        """InternViT's keys, and those of the language model that the checkpoint has."""
        if config.text.model_type == "llama":
            return {"internlm2": (*_INTERNVIT, *_internlm2_rules(config.text))}
        return {"qwen2": (*_INTERNVIT, *_QWEN2)}


def _vision(values: Mapping[str, Any]) -> VisionConfig:
    def get(key: str) -> Any:
        return required(values, key, "vision_config")

    return VisionConfig(
        hidden_size=get("hidden_size"),
        num_hidden_layers=get("num_hidden_layers"),
        num_attention_heads=get("num_attention_heads"),
        intermediate_size=get("intermediate_size"),
        image_size=get("image_size"),
        patch_size=get("patch_size"),
        norm_type=get("norm_type"),
        qkv_bias=get("qkv_bias"),
        qk_norm=get("qk_normalization"),
        layer_norm_eps=get("layer_norm_eps"),
        layer_scale_init=values.get("initializer_factor", VisionConfig.layer_scale_init),
        initializer_range=values.get("initializer_range", VisionConfig.initializer_range),
    )


def _text(values: Mapping[str, Any]) -> TextConfig:
    def get(key: str) -> Any:
        return required(values, key, "llm_config")

    architectures = get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else architectures
    if not isinstance(architecture, str) or architecture not in _LLMS:
        raise CheckpointError(
            f"llm_config.architectures of config.json is {architecture!r}; this version reads {', '.join(_LLMS)}"
        )
    rope = values.get("rope_scaling")
    return TextConfig(
        model_type=_LLMS[architecture],
        vocab_size=get("vocab_size"),
        hidden_size=get("hidden_size"),
        num_hidden_layers=get("num_hidden_layers"),
        num_attention_heads=get("num_attention_heads"),
        num_key_value_heads=get("num_key_value_heads"),
        intermediate_size=get("intermediate_size"),
        max_position_embeddings=get("max_position_embeddings"),
        rope_theta=float(get("rope_theta")),
        rms_norm_eps=get("rms_norm_eps"),
        initializer_range=values.get("initializer_range", TextConfig.initializer_range),
        # transformers once called it type
        rope_scaling=rope and {("rope_type" if key == "type" else key): value for key, value in rope.items()},
    )
