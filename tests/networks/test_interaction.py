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
from monai.bundle import ConfigParser

from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.interaction import SimulatedInteraction, as_interaction
from monai_sa2va.networks.prompts import GroundingPrompts

NONE = {"text_prob": 0.0, "point_prob": 0.0, "box_prob": 0.0, "mask_prob": 0.0, "mixed_prob": 0.0}


def _only(kind: str, **more: Any) -> SimulatedInteraction:
    return SimulatedInteraction(**{**NONE, f"{kind}_prob": 1.0, **more})


def _truth(number: int) -> torch.Tensor:
    truth = torch.zeros(number, 32, 32, dtype=torch.bool)
    truth[:, 8:16, 4:20] = True
    return truth


def _first(interaction: SimulatedInteraction, truth: torch.Tensor) -> GroundingPrompts:
    return interaction.first_prompts(torch.ones(len(truth), 8), truth, image_size=64)


def _inside(point: torch.Tensor, truth: torch.Tensor) -> bool:
    x, y = ((point + 0.5) / 2 - 0.5).round().long().tolist()
    return bool(truth[y, x])


class TestFirstPrompts:
    def test_text(self) -> None:
        prompts = _first(_only("text"), _truth(3))
        assert prompts.has_language.all()
        assert prompts.points.shape == (3, 0, 2)
        assert prompts.masks is None

    def test_point(self) -> None:
        truth = _truth(3)
        prompts = _first(_only("point"), truth)
        assert prompts.language is None
        assert prompts.point_labels.tolist() == [[1]] * 3
        assert all(_inside(point, mask) for point, mask in zip(prompts.points[:, 0], truth, strict=True))
        assert prompts.is_ambiguous().all()

    def test_the_most_interior_point(self) -> None:
        prompts = _first(_only("point", interior_prob=1.0), _truth(1))
        x, y = ((prompts.points[0, 0] + 0.5) / 2 - 0.5).tolist()
        # of 8 rows the fourth or fifth
        assert y in (11, 12)
        assert 7 <= x <= 16

    def test_box(self) -> None:
        prompts = _first(_only("box", box_jitter=0.0), _truth(2))
        assert prompts.point_labels.tolist() == [[2, 3]] * 2
        # columns 4 to 19 and rows 8 to 15 of 32, in pixels of 64
        assert prompts.points[0].tolist() == [[8.5, 16.5], [38.5, 30.5]]

    def test_mask(self) -> None:
        prompts = _first(_only("mask", mask_noise=0.0), _truth(2))
        assert prompts.has_mask.all()
        assert prompts.masks is not None
        assert prompts.masks.shape == (2, 1, 16, 16)
        assert (prompts.masks[:, 0, 5:7, 4:8] > 0).all()
        assert prompts.language is None

    def test_mixed(self) -> None:
        torch.manual_seed(0)
        prompts = _first(_only("mixed"), _truth(300))
        assert prompts.has_language.all()
        boxes = (prompts.point_labels[:, :2] == torch.tensor([2, 3])).all(1)
        points = prompts.point_labels[:, 2] == 1
        assert (boxes.int() + points.int() + prompts.has_mask.int() == 1).all()
        for share in (boxes, points, prompts.has_mask):
            # a third each; four standard deviations are 0.11
            assert share.float().mean().item() == pytest.approx(1 / 3, abs=0.11)

    def test_probabilities(self) -> None:
        torch.manual_seed(0)
        interaction = SimulatedInteraction(text_prob=0.5, point_prob=0.2, box_prob=0.1, mask_prob=0.1, mixed_prob=0.1)
        prompts = _first(interaction, _truth(1000))
        geometry = (prompts.point_labels != -1).any(1) | prompts.has_mask
        assert (prompts.has_language & ~geometry).float().mean().item() == pytest.approx(0.5, abs=0.06)
        assert prompts.is_ambiguous().float().mean().item() == pytest.approx(0.2, abs=0.05)
        assert (prompts.has_language & geometry).float().mean().item() == pytest.approx(0.1, abs=0.04)
        assert (prompts.has_language | geometry).all()

    @pytest.mark.parametrize("kind", ["point", "box", "mask", "mixed"])
    def test_an_absent_object_is_asked_for_by_language(self, kind: str) -> None:
        truth = _truth(2)
        truth[0] = False
        prompts = _first(_only(kind), truth)
        assert prompts.has_language.tolist() == [True, kind == "mixed"]
        assert (prompts.point_labels[0] == -1).all()
        assert not prompts.has_mask[0]

    def test_the_same_seed_gives_the_same(self) -> None:
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(_first(SimulatedInteraction(), _truth(20)))
        assert torch.equal(found[0].points, found[1].points)
        assert torch.equal(found[0].has_language, found[1].has_language)
        assert not torch.equal(found[0].has_language, found[2].has_language)

    def test_no_objects(self) -> None:
        assert len(_first(SimulatedInteraction(), _truth(0))) == 0


