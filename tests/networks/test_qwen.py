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

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.networks.grid_tokens import GridTokens
from monai_sa2va.networks.mllm import build_mllm
from monai_sa2va.networks.qwen import Qwen3VL, Qwen25VL

IMAGE = 261  # <|image_pad|> of the byte-level tokenizer
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
Build = Callable[..., Qwen25VL | Qwen3VL]


@pytest.fixture(scope="module")
def build(micro_qwens: dict[str, Sa2VAConfig]) -> Build:
    def built(family: str, **changes: Any) -> Any:
        torch.manual_seed(0)
        return build_mllm(replace(micro_qwens[family], **changes), IMAGE).double().eval()

    return built


def _patches(*grids: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures of so many rows and columns of patches."""
    generator = torch.Generator().manual_seed(seed)
    number = sum(rows * columns for rows, columns in grids)
    pixels = torch.randn(number, 3 * 2 * 4 * 4, generator=generator, dtype=torch.float64)
    return pixels, torch.tensor([[1, rows, columns] for rows, columns in grids])


def _ids(*parts: int | list[int]) -> torch.Tensor:
    """One row: a number stands for as many image tokens."""
    return torch.tensor([[i for part in parts for i in ([IMAGE] * part if isinstance(part, int) else part)]])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_as_transformers_own_forward_pass(build: Build, family: str) -> None:
    """Which makes positions and deepstack by itself, of two pictures in a row of other text."""
    mllm = build(family)
    pixels, grids = _patches((4, 6), (2, 8))
    ids = _ids([5, 6, 7], 6, [8], 4, [9, 10, 11, 12])
    embedded = mllm.embed(ids, mllm.encode_image(pixels, grids))
    found = mllm.vocabulary_logits(mllm.hidden_states(embedded, torch.ones_like(ids)))
    expected = mllm(
        input_ids=ids,
        pixel_values=pixels,
        image_grid_thw=grids,
        mm_token_type_ids=(ids == IMAGE).int(),
        attention_mask=torch.ones_like(ids),
    ).logits
    assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_pictures_of_a_batch_do_not_hear_each_other(build: Build, family: str) -> None:
    mllm = build(family)
    first, second = _patches((4, 4)), _patches((2, 6), seed=1)
    ids = torch.zeros(2, 9, dtype=torch.long)
    ids[0], ids[1, :6] = _ids([5, 6], 4, [7, 8, 9]), _ids([5], 3, [6, 7])
    attended = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    both = mllm.encode_image(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))
    assert both.grids == ((2, 2), (1, 3))
    states = mllm.hidden_states(mllm.embed(ids, both), attended)
    for row, (pixels, grid), length in ((0, first, 9), (1, second, 6)):
        alone = mllm.embed(ids[row : row + 1, :length], mllm.encode_image(pixels, grid))
        assert torch.allclose(states[row, :length], mllm.hidden_states(alone, None)[0], atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_read_on_with_a_cache(build: Build, family: str) -> None:
    mllm = build(family)
    tokens = mllm.encode_image(*_patches((2, 10)))
    ids = _ids([5, 6], 5, [7, 8, 9, 10])
    whole = mllm.hidden_states(mllm.embed(ids, tokens), None)
    states, cache, position = mllm.read(mllm.embed(ids[:, :8], tokens), None, 0)
    # two of text, the picture's longer side, one of text
    assert position == 2 + 5 + 1
    assert torch.allclose(states, whole[:, :8], atol=1e-10)
    for place in (8, 9, 10):
        states, cache, position = mllm.read(mllm.embed(ids[:, place : place + 1], None), cache, position)
        assert torch.allclose(states[0, 0], whole[0, place], atol=1e-10)
    assert position == 11


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_state_before_the_final_norm(build: Build, family: str) -> None:
    """Only what is handed over differs: what the language model says next is the same."""
    ids = torch.tensor([[1, 2, 3]])
    before, after = build(family, seg_state="pre_norm"), build(family, seg_state="post_norm")
    raw, normed = (mllm.hidden_states(mllm.embed(ids, None), None) for mllm in (before, after))
    # a new network's norm has weight one
    assert torch.allclose(normed.square().mean(-1), torch.ones(1, 3, dtype=torch.float64), atol=1e-3)
    assert (raw.square().mean(-1) - 1).abs().min() > 0.1
    assert torch.allclose(before.model.language_model.norm(raw), normed, atol=1e-12)
    assert torch.allclose(before.vocabulary_logits(raw), after.vocabulary_logits(normed), atol=1e-12)
    state, _, _ = before.read(before.embed(ids, None), None, 0)
    assert torch.allclose(state, raw, atol=1e-12)


@torch.no_grad()
def test_deepstack_is_heard(build: Build) -> None:
    mllm = build("qwen3_vl")
    tokens = mllm.encode_image(*_patches((4, 4)))
    assert [level.shape for level in tokens.deepstack] == [(4, 32), (4, 32)]
    ids = _ids([5], 4, [6])
    deaf = GridTokens(tokens.features, tokens.grids)
    with_it, without = (mllm.hidden_states(mllm.embed(ids, given), None) for given in (tokens, deaf))
    assert torch.allclose(with_it[0, 0], without[0, 0])
    assert (with_it[0, 1:] - without[0, 1:]).abs().amax(-1).min() > 1e-3
    assert build("qwen2_5_vl").encode_image(*_patches((4, 4))).deepstack == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_pictures(build: Build, family: str) -> None:
    mllm = build(family)
    ids = _ids([5], 4, [6, 7])
    states = mllm.hidden_states(mllm.embed(ids, mllm.encode_image(*_patches((4, 4)))), None)
    states[0, -1].sum().backward()
    # the head isn't asked, nor, where [SEG] is read before it, the final norm
    idle = {"lm_head.weight"} | ({"model.language_model.norm.weight"} if family == "qwen3_vl" else set())
    assert {name for name, parameter in mllm.named_parameters() if parameter.grad is None} == idle
    assert mllm.model.visual.patch_embed.proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_refusals_of_a_batch(build: Build, family: str) -> None:
    mllm = build(family)
    pixels, grids = _patches((4, 4))
    for wrong, message in (
        ((pixels[:, :-1], grids), r"pixel_values has shape \(16, 95\); expected \(patches, 96\)"),
        ((pixels[None], grids), r"pixel_values has shape \(1, 16, 96\)"),
        ((pixels, None), "the batch holds no image_grid_thw"),
        ((pixels[:12], grids), r"image_grid_thw is \[\[1, 4, 4\]\] for 12 patches"),
        ((pixels[:12], torch.tensor([[1, 4, 3]])), "multiples of 2 that make as many"),
        ((pixels, torch.tensor([[2, 2, 4]])), r"image_grid_thw is \[\[2, 2, 4\]\]"),
        ((pixels, torch.tensor([1, 4, 4])), r"image_grid_thw is \(3,\)"),
    ):
        with pytest.raises(DataError, match=message):
            mllm.encode_image(*wrong)
    tokens = mllm.encode_image(pixels, grids)
    for places in (3, 5):
        with pytest.raises(DataError, match=f"input_ids hold {places} image tokens, pixel_values make 4"):
            mllm.embed(_ids(places, [1]), tokens)
    with pytest.raises(DataError, match="hold 4 image tokens, pixel_values make 0"):
        mllm.embed(_ids(4), None)
    with pytest.raises(DataError, match="hold 3 image tokens in a row, the picture of image_grid_thw makes 2 x 2"):
        mllm.embed(_ids(3, [1], 1), tokens)


def test_refusals_of_a_configuration(micro_qwens: dict[str, Sa2VAConfig]) -> None:
    config = micro_qwens["qwen3_vl"]
    with pytest.raises(ConfigError, match=r"text\.model_type is 'qwen2'; the family qwen3_vl has qwen3_vl_text"):
        build_mllm(replace(config, text=replace(config.text, model_type="qwen2")), IMAGE)
    shallow = replace(config, text=replace(config.text, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"vision\.deepstack_layers has 2 layers, the language model 1"):
        build_mllm(shallow, IMAGE)
