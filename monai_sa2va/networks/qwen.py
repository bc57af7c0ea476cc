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
"""Qwen2.5-VL and Qwen3-VL as parts of a Sa2VA: pictures of any shape, positions by row and column, deepstack."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.networks.grid_tokens import GridTokens, grid_positions
from monai_sa2va.qwen_config import Qwen3VisionConfig, Qwen25VisionConfig

__all__ = ["Embedded", "Qwen3VL", "Qwen25VL"]

# what reaches the final norm; of a context, so that threads may share a network
_REACHED: ContextVar[list[torch.Tensor] | None] = ContextVar("reached_norm", default=None)


class Embedded(NamedTuple):
    """What the language model reads.

    Attributes:
        embeddings: (B, L, D).
        positions: (3, B, L) int64: time, row and column.
        places: (B, L) bool, where a token is one of a picture.
        deepstack: (tokens of pictures, D) each, see :class:`~monai_sa2va.networks.grid_tokens.GridTokens`.
    """

    embeddings: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]


class _GridReader:
    """What the two families share: everything but their configuration."""

    model: Any
    lm_head: nn.Module
    config: Any

    def _prepare(self, config: Sa2VAConfig) -> None:
        """Note whether [SEG] is read before the final norm."""
        self._before_norm = config.seg_state == "pre_norm"
        self.model.language_model.norm.register_forward_pre_hook(_note)

    def vision(self) -> nn.Module:
        """The vision tower."""
        tower: nn.Module = self.model.visual
        return tower

    def encode_image(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None) -> GridTokens:
        """Encode pictures.

        Args:
            pixel_values: (patches of all pictures, 3 * T * p * p) float, normalised.
            image_grid_thw: (pictures, 3) int64: 1, rows and columns of patches of each.

        Returns:
            Their features, one a square of patches.

        Raises:
            DataError: when patches and grids don't fit each other or the network.
        """
        vision = self.config.vision_config
        merge = int(vision.spatial_merge_size)
        wide = 3 * int(vision.temporal_patch_size) * int(vision.patch_size) ** 2
        if pixel_values.ndim != 2 or pixel_values.shape[1] != wide:
            raise DataError(f"pixel_values has shape {tuple(pixel_values.shape)}; expected (patches, {wide})")
        if image_grid_thw is None:
            raise DataError("the batch holds no image_grid_thw; build it with the processor and sa2va_collate")
        grids: list[list[int]] = image_grid_thw.tolist() if image_grid_thw.ndim == 2 else []
        fit = all(len(grid) == 3 and grid[0] == 1 and not (grid[1] % merge or grid[2] % merge) for grid in grids)
        if not fit or sum(grid[1] * grid[2] for grid in grids) != len(pixel_values):
            raise DataError(
                f"image_grid_thw is {grids or tuple(image_grid_thw.shape)} for {len(pixel_values)} patches; expected "
                f"1, rows and columns of each picture, multiples of {merge} that make as many"
            )
        output = self.model.visual(pixel_values, grid_thw=image_grid_thw, return_dict=True)
        return GridTokens(
            output.pooler_output,
            tuple((rows // merge, columns // merge) for _, rows, columns in grids),
            tuple(getattr(output, "deepstack_features", ())),
        )

    def repeat(self, image_tokens: GridTokens, times: int) -> GridTokens:
        """The same pictures several times, for as many rows of a batch."""
        return image_tokens.repeat(times)

    def with_regions(self, image_tokens: GridTokens, regions: torch.Tensor) -> GridTokens:
        """Refuse regions, which no checkpoint of these families was trained on.

        Raises:
            PromptError: always.
        """
        raise PromptError(
            "mask_prompts are regions that InternVL's checkpoints know; ask this one by a sentence, or show the object "
            "by points, a box or a mask"
        )

    def embed(self, input_ids: torch.Tensor, image_tokens: GridTokens | None) -> Embedded:
        """Embed tokens, put the pictures' features in their places, and say where each token stands.

        Args:
            input_ids: (B, L) int64, padded on the right.
            image_tokens: of all pictures of the batch in order, or ``None`` for text alone.

        Raises:
            DataError: when the pictures don't fit their places.
        """
        embeddings: torch.Tensor = self.model.language_model.embed_tokens(input_ids)
        places = input_ids == self.config.image_token_id
        found = 0 if image_tokens is None else len(image_tokens)
        if int(places.sum()) != found:
            raise DataError(f"input_ids hold {int(places.sum())} image tokens, pixel_values make {found}")
        if image_tokens is None:
            return Embedded(embeddings, grid_positions(places, ()), places, ())
        embeddings = embeddings.masked_scatter(places.unsqueeze(-1), image_tokens.features.to(embeddings.dtype))
        return Embedded(embeddings, grid_positions(places, image_tokens.grids), places, image_tokens.deepstack)

    def hidden_states(self, embedded: Embedded, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Run the language model.

        Args:
            embedded: from :meth:`embed`.
            attention_mask: (B, L) int64, 0 on padding.

        Returns:
            (B, L, D), before or after the final norm, as the configuration's ``seg_state`` says.
        """
        return self._run(embedded, attention_mask=attention_mask, use_cache=False)[0]

    def read(self, embedded: Embedded, cache: Any, position: int) -> tuple[torch.Tensor, Any, int]:
        """Read on, with what was read before in the cache.

        Args:
            embedded: of one row, from :meth:`embed`.
            cache: as the last call gave it, ``None`` at the beginning.
            position: of the first token, as the last call gave it, 0 at the beginning.

        Returns:
            States (1, L, D) as of :meth:`hidden_states`, the cache, and the position of the token that follows.
        """
        moved = embedded._replace(positions=embedded.positions + position)
        states, cache = self._run(moved, past_key_values=cache, use_cache=True)
        return states, cache, int(moved.positions.max()) + 1

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary of states as of :meth:`hidden_states`, (..., D) -> (..., vocabulary)."""
        logits: torch.Tensor = self.lm_head(self.model.language_model.norm(states) if self._before_norm else states)
        return logits

    def _run(self, embedded: Embedded, **options: Any) -> tuple[torch.Tensor, Any]:
        if embedded.deepstack:
            options |= {"visual_pos_masks": embedded.places, "deepstack_visual_embeds": list(embedded.deepstack)}
        reached: list[torch.Tensor] = []
        token = _REACHED.set(reached)
        try:
            output = self.model.language_model(
                inputs_embeds=embedded.embeddings, position_ids=embedded.positions, **options
            )
        finally:
            _REACHED.reset(token)
        return reached[0] if self._before_norm else output.last_hidden_state, output.past_key_values


def _note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Keep what the final norm is given, where somebody asks for it: transformers' own output is after the norm."""
    reached = _REACHED.get()
    if reached is not None:
        reached.append(inputs[0])


