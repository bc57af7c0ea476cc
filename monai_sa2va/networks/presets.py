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

"""Named geometries: small ones that train from random weights, and those of the official checkpoints."""

from __future__ import annotations

from monai_sa2va.config import GroundingConfig, Sa2VAConfig, TextConfig, VisionConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.qwen_config import Qwen3VisionConfig, Qwen25VisionConfig

__all__ = ["PRESETS", "get_preset"]

_INTERNVIT_300M = VisionConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
_INTERNVIT_6B = VisionConfig(
    hidden_size=3200,
    num_hidden_layers=45,
    num_attention_heads=25,
    intermediate_size=12800,
    norm_type="rms_norm",
    qkv_bias=False,
    qk_norm=True,
)


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> TextConfig:
    # 151674 tokens of InternVL's Qwen2 tokenizer and the five that Sa2VA adds
    return TextConfig("qwen2", 151679, hidden, layers, heads, kv_heads, intermediate)


def _internlm2(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> TextConfig:
    # 92553 tokens of InternVL's InternLM2 tokenizer and the five that Sa2VA adds
    return TextConfig(
        "llama",
        92558,
        hidden,
        layers,
        heads,
        kv_heads,
        intermediate,
        rms_norm_eps=1e-5,
        rope_scaling={"rope_type": "dynamic", "factor": 2.0},
    )


def _official(name: str, template: str, text: TextConfig, vision: VisionConfig = _INTERNVIT_300M) -> Sa2VAConfig:
    return Sa2VAConfig(name=name, vision=vision, text=text, template=template)


def _qwen2_5_vl(name: str, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> Sa2VAConfig:
    return Sa2VAConfig(
        name=name,
        family="qwen2_5_vl",
        vision=Qwen25VisionConfig(1280, 32, 16, 3420),
        text=TextConfig(
            "qwen2_5_vl_text",
            # 151665 tokens of Qwen2.5-VL's tokenizer and the five that Sa2VA adds
            151670,
            hidden,
            layers,
            heads,
            kv_heads,
            intermediate,
            max_position_embeddings=128000,
            rope_scaling={"mrope_section": [16, 24, 24]},
        ),
    )


PRESETS: dict[str, Sa2VAConfig] = {
    preset.name: preset
    for preset in (
        Sa2VAConfig(
            name="tiny",
            vision=VisionConfig(
                hidden_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=192,
                image_size=112,
                layer_scale_init=1.0,
                initializer_range=0.06,
            ),
            text=TextConfig(
                "qwen2",
                267,
                192,
                3,
                3,
                1,
                512,
                max_position_embeddings=8192,
                rope_theta=1e4,
                # found by trial: at 0.02 two prompts share one mask for about 300 steps longer
                initializer_range=0.06,
            ),
            grounding=GroundingConfig(
                # by trial: at 256 a step takes 1.5 times as long on two cores; sharper masks don't make up for it
                image_size=192,
                hidden_dim=128,
                embed_dim=32,
                num_heads=1,
                stages=(1, 2, 3, 1),
                global_att_blocks=(5,),
                window_spec=(8, 4, 12, 6),
                feedforward_dim=256,
                iou_head_hidden_dim=64,
                memory_layers=2,
                memory_feedforward_dim=256,
                round_constants_to_bf16=False,
            ),
            projector_hidden=256,
            answer_form="named",
            max_tiles=1,
        ),
        Sa2VAConfig(
            name="small",
            vision=VisionConfig(
                hidden_size=256,
                num_hidden_layers=4,
                num_attention_heads=8,
                intermediate_size=768,
                image_size=224,
                layer_scale_init=1.0,
                initializer_range=0.05,
            ),
            text=TextConfig(
                "qwen2",
                267,
                320,
                6,
                10,
                2,
                960,
                max_position_embeddings=8192,
                rope_theta=1e4,
                initializer_range=0.05,
            ),
            grounding=GroundingConfig(
                image_size=512,
                embed_dim=48,
                num_heads=1,
                stages=(1, 2, 7, 2),
                global_att_blocks=(5, 7, 9),
                window_spec=(8, 4, 14, 7),
                feedforward_dim=512,
                memory_layers=2,
                memory_feedforward_dim=512,
                round_constants_to_bf16=False,
            ),
            projector_hidden=256,
            answer_form="named",
            max_tiles=4,
        ),
        _official("sa2va_1b", "qwen_chat", _qwen2(896, 24, 14, 2, 4864)),
        _official("sa2va_4b", "phi3_chat", _qwen2(2048, 36, 16, 2, 11008)),
        _official("sa2va_8b", "internlm2_chat", _internlm2(4096, 32, 32, 8, 14336)),
        _official("sa2va_26b", "internlm2_chat", _internlm2(6144, 48, 48, 8, 16384), _INTERNVIT_6B),
        _official("internvl3_2b", "qwen_chat", _qwen2(1536, 28, 12, 2, 8960)),
        _official("internvl3_8b", "qwen_chat", _qwen2(3584, 28, 28, 4, 18944)),
        _official("internvl3_14b", "qwen_chat", _qwen2(5120, 48, 40, 8, 13824)),
        _qwen2_5_vl("qwen2_5_vl_3b", 2048, 36, 16, 2, 11008),
        _qwen2_5_vl("qwen2_5_vl_7b", 3584, 28, 28, 4, 18944),
        Sa2VAConfig(
            name="qwen3_vl_4b",
            family="qwen3_vl",
            seg_state="pre_norm",
            vision=Qwen3VisionConfig(1024, 24, 16, 4096),
            text=TextConfig(
                "qwen3_vl_text",
                # 151669 tokens of Qwen3-VL's tokenizer and the five that Sa2VA adds
                151674,
                2560,
                36,
                32,
                8,
                9728,
                max_position_embeddings=262144,
                rope_theta=5e6,
                rope_scaling={"mrope_section": [24, 20, 20], "mrope_interleaved": True},
                head_dim=128,
            ),
        ),
    )
}
"""Geometries by name. ``tiny`` (at most 6 M parameters) and ``small`` (at most 30 M) read bytes and answer with the
object's name; the others are the official checkpoints', which bring a tokenizer of their own."""


def get_preset(name: str) -> Sa2VAConfig:
    """Geometry of a preset.

    Raises:
        ConfigError: when there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]
