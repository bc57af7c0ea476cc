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

"""A picture or the first frames of a cine, asked about as the reference does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.inferers.first_frames import FirstFramesInferer
from monai_sa2va.inferers.forward import ForwardDrawer
from monai_sa2va.networks import chat
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.chat import Control, encode

TEXT = "<image>Segment the vessels."
TWO = "<p>vessels</p> [SEG] and <p>optic disc</p> [SEG]."


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(np.random.default_rng(2).integers(0, 256, (5, 24, 40, 3)).astype(np.uint8))


def _masks(results: Any) -> Tensor:
    return torch.stack([result.masks for result in results])


def test_language_draws_the_first_frames_and_memory_the_others(
    network: Sa2VA, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GroundingPrompts] = []
    attended: list[list[int]] = []
    sam2 = network.grounding_encoder.sam2_model
    decode, attend = sam2.decode, sam2.attend

    def note(features: Any, prompts: GroundingPrompts) -> Any:
        asked.append(prompts)
        return decode(features, prompts)

    def note_memory(feature_map: Tensor, entries: Any) -> Tensor:
        attended.append([entry.distance for entry in entries])
        assert {entry.features.dtype for entry in entries} == {torch.bfloat16}
        return attend(feature_map, entries)

    monkeypatch.setattr(sam2, "decode", note)
    monkeypatch.setattr(sam2, "attend", note_memory)
    steps: list[tuple[int, int]] = []
    found = FirstFramesInferer(n_context=2)(
        frames, network, "Segment the vessels.", progress=lambda done, all_: steps.append((done, all_))
    )
    assert [bool(prompts.has_language.any()) for prompts in asked] == [True, True, False, False, False]
    assert asked[0].language is not None
    assert asked[1].language is not None
    # the same in each of them
    assert torch.equal(asked[0].language, asked[1].language)
    # both prompted frames, and those that memory drew, near ones last
    assert attended == [[0, 0], [0, 0, 1], [0, 0, 1, 2]]
    assert steps == [(n, 5) for n in range(1, 6)]
    assert _masks(found).shape == (5, 1, 24, 40)
    assert found[0].answers == ["Sure, <p>vessels</p> [SEG]."]


def test_no_object_depends_on_those_beside_it(network: Sa2VA, frames: list[np.ndarray]) -> None:
    language = torch.randn(3, network.config.grounding.hidden_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = list(ForwardDrawer(2)(frames, network.eval(), language))
        apart = list(ForwardDrawer(2, max_objects=1)(frames, network, language))
    assert torch.equal(_masks(together), _masks(apart))
    assert not torch.equal(together[0].masks[0], together[0].masks[1])
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one.object_scores, other.object_scores, atol=1e-4, rtol=1e-4)


def test_each_seg_of_an_answer_has_its_mask_and_its_name(network: Sa2VA, frames: list[np.ndarray]) -> None:
    found = FirstFramesInferer().predict(frames, network, TEXT, clip=True, answer=TWO)
    assert found.text == TWO + "<|im_end|>"
    assert found.names == ("vessels", "optic disc")
    assert _masks(found.frames).shape == (5, 2, 24, 40)
    one = FirstFramesInferer().predict(frames[:1], network, TEXT, answer=TWO)
    assert _masks(one.frames).shape == (1, 2, 24, 40)


def test_without_any_seg_there_is_no_mask(network: Sa2VA, frames: list[np.ndarray]) -> None:
    found = FirstFramesInferer().predict(frames, network, TEXT, clip=True, answer="There is none.")
    assert _masks(found.frames).shape == (5, 0, 24, 40)


def test_a_seg_in_the_question_has_no_mask(network: Sa2VA, frames: list[np.ndarray]) -> None:
    found = FirstFramesInferer().predict(frames[:1], network, TEXT + " [SEG]", answer="It is [SEG].")
    assert len(found.frames[0].masks) == 1


def test_text_alone(network: Sa2VA) -> None:
    found = FirstFramesInferer(max_new_tokens=4).predict([], network, "Hello.", past_text="Before. ")
    assert len(found.ids) == 4
    assert found.frames == []


def test_regions_add_what_they_cover_of_the_whole_picture(
    network: Sa2VA, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Tensor, Any]] = []
    feed = chat.TokenReader.feed

    def note(reader: Any, ids: Any, image_tokens: Any = None, last: bool = False) -> Tensor:
        if image_tokens is not None:
            read.append((torch.tensor(ids), image_tokens))
        return feed(reader, ids, image_tokens, last)

    monkeypatch.setattr(chat.TokenReader, "feed", note)
    side = round(network.config.tokens_per_tile**0.5)
    masks = np.zeros((2, 24, 40))
    masks[0] = 1
    masks[1, 0, 0] = 1
    FirstFramesInferer().predict(frames[:1], network, TEXT, mask_prompts=masks, answer="It is [SEG].")
    ids, tokens = read[0]
    whole = side * side
    # 2 tiles and a thumbnail, all of the thumbnail again, and its first token
    assert len(tokens) == 3 * whole + whole + 1
    assert torch.equal(tokens[3 * whole : 4 * whole], tokens[2 * whole : 3 * whole])
    assert torch.equal(tokens[-1], tokens[2 * whole])
    image = network.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert int((ids == image).sum()) == len(tokens)
    said = network.tokenizer.decode(ids)
    assert "There are 2 part regions in the picture: region1<vp>" in said


def test_a_seg_at_the_limit_is_told_to_have_no_mask(network: Sa2VA, frames: list[np.ndarray]) -> None:
    seg = network.processor.seg_token_id

    def prefer(_: Any, __: Any, logits: Tensor) -> Tensor:
        chosen = torch.zeros_like(logits)
        chosen[..., seg] = 1
        return chosen

    hook = network.mllm.lm_head.register_forward_hook(prefer)
    try:
        with pytest.warns(UserWarning, match="cut short behind a \\[SEG\\], which has no mask"):
            found = FirstFramesInferer(max_new_tokens=3).predict(frames[:1], network, TEXT)
    finally:
        hook.remove()
    assert found.ids == (seg,) * 3
    assert len(found.frames[0].masks) == 2


def test_chat_asks_about_the_frames_and_names_masks(
    network: Sa2VA, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = encode(network.tokenizer, [Control("I see <p>a cyst</p> [SEG].<|im_end|>")])
    left = list(answer)

    def prefer(_: Any, __: Any, logits: Tensor) -> Tensor:
        chosen = torch.zeros_like(logits)
        chosen[..., left.pop(0)] = 1
        return chosen

    hook = network.mllm.lm_head.register_forward_hook(prefer)
    try:
        found = FirstFramesInferer()(frames, network, "What is there?", mode="chat")
    finally:
        hook.remove()
    assert found[0].answers == ["I see <p>a cyst</p> [SEG]."]
    assert found[4].names == ["a cyst"]
    assert _masks(found).shape == (5, 1, 24, 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_context": 0}, "n_context is 0"),
        ({"memory_dtype": "int8"}, "memory_dtype is 'int8'; allowed: bfloat16, float32, float16, null"),
        ({"max_objects": 0}, "max_objects is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FirstFramesInferer(**options)


def test_inputs_that_are_refused(network: Sa2VA, frames: list[np.ndarray]) -> None:
    infer = FirstFramesInferer()
    uneven = [frames[0], frames[1][:20]]
    with pytest.raises(DataError, match=r"frame 1 has 40 x 20 pixels, the first 40 x 24"):
        infer(uneven, network, "Segment the vessels.")
    with pytest.raises(DataError, match="there is no frame"):
        infer([], network, "Segment the vessels.")
    with pytest.raises(DataError, match="the video has no frame"):
        infer.predict([], network, TEXT, clip=True)
    with pytest.raises(PromptError, match="give them with an image, not with a video"):
        infer.predict(frames, network, TEXT, mask_prompts=np.ones((1, 24, 40)), clip=True)
