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

"""Tokens of prompts for SAM2's mask decoder, and attention that leaves out the tokens an object doesn't have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import Attention, TwoWayTransformer
from torch.nn import functional

from monai_sa2va.networks.prompts import NO_POINT, GroundingPrompts

__all__ = ["attending_to", "dense_position", "dense_tokens", "let_tokens_be_left_out", "sparse_tokens"]

# (M, N) bool, the tokens that are attended to; a context variable, so that threads may share a network
_KEPT: ContextVar[torch.Tensor | None] = ContextVar("kept_tokens", default=None)


def sparse_tokens(encoder: PromptEncoder, prompts: GroundingPrompts) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and language as tokens: sam2's own, in any floating point type.

    As in SAM2 a padding token follows the points, an object without a point has one more in their place, and as in
    Sa2VA language comes last.

    Args:
        encoder: SAM2's, whose own forward pass fails for float64 and bfloat16 weights.
        prompts: of M objects.

    Returns:
        The tokens (M, N, C), and (M, N) bool: those that the object has. N is the same for all objects of a call;
        what it leaves over must not be attended to, or an object's mask would depend on those beside it.
    """
    padding = encoder.not_a_point_embed.weight
    labels = prompts.point_labels
    real = labels != NO_POINT
    shares = (prompts.points + 0.5) / encoder.input_image_size[0]
    place = _position(encoder.pe_layer, shares).where(real.unsqueeze(-1), padding.new_zeros(()))
    kinds = torch.cat([embedding.weight for embedding in encoder.point_embeddings] + [padding])
    tokens = place + kinds[labels % len(kinds)]
    first = torch.zeros_like(real)
    first[:, :1] = ~real.any(dim=1, keepdim=True)
    pads = padding.expand(len(prompts), 1 if labels.shape[1] else 2, -1)
    parts, kept = [tokens, pads], [real | first, real.new_ones(pads.shape[:2])]
    if prompts.language is not None:
        parts = [part.to(prompts.language.dtype) for part in parts] + [prompts.language.unsqueeze(1)]
        kept.append(prompts.has_language.unsqueeze(1))
    return torch.cat(parts, dim=1), torch.cat(kept, dim=1)


def dense_tokens(encoder: PromptEncoder, prompts: GroundingPrompts, size: torch.Size) -> torch.Tensor:
    """Mask prompts as a map (M, C, S/16, S/16) of shape ``size``: SAM2's "no mask" where an object has none."""
    nothing = encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(size)
    if prompts.masks is None:
        return nothing
    found: torch.Tensor = encoder.mask_downscaling(prompts.masks.to(nothing.dtype))
    return torch.where(prompts.has_mask.view(-1, 1, 1, 1), found, nothing.to(found.dtype))


def dense_position(encoder: PromptEncoder) -> torch.Tensor:
    """Position of each place of the feature map, (1, C, S/16, S/16); sam2's own, in any floating point type."""
    side = encoder.image_embedding_size[0]
    device = encoder.no_mask_embed.weight.device
    centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return _position(encoder.pe_layer, torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)


def _position(layer: PositionEmbeddingRandom, shares: torch.Tensor) -> torch.Tensor:
    """Encode (..., 2), shares of the image from 0 to 1, as (..., C)."""
    matrix = layer.positional_encoding_gaussian_matrix
    # bfloat16 would move a point by pixels
    precise = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    with torch.autocast(matrix.device.type, enabled=False):
        phases = 2 * torch.pi * ((2 * shares.to(precise) - 1) @ matrix.to(precise))
        return torch.cat([phases.sin(), phases.cos()], dim=-1).to(matrix.dtype)


class _TokenAttention(Attention):
    """Attention to tokens of which some may be left out; exactly sam2's where none is."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        kept = _KEPT.get()
        if kept is None:
            whole: torch.Tensor = super().forward(q, k, v)
            return whole
        queries, keys, values = (
            self._separate_heads(project(x), self.num_heads)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=kept[:, None, None])
        out: torch.Tensor = self.out_proj(self._recombine_heads(found))
        return out


def let_tokens_be_left_out(transformer: TwoWayTransformer) -> TwoWayTransformer:
    """Make every attention whose keys are tokens heed :func:`attending_to`; weights and their names stay."""
    for block in transformer.layers:
        for attention in (block.self_attn, block.cross_attn_image_to_token):
            # building new ones would draw other initial weights from the same seed
            attention.__class__ = _TokenAttention
    return transformer


@contextmanager
def attending_to(kept: torch.Tensor) -> Iterator[None]:
    """Let the mask decoder see some tokens only.

    Args:
        kept: (M, N) bool, of the decoder's own tokens and those of the prompts.
    """
    before = _KEPT.set(None if bool(kept.all()) else kept)
    try:
        yield
    finally:
        _KEPT.reset(before)