class TestCorrections:
    def test_a_click_and_the_mask(self) -> None:
        truth = _truth(2)
        masks = torch.full((2, 16, 16), -40.0, requires_grad=True)
        before = _first(_only("box"), truth)
        after = _only("box").corrected(before, masks, truth, image_size=64)
        assert torch.equal(after.points[:, :2], before.points)
        assert after.point_labels.tolist() == [[2, 3, 1]] * 2
        assert all(_inside(point, mask) for point, mask in zip(after.points[:, 2], truth, strict=True))
        assert after.masks is not None
        # limited as SAM2's predictor does, and part of the graph
        assert (after.masks == -32).all()
        assert after.masks.requires_grad
        assert after.has_mask.all()

    def test_too_much_is_clicked_away(self) -> None:
        truth = _truth(1)
        prompts = _only("text").corrected(_first(_only("text"), truth), torch.full((1, 16, 16), 5.0), truth, 64)
        assert prompts.point_labels.tolist() == [[0]]
        assert not _inside(prompts.points[0, 0], truth[0])
        assert prompts.has_language.all()

    def test_clicks_are_drawn_into_the_mask_where_the_network_is_told_to(self) -> None:
        truth, masks = _truth(1), torch.full((1, 16, 16), 5.0)
        before = _first(_only("text"), truth)
        torch.manual_seed(3)
        plain = _only("text").corrected(before, masks, truth, 64)
        torch.manual_seed(3)
        marked = _only("text").corrected(before, masks, truth, 64, click_mark=1.0)
        assert plain.masks is not None
        assert marked.masks is not None
        assert torch.equal(plain.points, marked.points)
        assert (plain.masks == 5).all()
        assert marked.masks.min().item() < -4


class TestConditionedFrames:
    def test_one_frame(self) -> None:
        assert SimulatedInteraction().conditioned_frames(torch.tensor([3])) == [0]

    def test_frames_that_show_something(self) -> None:
        torch.manual_seed(0)
        drawn = [SimulatedInteraction().conditioned_frames(torch.tensor([0, 2, 0, 1, 0])) for _ in range(100)]
        assert {tuple(frames) for frames in drawn} == {(1,), (3,), (1, 3)}
        one = [SimulatedInteraction(max_conditioned=1).conditioned_frames(torch.tensor([1, 1, 1])) for _ in range(50)]
        assert {tuple(frames) for frames in one} == {(0,), (1,), (2,)}

    def test_one_frame_is_left_to_memory(self) -> None:
        interaction = SimulatedInteraction(max_conditioned=5)
        assert all(len(interaction.conditioned_frames(torch.tensor([1, 1, 1]))) <= 2 for _ in range(30))

    def test_the_frame_that_was_asked_about_is_prompted(self) -> None:
        torch.manual_seed(0)
        drawn = [SimulatedInteraction().conditioned_frames(torch.tensor([0, 2, 0, 1, 0]), 2) for _ in range(100)]
        assert {tuple(frames) for frames in drawn} == {(2,), (1, 2), (2, 3)}
        assert SimulatedInteraction(max_conditioned=1).conditioned_frames(torch.tensor([5, 5, 0]), 2) == [2]

    def test_nothing_anywhere(self) -> None:
        assert len(SimulatedInteraction(max_conditioned=1).conditioned_frames(torch.zeros(4))) == 1


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"text_prob": 0.5}, "mixed_prob add up to 1.1; make it 1"),
            ({"point_prob": -0.1}, "point_prob is -0.1; give 0 to 1"),
            ({"interior_prob": 2.0}, "interior_prob is 2.0; give 0 to 1"),
            ({"rounds": -1}, "rounds is -1; give a whole number of at least 0"),
            ({"rounds": 1.5}, "rounds is 1.5; give a whole number"),
            ({"max_conditioned": 0}, "max_conditioned is 0; give a whole number of at least 1"),
        ],
    )
    def test_bad_ones(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            SimulatedInteraction(**changes)

    def test_from_json(self) -> None:
        parser = ConfigParser(
            {"interaction": {"_target_": "monai_sa2va.networks.interaction.SimulatedInteraction", "rounds": 1}}
        )
        interaction = parser.get_parsed_content("interaction")
        assert as_interaction(interaction) is interaction
        assert interaction.rounds == 1

    def test_something_else(self) -> None:
        assert as_interaction(None) is None
        with pytest.raises(ConfigError, match="interaction is a dict; give a SimulatedInteraction, or null for none"):
            as_interaction({"rounds": 3})
