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

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.parts import PARTS, freeze, part_of, trainable_summary, weights_hash
from monai_sa2va.networks.sa2va import Sa2VA

RECIPE = [
    "vision_tower",
    "grounding_encoder.image_encoder",
    "grounding_encoder.prompt_encoder",
    "grounding_encoder.memory",
]


@pytest.fixture
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


def test_every_parameter_belongs_to_a_part_and_every_part_has_some(network: Sa2VA) -> None:
    assert {part_of(name) for name, _ in network.named_parameters()} == set(PARTS)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("mllm.model.vision_tower.embeddings.cls_token", "vision_tower"),
        ("mllm.model.multi_modal_projector.linear_1.weight", "multi_modal_projector"),
        ("mllm.model.language_model.embed_tokens.weight", "embeddings"),
        ("mllm.lm_head.weight", "embeddings"),
        ("mllm.model.language_model.norm.weight", "language_model"),
        ("text_hidden_fcs.2.bias", "text_hidden_fcs"),
        ("grounding_encoder.sam2_model.image_encoder.neck.convs.0.conv.weight", "grounding_encoder.image_encoder"),
        ("grounding_encoder.sam2_model.sam_prompt_encoder.no_mask_embed.weight", "grounding_encoder.prompt_encoder"),
        ("grounding_encoder.sam2_model.sam_mask_decoder.mask_tokens.weight", "grounding_encoder.mask_decoder"),
        ("grounding_encoder.sam2_model.no_mem_embed", "grounding_encoder.memory"),
        ("grounding_encoder.sam2_model.obj_ptr_proj.layers.0.weight", "grounding_encoder.memory"),
    ],
)
def test_part_of(name: str, part: str) -> None:
    assert part_of(name) == part


def test_name_of_no_part() -> None:
    with pytest.raises(ConfigError, match=r"'classifier\.weight' belongs to no part"):
        part_of("classifier.weight")


def test_summary_adds_up(network: Sa2VA) -> None:
    summary = trainable_summary(freeze(network, RECIPE))
    assert list(summary) == list(PARTS)
    assert sum(total for _, total in summary.values()) == sum(p.numel() for p in network.parameters())
    for part, (trained, total) in summary.items():
        assert (trained, total) == ((0, total) if part in RECIPE else (total, total))
        assert total > 0


def test_frozen_parts_get_no_gradient(network: Sa2VA, micro_batch: dict[str, Any]) -> None:
    freeze(network, RECIPE)
    network.train()(micro_batch)["loss"].backward()
    with_gradient = {part_of(name) for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == set(PARTS) - set(RECIPE)


def test_common_beginning_and_thawing(network: Sa2VA) -> None:
    freeze(network, ["grounding_encoder"])
    assert {part_of(n) for n, p in network.named_parameters() if not p.requires_grad} == {
        part for part in PARTS if part.startswith("grounding_encoder.")
    }
    freeze(network, [])
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["vision"], "there is no part 'vision'; parts: vision_tower"),
        (["grounding_encoder.image"], "no part 'grounding_encoder.image'"),
        ([""], "leaves nothing to train"),
        (list(PARTS), "leaves nothing to train"),
    ],
)
def test_bad_freezing(network: Sa2VA, parts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(network, parts)


def test_hash_changes_with_any_weight_and_with_nothing_else(network: Sa2VA, micro_config: Sa2VAConfig) -> None:
    before = weights_hash(network)
    assert len(before) == 64
    assert weights_hash(Sa2VA(micro_config, seed=0)) == before != weights_hash(Sa2VA(micro_config, seed=1))
    with torch.no_grad():
        network.text_hidden_fcs[2].bias[0] += 1
    assert weights_hash(network) != before


def test_hash_reads_bfloat16_and_scalars() -> None:
    module = torch.nn.BatchNorm1d(2).to(torch.bfloat16)
    assert weights_hash(module) == weights_hash(module)