class Qwen25VL(_GridReader, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL as a Sa2VA part.

    Args:
        config: the Sa2VA's geometry.
        image_token_id: id of ``<|image_pad|>`` in the tokenizer.

    Raises:
        ConfigError: when the language model is another family's.
    """

    def __init__(self, config: Sa2VAConfig, image_token_id: int) -> None:
        vision = config.vision
        assert isinstance(vision, Qwen25VisionConfig)
        own = {"window_size": vision.window_size, "fullatt_block_indexes": list(vision.full_attention_layers)}
        super().__init__(Qwen2_5_VLConfig(**_native(config, "qwen2_5_vl_text", image_token_id, own)))
        self._prepare(config)


class Qwen3VL(_GridReader, Qwen3VLForConditionalGeneration):
    """Qwen3-VL as a Sa2VA part.

    Args:
        config: the Sa2VA's geometry.
        image_token_id: id of ``<|image_pad|>`` in the tokenizer.

    Raises:
        ConfigError: when the language model is another family's, or has fewer layers than deepstack feeds.
    """

    def __init__(self, config: Sa2VAConfig, image_token_id: int) -> None:
        vision = config.vision
        assert isinstance(vision, Qwen3VisionConfig)
        if len(vision.deepstack_layers) > config.text.num_hidden_layers:
            raise ConfigError(
                f"vision.deepstack_layers has {len(vision.deepstack_layers)} layers, the language model "
                f"{config.text.num_hidden_layers}; give no more"
            )
        own = {
            "num_position_embeddings": vision.num_position_embeddings,
            "deepstack_visual_indexes": list(vision.deepstack_layers),
        }
        super().__init__(Qwen3VLConfig(**_native(config, "qwen3_vl_text", image_token_id, own)))
        self._prepare(config)


def _native(config: Sa2VAConfig, text_type: str, image_token_id: int, own: dict[str, Any]) -> dict[str, Any]:
    """A configuration by the names of transformers; ``own`` are what only this family's vision tower has."""
    text, vision = config.text, config.vision
    assert isinstance(vision, (Qwen25VisionConfig, Qwen3VisionConfig))
    if text.model_type != text_type:
        raise ConfigError(f"text.model_type is {text.model_type!r}; the family {config.family} has {text_type}")
    text_values = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        "initializer_range": text.initializer_range,
        "rope_parameters": {"rope_type": "default", **(text.rope_scaling or {}), "rope_theta": text.rope_theta},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if config.family == "qwen3_vl":
        text_values["head_dim"] = text.head_dim or text.hidden_size // text.num_attention_heads
    return {
        "vision_config": {
            "depth": vision.num_hidden_layers,
            "hidden_size": vision.hidden_size,
            "num_heads": vision.num_attention_heads,
            "intermediate_size": vision.intermediate_size,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "out_hidden_size": text.hidden_size,
            "initializer_range": vision.initializer_range,
            **own,
        },
        "text_config": text_values,
        "image_token_id": image_token_id,
        # official checkpoints store a head of their own
        "tie_word_embeddings": False,
        "initializer_range": text.initializer_range,
    }
