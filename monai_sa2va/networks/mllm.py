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

"""The multimodal language model behind one small interface; InternVL is its first member."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
)

from monai_sa2va.config import Sa2VAConfig, TextConfig
from monai_sa2va.errors import ConfigError, DataError

__all__ = ["InternVL", "MultimodalLLM", "build_mllm"]

_TEXT_CONFIGS = {"qwen2": Qwen2Config, "llama": LlamaConfig}


class MultimodalLLM(Protocol):
    """What Sa2VA needs of a multimodal language model, whatever its family."""

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(tiles, 3, t, t) float -> (tiles * tokens per tile, D) features in the language model's width."""

    def region_features(self, image_features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """(image tokens, D) of a picture and (n, s, s) bool -> the features of its n regions, one after another."""

    def embed(self, input_ids: torch.Tensor, image_features: torch.Tensor | None) -> torch.Tensor:
        """(B, L) int64 ids, with image features put at the image tokens in order -> (B, L, D)."""

    def hidden_states(self, embeddings: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(B, L, D) embeddings -> (B, L, D) states, of the layer whose [SEG] state the checkpoint was trained on."""

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., D) states after the final norm -> (..., vocabulary)."""


class InternVL(InternVLForConditionalGeneration):
    """InternVL 2.5 and 3 (InternViT, pixel-shuffle projector, Qwen2 or Llama-shaped InternLM2) as a Sa2VA part.

    Args:
        config: the Sa2VA's geometry.
        image_token_id: id of ``<IMG_CONTEXT>`` in the tokenizer.
    """

    def __init__(self, config: Sa2VAConfig, image_token_id: int) -> None:
        super().__init__(_internvl_config(config, image_token_id))

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode tiles.

        Args:
            pixel_values: (tiles, 3, t, t) float, normalised.

        Returns:
            (tiles * tokens per tile, D).

        Raises:
            DataError: when the tiles are not t x t.
        """
        height, width = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, height, width):
            raise DataError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (tiles, 3, {height}, {width})"
            )
        features: torch.Tensor = self.model.get_image_features(pixel_values, return_dict=True).pooler_output
        return features.flatten(0, 1)

    def region_features(self, image_features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """What regions of a picture look like: the features of its last tile that they cover.

        Args:
            image_features: (image tokens, D) of one picture; its last tile shows the whole of it.
            regions: (n, s, s) bool, s image tokens along a side of a tile.

        Returns:
            (tokens of all regions, D): by region, then row by row.
        """
        whole = image_features[-regions[0].numel() :]
        return torch.cat([whole[region.flatten().to(whole.device)] for region in regions])

    def embed(self, input_ids: torch.Tensor, image_features: torch.Tensor | None) -> torch.Tensor:
        """Embed tokens and put the image features at the image tokens, in order.

        Args:
            input_ids: (B, L) int64.
            image_features: (image tokens of the whole batch, D), or ``None`` for text alone.

        Returns:
            (B, L, D).

        Raises:
            DataError: when there are not exactly as many features as image tokens.
        """
        embeddings: torch.Tensor = self.model.language_model.embed_tokens(input_ids)
        places = input_ids == self.config.image_token_id
        found = 0 if image_features is None else len(image_features)
        if int(places.sum()) != found:
            raise DataError(f"input_ids hold {int(places.sum())} image tokens, pixel_values make {found}")
        if image_features is None:
            return embeddings
        return embeddings.masked_scatter(places.unsqueeze(-1), image_features.to(embeddings.dtype))

    def hidden_states(self, embeddings: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Run the language model; InternVL's [SEG] state is the one after the final norm.

        Args:
            embeddings: (B, L, D).
            attention_mask: (B, L) int64, 0 on padding.

        Returns:
            (B, L, D).
        """
        states: torch.Tensor = self.model.language_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return states

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, (..., D) -> (..., vocabulary)."""
        logits: torch.Tensor = self.lm_head(states)
        return logits


def build_mllm(config: Sa2VAConfig, image_token_id: int) -> InternVL:
    """Build the randomly initialised MLLM of a configuration's family.

    Raises:
        ConfigError: for a family, language model or state of [SEG] that this version doesn't know.
    """
    if config.family != "internvl":
        raise ConfigError(f"family is {config.family!r}; this version builds internvl")
    if config.seg_state != "post_norm":
        raise ConfigError(f"seg_state is {config.seg_state!r}; InternVL's [SEG] state is the one post_norm")
    return InternVL(config, image_token_id)


def _internvl_config(config: Sa2VAConfig, image_token_id: int) -> InternVLConfig:
    vision = config.vision
    result = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=vision.hidden_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            intermediate_size=vision.intermediate_size,
            image_size=[vision.image_size, vision.image_size],
            patch_size=[vision.patch_size, vision.patch_size],
            norm_type=vision.norm_type,
            attention_bias=vision.qkv_bias,
            use_qk_norm=vision.qk_norm,
            layer_norm_eps=vision.layer_norm_eps,
            layer_scale_init_value=vision.layer_scale_init,
            initializer_range=vision.initializer_range,
        ),
        text_config=_text_config(config.text),
        image_token_id=image_token_id,
        image_seq_length=config.tokens_per_tile,
        downsample_ratio=config.downsample_ratio,
        # transformers ties them by default; official checkpoints store a head of their own
        tie_word_embeddings=False,
        # the projector between the towers is initialised by the outer configuration
        initializer_range=config.text.initializer_range,
    )
    return result


def _text_config(text: TextConfig) -> Any:
    if text.model_type not in _TEXT_CONFIGS:
        raise ConfigError(f"text.model_type is {text.model_type!r}; allowed: {', '.join(sorted(_TEXT_CONFIGS))}")
    rope = {"rope_type": "default", **(text.rope_scaling or {}), "rope_theta": text.rope_theta}
    return _TEXT_CONFIGS[text.model_type](
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        intermediate_size=text.intermediate_size,
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=text.rms_norm_eps,
        initializer_range=text.initializer_range,
        rope_parameters=rope,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
