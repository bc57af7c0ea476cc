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

"""SAM2's image encoder, memory attention and memory encoder, built from the ``sam2`` package's modules."""

from __future__ import annotations

from typing import Any

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention

from monai_sa2va.config import GroundingConfig
from monai_sa2va.networks.meta import RealTables

__all__ = ["build_image_encoder", "build_memory_attention", "build_memory_encoder"]


def build_image_encoder(config: GroundingConfig) -> ImageEncoder:
    """SAM2's Hiera with its feature pyramid."""
    with RealTables():
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


def build_memory_attention(config: GroundingConfig) -> MemoryAttention:
    """What lets a frame attend to remembered ones."""
    side = config.image_size // 16
    shared: dict[str, Any] = {
        "rope_theta": 10000.0,
        "feat_sizes": (side, side),
        "embedding_dim": config.hidden_dim,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.1,
    }
    with RealTables():
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


def build_memory_encoder(config: GroundingConfig) -> MemoryEncoder:
    """What makes a memory of a frame and the masks in it."""
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
