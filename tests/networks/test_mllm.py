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

from dataclasses import replace
from typing import Any

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.networks.mllm import InternVL, build_mllm

IMAGE = 261  # <IMG_CONTEXT> of the byte-level tokenizer


@pytest.fixture(scope="module")
def mllm(micro_config: Sa2VAConfig) -> InternVL:
    torch.manual_seed(0)
    return build_mllm(micro_config, IMAGE).double().eval()


def test_a_tile_becomes_its_tokens(mllm: InternVL, micro_config: Sa2VAConfig) -> None:
    assert micro_config.tokens_per_tile == 1
    features = mllm.encode_image(torch.randn(3, 3, 28, 28))
    assert features.shape == (3, 32)
    assert features.dtype == torch.float64


def test_features_go_to_the_image_tokens_in_order(mllm: InternVL) -> None:
    ids = torch.tensor([[5, IMAGE, IMAGE, 6], [IMAGE, 7, 8, 9]])
    features = torch.arange(3 * 32, dtype=torch.float64).view(3, 32)
    embedded = mllm.embed(ids, features)
    assert torch.equal(embedded[0, 1], features[0])
    assert torch.equal(embedded[0, 2], features[1])
    assert torch.equal(embedded[1, 0], features[2])
    words = mllm.model.language_model.embed_tokens.weight
    assert torch.equal(embedded[0, 0], words[5])
    assert torch.equal(embedded[1, 3], words[9])


def test_text_alone(mllm: InternVL) -> None:
    states = mllm.hidden_states(mllm.embed(torch.tensor([[1, 2, 3]]), None), None)
    assert states.shape == (1, 3, 32)
    assert mllm.vocabulary_logits(states).shape == (1, 3, 267)


def test_states_are_after_the_final_norm(mllm: InternVL) -> None:
    states = mllm.hidden_states(mllm.embed(torch.tensor([[1, 2, 3]]), None), None)
    # the norm's weight is one in a new network
    assert torch.allclose(states.square().mean(-1), torch.ones(1, 3, dtype=torch.float64), atol=1e-3)


@pytest.mark.parametrize(("tokens", "features"), [(2, 1), (1, 2), (1, None), (0, 1)])
def test_as_many_features_as_image_tokens(mllm: InternVL, tokens: int, features: int | None) -> None:
    ids = torch.tensor([[IMAGE] * tokens + [4]])
    given = None if features is None else torch.zeros(features, 32, dtype=torch.float64)
    with pytest.raises(DataError, match=f"input_ids hold {tokens} image tokens, pixel_values make {features or 0}"):
        mllm.embed(ids, given)


@pytest.mark.parametrize("shape", [(1, 3, 14, 28), (1, 1, 28, 28), (3, 28, 28), (1, 3, 56, 56)])
def test_tiles_of_another_shape(mllm: InternVL, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"pixel_values has shape .* expected \(tiles, 3, 28, 28\)"):
        mllm.encode_image(torch.zeros(shape))


def test_unknown_language_model(micro_config: Sa2VAConfig) -> None:
    config = replace(micro_config, text=replace(micro_config.text, model_type="gpt2"))
    with pytest.raises(ConfigError, match=r"text\.model_type is 'gpt2'; allowed: llama, qwen2"):
        build_mllm(config, IMAGE)


def test_state_before_the_norm_is_not_internvls(micro_config: Sa2VAConfig) -> None:
    with pytest.raises(ConfigError, match="seg_state is 'pre_norm'"):
        build_mllm(replace(micro_config, seg_state="pre_norm"), IMAGE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "banana"}},
            r"text\.rope_scaling is .*banana.*; give a rope_type among",
        ),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "but for default a factor of at least 1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "a factor of at least 1"),
        ({"max_position_embeddings": 0}, r"text\.max_position_embeddings is 0; give at least 1"),
    ],
)
def test_positions_that_cannot_be(micro_config: Sa2VAConfig, change: dict[str, Any], message: str) -> None:
    config = replace(micro_config, text=replace(micro_config.text, **change))
    with pytest.raises(ConfigError, match=message):
        InternVL(config, image_token_id=5)


def test_llama_shaped_internlm2_with_dynamic_rope(micro_config: Sa2VAConfig) -> None:
    text = replace(micro_config.text, model_type="llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    model = build_mllm(replace(micro_config, text=text), IMAGE)
    assert model.model.language_model.layers[0].self_attn.q_proj.bias is None
    rope = model.config.text_config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("dynamic", 2.0, 1e6)
