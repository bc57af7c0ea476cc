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
"""A whole Sa2VA of each of Qwen's families, through the doors that InternVL's goes through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.errors import DataError
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.stack import StackInferer
from monai_sa2va.networks.chat import generate_reply
from monai_sa2va.networks.naming import find_objects
from monai_sa2va.networks.parts import PARTS, freeze, part_of
from monai_sa2va.networks.reader import TokenReader
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.processor import Sa2VAProcessord
from monai_sa2va.transforms.sentences import answer_segments

QUESTION = "Segment the vessels."


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def config(request: pytest.FixtureRequest, micro_qwens: dict[str, Sa2VAConfig]) -> Sa2VAConfig:
    return micro_qwens[request.param]


@pytest.fixture(scope="module")
def network(config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(config, seed=0).double().eval()


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def batch(network: Sa2VA) -> dict[str, Any]:
    """Two pictures of other shapes, with 1 and 2 objects, as training has them."""
    process = Sa2VAProcessord(network.processor)
    samples = []
    for names, size in ((["vessels"], (32, 32)), (["optic disc", "a long name"], (24, 70))):
        masks = np.random.default_rng(1).random((len(names), 24, 24)) < 0.3
        turns = [(f"Segment the {name}.", answer_segments([name])) for name in names]
        image = torch.from_numpy(_picture(*size).transpose(2, 0, 1).copy())
        samples.append(process({"image": image, "turns": turns, "gt_masks": masks}))
    return sa2va_collate(samples)


def test_pictures_of_any_shape_make_a_batch(network: Sa2VA, batch: dict[str, Any]) -> None:
    grids = batch["image_grid_thw"]
    assert grids[:, 0].tolist() == [1, 1]
    assert grids[0, 1] == grids[0, 2]
    assert grids[1, 2] > grids[1, 1]
    assert batch["pixel_values"].shape == (int(grids.prod(1).sum()), 96)
    places = (batch["input_ids"] == network.processor.image_token_id).sum(1)
    assert places.tolist() == (grids.prod(1) // 4).tolist()
    assert set(batch) >= {"g_pixel_values", "input_ids", "labels", "attention_mask", "gt_masks", "frames_per_batch"}


def test_prompt_is_the_references(network: Sa2VA) -> None:
    sample = network.processor.prompt(_picture(32, 32), QUESTION)
    tokens = network.processor.n_tiles(sample)
    assert tokens == len(sample["pixel_values"]) // 4
    assert network.tokenizer.decode(sample["input_ids"]) == (
        "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * tokens + f"<|vision_end|>{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\nSure, <p>vessels</p> [SEG].<|im_end|>"
    )
    # several pictures follow one another, each between marks of its own
    ids = network.processor.conversation([("?", None)], [1, 2])["input_ids"]
    assert "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|image_pad|><|vision_end|>?" in (
        network.tokenizer.decode(ids)
    )


def test_a_training_step(config: Sa2VAConfig, batch: dict[str, Any]) -> None:
    network = Sa2VA(config, seed=0).train()
    output = network(batch)
    assert output["pred_masks"].shape == (2, 2, 16, 16)
    assert output["seg_states"].shape == (3, 32)
    assert all(torch.isfinite(output[key]) for key in ("loss", "loss_mask", "loss_dice", "loss_lang"))
    output["loss"].backward()
    # memory is not asked on one picture
    idle = {part_of(name) for name, p in network.named_parameters() if p.grad is None} - {"grounding_encoder.memory"}
    assert idle <= {"grounding_encoder.prompt_encoder", "grounding_encoder.mask_decoder"}
    before = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    network.gradient_checkpointing_enable()
    network(batch)["loss"].backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, before[name], atol=1e-5, rtol=1e-3), name


def test_losses_fall(config: Sa2VAConfig, batch: dict[str, Any]) -> None:
    network = Sa2VA(config, seed=0).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        output = network(batch)
        output["loss"].backward()
        optimizer.step()
        losses.append((output["loss"].item(), output["loss_lang"].item()))
    assert losses[-1][0] < 0.8 * losses[0][0]
    assert losses[-1][1] < 0.8 * losses[0][1]


def test_parts(network: Sa2VA, config: Sa2VAConfig) -> None:
    assert {part_of(name) for name, _ in network.named_parameters()} == set(PARTS)
    assert network.vision_tower is network.mllm.model.visual
    assert network.language_model is network.mllm.model.language_model
    assert part_of("mllm.model.visual.merger.mlp.0.weight") == "multi_modal_projector"
    assert part_of("mllm.model.visual.deepstack_merger_list.0.norm.weight") == "multi_modal_projector"
    assert part_of("mllm.model.visual.blocks.0.norm1.weight") == "vision_tower"
    frozen = freeze(Sa2VA(config), ["vision_tower"])
    still = {part_of(name) for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert still == {"vision_tower"}


@torch.no_grad()
def test_the_three_ways_to_a_mask_agree(network: Sa2VA) -> None:
    picture = _picture(40, 60)
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].double() / 255
    logits = network(image, text=QUESTION)
    assert logits.shape == (1, 1, 40, 60)
    result = ImageInferer(presence_threshold=None)(picture, network, [QUESTION, "Segment the cyst and the drain."])
    assert result.names == ["vessels", "cyst", "drain"]
    assert torch.equal(result.masks[0], logits[0, 0] > 0)
    stack = StackInferer(presence_threshold=None)([picture, _picture(40, 60, 1)], network, QUESTION, first=0)
    assert torch.equal(stack[0].masks[0], result.masks[0])
    assert stack[1].masks.shape == (1, 40, 60)


@torch.no_grad()
def test_chat_says_what_whole_passes_say(network: Sa2VA) -> None:
    sample = network.processor.image(_picture(24, 70))
    tokens = network.mllm.encode_image(sample["pixel_values"].double(), sample["image_grid_thw"])
    reply = generate_reply(network, tokens, QUESTION, max_new_tokens=8)
    ids = network.processor.conversation([(QUESTION, None)], network.processor.n_tiles(sample))["input_ids"].tolist()
    never = [network.tokenizer.convert_tokens_to_ids(token) for token in network.processor.picture_tokens]
    assert len(reply.ids) == 8
    for token in reply.ids:
        states = network.mllm.hidden_states(network.mllm.embed(torch.tensor([ids]), tokens), None)
        scores = network.mllm.vocabulary_logits(states[0, -1])
        scores[never] = -torch.inf
        assert token == int(scores.argmax())
        ids.append(token)


@torch.no_grad()
def test_chat_through_the_inferer(network: Sa2VA) -> None:
    result = ImageInferer(max_new_tokens=4)(_picture(30, 30), network, QUESTION, mode="chat")
    assert len(result.masks) == len(result.names) == result.replies[0].ids.count(network.processor.seg_token_id)


@torch.no_grad()
def test_reading_goes_back_to_where_it_was(network: Sa2VA) -> None:
    """As naming does; positions behind a picture have to go back, too."""
    sample = network.processor.image(_picture(24, 70))
    tokens = network.mllm.encode_image(sample["pixel_values"].double(), sample["image_grid_thw"])
    asked = network.processor.conversation([(QUESTION, None)], network.processor.n_tiles(sample))["input_ids"].tolist()
    reader = TokenReader(network)
    reader.feed(asked, tokens)
    reader.feed([5, 6, 7])
    reader.back_to(len(asked) + 1)
    found = reader.feed([8, 9])
    states = network.mllm.hidden_states(network.mllm.embed(torch.tensor([[*asked, 5, 8, 9]]), tokens), None)
    expected = network.mllm.vocabulary_logits(states[0, -2:]).float().log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert find_objects(network, tokens, QUESTION) == ["vessels"]


def test_a_batch_without_grids(network: Sa2VA, batch: dict[str, Any]) -> None:
    del batch["image_grid_thw"]
    with pytest.raises(DataError, match="the batch holds no image_grid_thw; build it with the processor"):
        network(batch)
