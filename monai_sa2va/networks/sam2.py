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

"""SAM2 with a language token, built from the ``sam2`` package's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import MLP
from torch.nn import functional

from monai_sa2va.config import GroundingConfig
from monai_sa2va.errors import DataError
from monai_sa2va.networks.memory import Memory, MemoryEntry
from monai_sa2va.networks.prompt_tokens import (
    attending_to,
    dense_position,
    dense_tokens,
    let_tokens_be_left_out,
    sparse_tokens,
)
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sam2_parts import build_image_encoder, build_memory_attention, build_memory_encoder

__all__ = ["DecodedMasks", "LanguageSAM2"]

# mask_in_chans of SAM's prompt encoder, a constant of the published model
_MASK_CHANNELS = 16


class DecodedMasks(NamedTuple):
    """What SAM2's mask decoder says of M objects.

    Attributes:
        masks: (M, K, S/4, S/4) logits of the K masks that it offers for each object.
        iou_scores: (M, K) their predicted IoU, 0 to 1.
        object_scores: (M,) logit of the object being in the frame.
        pointers: (M, C) object pointers of the best masks, for the memory.
    """

    masks: torch.Tensor
    iou_scores: torch.Tensor
    object_scores: torch.Tensor
    pointers: torch.Tensor

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (M, S/4, S/4) and IoU (M,) of the mask of highest predicted IoU."""
        rows, best = _best(self.iou_scores)
        return self.masks[rows, best], self.iou_scores[rows, best]


