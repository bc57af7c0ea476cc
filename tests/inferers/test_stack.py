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

"""Stacks of slices, drawn where the object is shown and carried through the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.inferers.showing import show_object
from monai_sa2va.inferers.stack import OBJECT_NAME, StackInferer
from monai_sa2va.inferers.visual_prompts import VisualPrompts, sort_by_slice
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA

SENTENCE = "Segment the vessels."


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


@pytest.fixture(scope="module")
def slices() -> list[np.ndarray]:
    return list(np.random.default_rng(2).integers(0, 256, (7, 24, 40, 3)).astype(np.uint8))


def _masks(results: list[ImageResult]) -> torch.Tensor:
    return torch.stack([result.masks for result in results])


def _presence(results: list[ImageResult]) -> torch.Tensor:
    return torch.stack([result.presence for result in results])


class _Recorder:
    """What SAM2 is asked for, call by call."""

    def __init__(self, network: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[GroundingPrompts] = []
        original = network.grounding_encoder.sam2_model.decode

        def decode(features: Any, prompts: GroundingPrompts, multimask: bool = True) -> Any:
            self.prompts.append(prompts)
            return original(features, prompts, multimask)

        monkeypatch.setattr(network.grounding_encoder.sam2_model, "decode", decode)


def test_a_sentence_alone_draws_what_the_image_inferer_draws(network: Sa2VA, slices: list[np.ndarray]) -> None:
    (ours,) = StackInferer()(slices[:1], network, SENTENCE)
    theirs = ImageInferer()(slices[0], network, SENTENCE)
    assert ours.masks.shape == (1, 24, 40)
    assert torch.equal(ours.masks, theirs.masks)
    torch.testing.assert_close(ours.presence, theirs.presence)
    torch.testing.assert_close(ours.iou_scores, theirs.iou_scores)
    assert ours.names == theirs.names == ["vessels"]
    assert ours.answers == theirs.answers
    assert ours.prompt_indices == theirs.prompt_indices
    assert ours.phrases == theirs.phrases


def test_the_middle_slice_is_asked_and_the_rest_carried(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _Recorder(network, monkeypatch)
    done: list[tuple[int, int]] = []
    result = StackInferer()(slices, network, "vessels and optic disc", progress=lambda *now: done.append(now))
    assert len(result) == 7
    assert _masks(result).shape == (7, 2, 24, 40)
    assert result[0].presence.shape == (2,)
    assert [bool(prompts.has_language.any()) for prompts in seen.prompts] == [True] + [False] * 6
    assert done == [(number, 7) for number in range(1, 8)]


def test_both_ways_are_alike(network: Sa2VA, slices: list[np.ndarray]) -> None:
    there = StackInferer()(slices, network, SENTENCE, first=2)
    back = StackInferer()(slices[::-1], network, SENTENCE, first=4)
    assert torch.equal(_masks(there), _masks(back).flip(0))
    torch.testing.assert_close(_presence(there), _presence(back).flip(0))


def test_clicks_come_one_after_the_other_with_the_mask_before(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _Recorder(network, monkeypatch)
    shown = sort_by_slice((24, 40), [[0, 0, 1], [39, 23, 0]])
    StackInferer()(slices[:1], network, SENTENCE, shown)
    assert [prompts.point_labels.tolist() for prompts in seen.prompts] == [[[]], [[1]], [[1, 0]]]
    assert [bool(prompts.has_mask) for prompts in seen.prompts] == [False, True, True]
    # centres of the first and last pixel of 40 x 24 in SAM2's 64 x 64
    expected = [[0.5 * 64 / 40 - 0.5, 0.5 * 64 / 24 - 0.5], [39.5 * 64 / 40 - 0.5, 23.5 * 64 / 24 - 0.5]]
    np.testing.assert_allclose(seen.prompts[-1].points[0].numpy(), expected, rtol=1e-6)


def test_clicks_are_drawn_into_the_mask_before_where_the_network_was_trained_so(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = sort_by_slice((24, 40), [[0, 0, 1], [39, 23, 0]])
    handed_back = {}
    for width in (0.0, 1.0):
        monkeypatch.setattr(network.grounding_encoder.sam2_model, "click_mark", width)
        seen = _Recorder(network, monkeypatch)
        StackInferer()(slices[:1], network, SENTENCE, shown)
        assert seen.prompts[-1].masks is not None
        handed_back[width] = seen.prompts[-1].masks[0, 0]
        monkeypatch.undo()
    # both clicks, in the corners of the 16 x 16 mask
    assert handed_back[1.0][0, 0].item() > 5
    assert handed_back[1.0][15, 15].item() < -5
    assert handed_back[0.0].abs().max().item() < 5


def test_without_a_sentence_the_first_click_begins(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _Recorder(network, monkeypatch)
    (result,) = StackInferer()(slices[:1], network, shown=sort_by_slice((24, 40), [[1, 2, 1], [3, 4, 0]]))
    assert result.names == [OBJECT_NAME]
    assert result.answers == [""]
    assert [prompts.point_labels.tolist() for prompts in seen.prompts] == [[[1]], [[1, 0]]]
    assert [bool(prompts.has_mask) for prompts in seen.prompts] == [False, True]
    assert not any(prompts.has_language.any() for prompts in seen.prompts)


def test_one_click_less_is_an_undo(network: Sa2VA, slices: list[np.ndarray]) -> None:
    first = sort_by_slice((24, 40), [[1, 2, 1]])
    both = sort_by_slice((24, 40), [[1, 2, 1], [30, 20, 0]])
    once = StackInferer()(slices[:1], network, shown=first)
    twice = StackInferer()(slices[:1], network, shown=both)
    again = StackInferer()(slices[:1], network, shown=first)
    assert torch.equal(_masks(once), _masks(again))
    assert torch.equal(_presence(once), _presence(again))
    assert not torch.equal(_presence(once), _presence(twice))


def test_a_box_holds_its_last_pixel(network: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Recorder(network, monkeypatch)
    maps = network.grounding_encoder.encode(torch.zeros(1, 3, 64, 64))
    visual = VisualPrompts(box=np.array([0.0, 0.0, 31.0, 15.0]))
    with torch.inference_mode():
        show_object(network, maps, GroundingPrompts.empty(1), visual, (16, 32))
    # the edges of the picture are those of SAM2's image
    assert seen.prompts[0].points.tolist() == [[[-0.5, -0.5], [63.5, 63.5]]]
    assert seen.prompts[0].point_labels.tolist() == [[2, 3]]


def test_a_rough_mask_is_handed_over(network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Recorder(network, monkeypatch)
    mask = np.zeros((24, 40), bool)
    mask[:, :20] = True
    StackInferer()(slices[:1], network, shown=sort_by_slice((24, 40), mask=mask))
    given = seen.prompts[0].masks
    assert given is not None
    assert given.shape == (1, 1, 16, 16)
    assert given[0, 0, 3].tolist() == [10.0] * 8 + [-10.0] * 8


def test_what_is_not_there_is_emptied_but_not_where_it_is_shown(network: Sa2VA, slices: list[np.ndarray]) -> None:
    config = network.config
    network.config = replace(config, presence_threshold=1.0)
    try:
        result = StackInferer()(slices, network, SENTENCE, sort_by_slice((7, 24, 40), [[20, 12, 1, 1]]))
        asked = StackInferer()(slices, network, SENTENCE)
    finally:
        network.config = config
    free = StackInferer()(slices, network, SENTENCE, sort_by_slice((7, 24, 40), [[20, 12, 1, 1]]))
    assert torch.equal(result[1].masks, free[1].masks)
    assert not _masks(result)[[0, 2, 3, 4, 5, 6]].any()
    assert not _masks(asked).any()
    never = StackInferer(presence_threshold=None)(slices, network, SENTENCE)
    assert _masks(never).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither a prompt nor anything shown"),
        ({"prompt": " "}, "empty"),
        ({"prompt": SENTENCE, "first": 2.0}, "the slice to ask in is 2.0; give its whole number, 0 to 6"),
        ({"prompt": SENTENCE, "first": "0"}, "the slice to ask in is '0'"),
        ({"prompt": SENTENCE, "first": True}, "the slice to ask in is True"),
        ({"prompt": SENTENCE, "first": 7}, "slice 7 is not there; the stack has 7"),
        ({"shown": {9: VisualPrompts(box=np.array([0, 0, 1, 1]))}}, "slice 9 is not there"),
        ({"shown": sort_by_slice((7, 24, 40), [[1, 1, 2, 0]])}, "slice 2 begins with a click beside the object"),
        ({"prompt": "vessels and disc", "shown": sort_by_slice((7, 24, 40), [[1, 1, 2, 1]])}, r"names 2 objects"),
    ],
)
def test_refused(network: Sa2VA, slices: list[np.ndarray], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        StackInferer()(slices, network, **arguments)
