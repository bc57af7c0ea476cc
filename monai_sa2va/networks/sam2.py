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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import MLP
from torch.overrides import TorchFunctionMode

from monai_sa2va.config import GroundingConfig

__all__ = ["LanguageSAM2"]

# mask_in_chans of SAM's prompt encoder, a constant of the published model
_MASK_CHANNELS = 16


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
        super().__init__(
            image_encoder=_image_encoder(config),
            memory_attention=_memory_attention(config),
            memory_encoder=_memory_encoder(config),
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
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=self.hidden_dim, mlp_dim=config.feedforward_dim, num_heads=8
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
        """Encode images once, for any number of objects.

        Args:
            images: (F, 3, S, S) float, normalised.

        Returns:
            Three maps, finest first: (F, C/8, S/4, S/4), (F, C/4, S/8, S/8) and (F, C, S/16, S/16), the last with
            the no-memory embedding added, as on a frame without a past.
        """
        maps: list[torch.Tensor] = list(self.forward_image(images)["backbone_fpn"][-self.num_feature_levels :])
        maps[-1] = maps[-1] + self.no_mem_embed.view(1, -1, 1, 1)
        return maps

    def decode_language(
        self, features: list[torch.Tensor], language: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw one mask an embedding, with language as the only prompt.

        Args:
            features: as :meth:`image_features` gives them, already one entry an object: the first axis is M.
            language: (M, C) embeddings; M may be 0.

        Returns:
            The best mask's logits (M, S/4, S/4), its predicted IoU (M,), 0 to 1, and the object score (M,), a logit.
        """
        if not len(language):
            # sam2's decoder can't reshape nothing; these are empty, of the right size, and have a gradient path
            return features[0][:, 0], language[:, 0], language[:, 0]
        encoder = self.sam_prompt_encoder
        # A zero point labelled -1 and the padding point: both become not_a_point_embed.
        padding = encoder.not_a_point_embed.weight.expand(len(language), 2, -1)
        sparse = torch.cat([padding.to(language.dtype), language.unsqueeze(1)], dim=1)
        dense = encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(features[-1])
        masks, ious, _, object_scores = self.sam_mask_decoder(
            image_embeddings=features[-1],
            image_pe=self._dense_position(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=features[:-1],
        )
        best = ious.argmax(dim=-1)
        rows = torch.arange(len(best), device=best.device)
        return masks[rows, best], ious[rows, best], object_scores[:, 0]

    def _dense_position(self) -> torch.Tensor:
        # sam2's get_dense_pe multiplies a float32 grid, which fails for float64 and bfloat16 weights
        layer = self.sam_prompt_encoder.pe_layer
        matrix = layer.positional_encoding_gaussian_matrix
        steps = torch.arange(self.sam_image_embedding_size, device=matrix.device, dtype=torch.float32)
        centres = (steps + 0.5) / self.sam_image_embedding_size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        position: torch.Tensor = layer._pe_encoding(torch.stack([x, y], dim=-1).to(matrix.dtype))
        return position.permute(2, 0, 1).unsqueeze(0)


class _BuildsOnMeta(TorchFunctionMode):
    """Lets sam2's modules be built on the meta device, too.

    Two of their calls can't be done there: Hiera reads a linspace with .item(), which stays real, and RoPEAttention
    moves its table to the first CUDA device there is, which is left out: its forward pass moves it again.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.to and args[0].is_meta:
            return args[0]
        extra = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **extra})


def _image_encoder(config: GroundingConfig) -> ImageEncoder:
    with _BuildsOnMeta():
        trunk = Hiera(
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            stages=tuple(config.stages),
            global_att_blocks=tuple(config.global_att_blocks),
            window_pos_embed_bkg_spatial_size=tuple(config.window_pos_embed_bkg_spatial_size),
            window_spec=tuple(config.window_spec),
        )
    neck = FpnNeck(
        position_encoding=_position(config.hidden_dim),
        d_model=config.hidden_dim,
        backbone_channel_list=list(trunk.channel_list),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)


def _position(features: int) -> PositionEmbeddingSine:
    # without its cache, which would be filled on the first CUDA device even for a network that runs elsewhere
    return PositionEmbeddingSine(num_pos_feats=features, normalize=True, temperature=10000, warmup_cache=False)


def _memory_attention(config: GroundingConfig) -> MemoryAttention:
    side = config.image_size // 16
    shared: dict[str, Any] = {
        "rope_theta": 10000.0,
        "feat_sizes": (side, side),
        "embedding_dim": config.hidden_dim,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.1,
    }
    with _BuildsOnMeta():
        layer = MemoryAttentionLayer(
            activation="relu",
            d_model=config.hidden_dim,
            dim_feedforward=config.memory_feedforward_dim,
            dropout=0.1,
            pos_enc_at_attn=False,
            pos_enc_at_cross_attn_keys=True,
            pos_enc_at_cross_attn_queries=False,
            self_attention=RoPEAttention(**shared),
            cross_attention=RoPEAttention(**shared, rope_k_repeat=True, kv_in_dim=config.mem_dim),
        )
    return MemoryAttention(
        d_model=config.hidden_dim, pos_enc_at_input=True, layer=layer, num_layers=config.memory_layers
    )


def _memory_encoder(config: GroundingConfig) -> MemoryEncoder:
    return MemoryEncoder(
        in_dim=config.hidden_dim,
        out_dim=config.mem_dim,
        position_encoding=_position(config.mem_dim),
        mask_downsampler=MaskDownSampler(embed_dim=config.hidden_dim, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(
            CXBlock(dim=config.hidden_dim, kernel_size=7, padding=3, layer_scale_init_value=1e-6, use_dwconv=True),
            num_layers=2,
        ),
    )