class LanguageSAM2(SAM2Base):
    """SAM2 whose mask decoder takes one more prompt token, the projected [SEG] state.

    It differs from stock SAM2 as Sa2VA does: the language token is appended to the sparse prompt, masks are never
    overwritten where the object score is low, and the best of three masks by predicted IoU is the answer. Parameter
    names are sam2's own.

    Args:
        config: SAM2's geometry.
    """

    def __init__(self, config: GroundingConfig) -> None:
        self._geometry = config
        self.click_mark = config.click_mark
        super().__init__(
            image_encoder=build_image_encoder(config),
            memory_attention=build_memory_attention(config),
            memory_encoder=build_memory_encoder(config),
            num_maskmem=7,
            image_size=config.image_size,
            sigmoid_scale_for_mem_enc=20.0,
            sigmoid_bias_for_mem_enc=-10.0,
            use_mask_input_as_output_without_sam=True,
            directly_add_no_mem_embed=True,
            use_high_res_features_in_sam=True,
            multimask_output_in_sam=True,
            multimask_min_pt_num=0,
            multimask_max_pt_num=1,
            multimask_output_for_tracking=True,
            use_multimask_token_for_obj_ptr=True,
            iou_prediction_use_sigmoid=True,
            use_obj_ptrs_in_encoder=True,
            add_tpos_enc_to_obj_ptrs=False,
            only_obj_ptrs_in_the_past_for_eval=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            fixed_no_obj_ptr=True,
            use_mlp_for_obj_ptr_proj=True,
        )

    def _build_sam_heads(self) -> None:
        # sam2 hard-codes the widths that the small presets change
        config = self._geometry
        side = self.image_size // self.backbone_stride
        self.sam_prompt_embed_dim = self.hidden_dim
        self.sam_image_embedding_size = side
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=self.hidden_dim,
            image_embedding_size=(side, side),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=_MASK_CHANNELS,
        )
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=let_tokens_be_left_out(
                TwoWayTransformer(depth=2, embedding_dim=self.hidden_dim, mlp_dim=config.feedforward_dim, num_heads=8)
            ),
            transformer_dim=self.hidden_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            use_multimask_token_for_obj_ptr=True,
        )
        self.obj_ptr_proj = MLP(self.hidden_dim, self.hidden_dim, self.hidden_dim, 3)
        self.obj_ptr_tpos_proj = torch.nn.Identity()

    def image_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Encode images once, for any number of objects and prompts.

        Args:
            images: (F, 3, S, S) float, normalised.

        Returns:
            Three maps, finest first: (F, C/8, S/4, S/4), (F, C/4, S/8, S/8) and (F, C, S/16, S/16). The last is what
            :meth:`remember` and :meth:`attend` take; :meth:`decode` takes it from :meth:`attend` or
            :meth:`without_memory`.
        """
        maps: list[torch.Tensor] = list(self.forward_image(images)["backbone_fpn"][-self.num_feature_levels :])
        # sam2's neck adds in float32 whatever the weights are
        dtype = self.no_mem_embed.dtype
        return maps if dtype == torch.float32 else [level.to(dtype) for level in maps]

    def without_memory(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Feature maps as they are decoded on a frame without a past: with the no-memory embedding added."""
        return [*features[:-1], features[-1] + self.no_mem_embed.view(1, -1, 1, 1)]

    def decode(
        self, features: Sequence[torch.Tensor], prompts: GroundingPrompts, multimask: bool = True
    ) -> DecodedMasks:
        """Draw the masks of M objects by any mixture of prompts; no object's masks depend on the others'.

        Args:
            features: three maps, finest first, already one entry an object; the last conditioned on memory or
                :meth:`without_memory`.
            prompts: of M objects; M may be 0. An object without any is drawn from its memory alone.
            multimask: draw the three masks of SAM2's multiple output, as Sa2VA always does, else the single one.

        Raises:
            DataError: when there isn't one entry of the maps for each object, or a mask prompt isn't S/4 by S/4.
        """
        self._check(features, prompts)
        masks = 3 if multimask else 1
        if not len(prompts):
            # sam2's decoder can't reshape nothing; these are empty, of the right size, and have a gradient path
            empty = features[-1].flatten(1)[:, :1] if prompts.language is None else prompts.language[:, :1]
            pointers = features[-1][:, :, 0, 0]
            return DecodedMasks(
                features[0][:, :1].expand(-1, masks, -1, -1), empty.expand(-1, masks), empty[:, 0], pointers
            )
        encoder, decoder = self.sam_prompt_encoder, self.sam_mask_decoder
        sparse, kept = sparse_tokens(encoder, prompts)
        own = kept.new_ones((len(kept), 2 + decoder.num_mask_tokens))
        with attending_to(torch.cat([own, kept], dim=1)):
            found, ious, tokens, object_scores = decoder(
                image_embeddings=features[-1],
                image_pe=dense_position(encoder),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense_tokens(encoder, prompts, features[-1].shape),
                multimask_output=multimask,
                repeat_image=False,
                high_res_features=list(features[:-1]),
            )
        rows, best = _best(ious)
        pointers = self.obj_ptr_proj(tokens[rows, best])
        # where SAM2 sees no object, its memory is told so; the mask is left as it is
        pointers = torch.where(object_scores > 0, pointers, self.no_obj_ptr.to(pointers.dtype))
        return DecodedMasks(found, ious, object_scores[:, 0], pointers)

    def decode_language(
        self, features: Sequence[torch.Tensor], language: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw one mask an embedding, with language as the only prompt, as the official checkpoints do.

        Args:
            features: as :meth:`decode` takes them.
            language: (M, C) embeddings; M may be 0.

        Returns:
            The best mask's logits (M, S/4, S/4), its predicted IoU (M,), 0 to 1, and the object score (M,), a logit.
        """
        decoded = self.decode(features, GroundingPrompts.of_language(language))
        return *decoded.best(), decoded.object_scores

    def remember(
        self,
        feature_map: torch.Tensor,
        masks: torch.Tensor,
        object_scores: torch.Tensor,
        pointers: torch.Tensor,
        from_points: bool = False,
    ) -> Memory:
        """Make a memory of one frame.

        Args:
            feature_map: (M, C, S/16, S/16), the last of :meth:`image_features`, one entry an object.
            masks: (M, S/4, S/4) logits of the objects in the frame.
            object_scores: (M,) logits, as :meth:`decode` gives them.
            pointers: (M, C), as :meth:`decode` gives them.
            from_points: whether the masks come from clicks: sam2 then binarises them where its
                ``binarize_mask_from_pts_for_mem_enc`` is on and nothing is trained; Sa2VA has it off.
        """
        logits = masks if masks.dtype == torch.float64 else masks.float()
        large = functional.interpolate(
            logits.unsqueeze(1), size=(self.image_size, self.image_size), mode="bilinear", align_corners=False
        )
        features, _ = self._encode_new_memory(
            [feature_map.flatten(2).permute(2, 0, 1)],
            [feature_map.shape[-2:]],
            large.to(feature_map.dtype),
            object_scores.unsqueeze(1),
            from_points,
        )
        return Memory(features, pointers)

    def attend(self, feature_map: torch.Tensor, entries: Sequence[MemoryEntry]) -> torch.Tensor:
        """Condition a frame's feature map on memory.

        Args:
            feature_map: (M, C, S/16, S/16), the last of :meth:`image_features`, one entry an object.
            entries: from :meth:`~monai_sa2va.networks.memory.MemoryBank.entries`.

        Returns:
            (M, C, S/16, S/16), which :meth:`decode` takes as the last map.

        Raises:
            DataError: when no entry has a mask's memory.
        """
        memory, position = [], []
        # sam2's own order, to round as it does: conditioned frames, then the farthest first
        for distance, features, _ in sorted(entries, key=lambda entry: (entry.distance > 0, -entry.distance)):
            if features is not None:
                # only what is remembered may be kept coarser, not where it stood
                kept = features.to(feature_map.dtype)
                place = _sequence(self.memory_encoder.position_encoding(kept).to(kept.dtype))
                memory.append(_sequence(kept))
                # the last one is that of conditioned frames
                position.append(place + self.maskmem_tpos_enc[distance - 1])
        if not memory:
            raise DataError("there is no memory to attend to; decode the frame without_memory")
        pointers = [entry.pointers for entry in entries if entry.pointers is not None]
        tokens = 0
        if pointers:
            # a pointer is wider than a memory, and becomes several tokens
            split = torch.stack(pointers).unflatten(-1, (-1, self.mem_dim)).permute(0, 2, 1, 3).flatten(0, 1)
            memory.append(split)
            position.append(torch.zeros_like(split))
            tokens = len(split)
        conditioned = self.memory_attention(
            curr=_sequence(feature_map),
            curr_pos=_sequence(self.image_encoder.neck.position_encoding(feature_map).to(feature_map.dtype)),
            memory=torch.cat(memory),
            memory_pos=torch.cat(position),
            num_obj_ptr_tokens=tokens,
        )
        return conditioned.permute(1, 2, 0).reshape(feature_map.shape)

    def _check(self, features: Sequence[torch.Tensor], prompts: GroundingPrompts) -> None:
        if {len(level) for level in features} != {len(prompts)}:
            raise DataError(
                f"prompts of {len(prompts)} objects, feature maps of {len(features[-1])}; give one an object"
            )
        if prompts.masks is not None and prompts.masks.shape[-2:] != features[0].shape[-2:]:
            raise DataError(
                f"prompts: masks has shape {tuple(prompts.masks.shape)}; expected S/4, {tuple(features[0].shape[-2:])}"
            )


def _best(ious: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(len(ious), device=ious.device), ious.argmax(dim=-1)


def _sequence(values: torch.Tensor) -> torch.Tensor:
    """(M, C, h, w) as sam2's attention takes it: (h w, M, C)."""
    return values.flatten(2).permute(2, 0, 1)
