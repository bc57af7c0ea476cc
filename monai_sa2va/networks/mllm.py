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

"""The multimodal language model behind one small interface, and InternVL, its first member."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from monai_sa2va.config import Sa2VAConfig, TextConfig, VisionConfig
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.networks.qwen import Qwen3VL, Qwen25VL

__all__ = ["InternVL", "MultimodalLLM", "build_mllm"]

_TEXT_CONFIGS = {"qwen2": Qwen2Config, "llama": LlamaConfig}


class MultimodalLLM(Protocol):
    """What Sa2VA needs of a multimodal language model, whatever its family.

    What :meth:`encode_image` and :meth:`embed` give is a family's own: InternVL's are tensors, Qwen's hold rows and
    columns besides. Only the same family's methods look inside; everybody may take the ``len`` of the first, its
    number of image tokens.
    """

    def vision(self) -> nn.Module:
        """The vision tower; the language model is ``model.language_model`` in every family."""

    def encode_image(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None) -> Any:
        """Pictures as the family's processor gives them -> their image tokens."""

    def repeat(self, image_tokens: Any, times: int) -> Any:
        """Image tokens of a picture -> those of as many rows of a batch that all show it."""

    def with_regions(self, image_tokens: Any, regions: torch.Tensor) -> Any:
        """Image tokens of a picture and (n, s, s) bool -> the same, followed by those of its n regions."""

    def embed(self, input_ids: torch.Tensor, image_tokens: Any) -> Any:
        """(B, L) int64 ids, with the image tokens in their places in order -> what the language model reads."""

    def hidden_states(self, embedded: Any, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """What it reads -> (B, L, D) states, of the layer whose [SEG] state the checkpoint was trained on."""

    def read(self, embedded: Any, cache: Any, position: int) -> tuple[torch.Tensor, Any, int]:
        """The same of one row, read on with a cache -> states (1, L, D), the cache, the next token's position."""

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., D) states as those two give them -> (..., vocabulary)."""


class InternVL(InternVLForConditionalGeneration):
    """InternVL 2.5 and 3 (InternViT, pixel-shuffle projector, Qwen2 or Llama-shaped InternLM2) as a Sa2VA part.

    Args:
        config: the Sa2VA's geometry.
        image_token_id: id of ``<IMG_CONTEXT>`` in the tokenizer.
    """

    def __init__(self, config: Sa2VAConfig, image_token_id: int) -> None:
        super().__init__(_internvl_config(config, image_token_id))

    def vision(self) -> nn.Module:
        """The vision tower."""
        tower: nn.Module = self.model.vision_tower
        return tower

    def encode_image(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None) -> torch.Tensor:
        """Encode tiles.

        Args:
            pixel_values: (tiles, 3, t, t) float, normalised.
            image_grid_thw: of other families; ``None``, as tiles have none.

        Returns:
            (tiles * tokens per tile, D).

        Raises:
            DataError: when the tiles are not t x t, or there is a grid.
        """
        if image_grid_thw is not None:
            raise DataError("the batch holds image_grid_thw, which InternVL doesn't take; use its own processor")
        height, width = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, height, width):
            raise DataError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (tiles, 3, {height}, {width})"
            )
        features: torch.Tensor = self.model.get_image_features(pixel_values, return_dict=True).pooler_output
        return features.flatten(0, 1)

    def repeat(self, image_tokens: torch.Tensor, times: int) -> torch.Tensor:
        """The same picture several times, for as many rows of a batch."""
        return image_tokens.repeat(times, 1)

    def with_regions(self, image_tokens: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Image tokens of a picture, followed by those that regions of it cover.

        Args:
            image_tokens: (image tokens, D) of one picture; its last tile shows the whole of it.
            regions: (n, s, s) bool, s image tokens along a side of a tile.

        Returns:
            (image tokens and tokens of all regions, D): by region, then row by row.
        """
        whole = image_tokens[-regions[0].numel() :]
        return torch.cat([image_tokens, *(whole[region.flatten().to(whole.device)] for region in regions)])

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

    def read(self, embeddings: torch.Tensor, cache: Any, position: int) -> tuple[torch.Tensor, Any, int]:
        """Read on, with what was read before in the cache.

        Args:
            embeddings: (1, L, D).
            cache: as the last call gave it, ``None`` at the beginning.
            position: of the first token, as the last call gave it, 0 at the beginning.

        Returns:
            States (1, L, D), the cache, and the position of the token that follows.
        """
        output = self.model.language_model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
        return output.last_hidden_state, output.past_key_values, position + embeddings.shape[1]

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, (..., D) -> (..., vocabulary)."""
        logits: torch.Tensor = self.lm_head(states)
        return logits


def build_mllm(config: Sa2VAConfig, image_token_id: int) -> InternVL | Qwen25VL | Qwen3VL:
    """Build the randomly initialised MLLM of a configuration's family.

    Raises:
        ConfigError: for a language model or state of [SEG] that the family doesn't have.
    """
    if config.family == "qwen2_5_vl":
        return Qwen25VL(config, image_token_id)
    if config.family == "qwen3_vl":
        return Qwen3VL(config, image_token_id)
    if config.seg_state != "post_norm":
        raise ConfigError(f"seg_state is {config.seg_state!r}; InternVL's [SEG] state is the one post_norm")
    return InternVL(config, image_token_id)


def _internvl_config(config: Sa2VAConfig, image_token_id: int) -> InternVLConfig:
    vision = config.vision
    assert isinstance(vision, VisionConfig)
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
    if text.max_position_embeddings < 1:
        raise ConfigError(f"text.max_position_embeddings is {text.max_position_embeddings}; give at least 1")
    rope = {"rope_type": "default", **(text.rope_scaling or {}), "rope_theta": text.rope_theta}
    kind, factor = rope["rope_type"], rope.get("factor")
    if kind != "default" and (kind not in ROPE_INIT_FUNCTIONS or not isinstance(factor, int | float) or factor < 1):
        raise ConfigError(
            f"text.rope_scaling is {text.rope_scaling}; give a rope_type among "
            f"{', '.join(sorted({'default', *ROPE_INIT_FUNCTIONS}))}, and but for default a factor of at least 1"
        )
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
