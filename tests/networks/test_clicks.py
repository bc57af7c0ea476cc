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

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.networks.clicks import draw_boxes, draw_clicks, draw_rough_masks, mark_clicks

NO, YES = torch.tensor([False]), torch.tensor([True])


def _mask(*rows: str) -> torch.Tensor:
    """(1, H, W) bool: true at every #."""
    return torch.tensor([[[pixel == "#" for pixel in row] for row in rows]])


def _pixels(points: torch.Tensor, side: int, image_size: int) -> list[list[float]]:
    """Points in SAM2's pixels as (x, y) indices of an image of ``side`` pixels."""
    return ((points + 0.5) * side / image_size - 0.5).tolist()


class TestClicks:
    def test_on_what_is_missing(self) -> None:
        truth, predicted = _mask("....", ".##.", "....", "...."), _mask("....", ".#..", "....", "....")
        point, label = draw_clicks(predicted, truth, NO, image_size=4)
        assert (point.tolist(), label.tolist()) == ([[2.0, 1.0]], [1])

    def test_on_what_is_too_much(self) -> None:
        truth, predicted = _mask("....", ".##.", "....", "...."), _mask("....", ".##.", "....", "#...")
        point, label = draw_clicks(predicted, truth, NO, image_size=4)
        assert (point.tolist(), label.tolist()) == ([[0.0, 3.0]], [0])

    def test_in_pixels_of_sam2(self) -> None:
        # the centre of the third of 4 pixels lies between the pixels 9 and 10 of 16
        point, _ = draw_clicks(_mask("....") > 2, _mask("..#."), NO, image_size=16)
        assert point.tolist() == [[9.5, 7.5]]

    @pytest.mark.parametrize("seed", range(5))
    def test_both_regions_in_proportion(self, seed: int) -> None:
        torch.manual_seed(seed)
        truth, predicted = _mask("######..").expand(400, 1, 8), _mask("......##").expand(400, 1, 8)
        points, labels = draw_clicks(predicted, truth, NO.expand(400), image_size=8)
        assert ((points[:, 0] < 6) == (labels == 1)).all()
        # 6 of 8 pixels; five standard deviations are 0.11
        assert labels.float().mean().item() == pytest.approx(0.75, abs=0.11)
        assert len(points[:, 0].unique()) == 8

    def test_the_most_interior_point(self) -> None:
        truth = _mask("........", ".#####..", ".#####..", ".#####..", ".#####..", ".#####..", "........", ".......#")
        predicted = _mask(*["........"] * 6, "##......", "##......")
        point, label = draw_clicks(predicted, truth, YES, image_size=8)
        assert (point.tolist(), label.tolist()) == ([[3.0, 3.0]], [1])
        larger = _mask("........", "...#....", *["........"] * 3, "#####...", "#####...", "#####...")
        point, label = draw_clicks(larger, _mask("........", ".####...", *["........"] * 6), YES, image_size=8)
        assert (point.tolist(), label.tolist()) == ([[1.0, 6.0]], [0])

    def test_nothing_to_correct(self) -> None:
        truth = _mask("##.", "##.", "##.")
        for interior in (NO, YES):
            point, label = draw_clicks(truth, truth, interior, image_size=3)
            assert point[0, 0] == 2
            assert label.tolist() == [0]
        everything = _mask("##", "##")
        assert draw_clicks(everything, everything, NO, image_size=2)[1].tolist() == [1]
        nothing = _mask("..", "..")
        assert draw_clicks(nothing, nothing, YES, image_size=2)[1].tolist() == [0]

    @given(st.integers(0, 2**31), st.booleans())
    def test_every_click_lies_in_an_error(self, seed: int, interior: bool) -> None:
        torch.manual_seed(seed)
        truth, predicted = torch.rand(4, 9, 12) < 0.3, torch.rand(4, 9, 12) < 0.3
        points, labels = draw_clicks(predicted, truth, torch.full((4,), interior), image_size=64)
        for row in range(4):
            x = round((points[row, 0].item() + 0.5) * 12 / 64 - 0.5)
            y = round((points[row, 1].item() + 0.5) * 9 / 64 - 0.5)
            assert truth[row, y, x] != predicted[row, y, x]
            assert labels[row] == truth[row, y, x]

    def test_no_objects(self) -> None:
        none = torch.zeros(0, 4, 4, dtype=torch.bool)
        assert draw_clicks(none, none, torch.zeros(0, dtype=torch.bool), 8)[0].shape == (0, 2)


class TestBoxes:
    def test_exact(self) -> None:
        truth = _mask("......", "..##..", "..#...", "......", "......", "......")
        assert _pixels(draw_boxes(truth, 0.0, 96).view(2, 2), 6, 96) == [[2.0, 1.0], [3.0, 2.0]]

    @given(st.integers(0, 2**31))
    def test_jitter_stays_small(self, seed: int) -> None:
        torch.manual_seed(seed)
        truth = torch.zeros(3, 64, 64, dtype=torch.bool)
        truth[:, 10:30, 20:60] = True
        # 10 % of 39 by 19 pixels, but never above 20 of 1024
        moved = (draw_boxes(truth, 0.1, 64) - torch.tensor([20.0, 10.0, 59.0, 29.0])).abs()
        assert moved.max() <= 1.25 + 1e-5
        assert moved.max() > 0

    def test_inside_of_the_image(self) -> None:
        torch.manual_seed(0)
        boxes = draw_boxes(torch.ones(50, 8, 8, dtype=torch.bool), 1.0, 32)
        assert boxes.min() >= 0
        assert boxes.max() <= 31

    def test_an_absent_object_has_the_whole_image(self) -> None:
        assert draw_boxes(_mask("..", ".."), 0.0, 2).tolist() == [[0.0, 0.0, 1.0, 1.0]]


class TestRoughMasks:
    def test_near_the_truth(self) -> None:
        torch.manual_seed(0)
        truth = torch.zeros(20, 64, 64, dtype=torch.bool)
        truth[:, 16:48, 16:48] = True
        masks = draw_rough_masks(truth, 0.0, 16)
        assert masks.shape == (20, 16, 16)
        assert masks.abs().max() == 10
        inner, outer = masks[:, 6:10, 6:10], masks[:, :2]
        assert (inner > 0).all()
        assert (outer < 0).all()
        # grown in some, shrunk in others: the true area is 64 of 256
        areas = (masks > 0).flatten(1).sum(1)
        assert areas.min() < 64 < areas.max()

    def test_uneven(self) -> None:
        torch.manual_seed(0)
        truth = torch.zeros(50, 64, 64, dtype=torch.bool)
        truth[:, 16:48, 16:48] = True
        masks = draw_rough_masks(truth, 0.5, 16) > 0
        small = torch.nn.functional.max_pool2d(truth.float(), 4) > 0
        overlap = (masks & small).flatten(1).sum(1) / (masks | small).flatten(1).sum(1)
        assert 0.4 < overlap.mean() < 0.9
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 40

    def test_a_thin_line_is_not_lost(self) -> None:
        torch.manual_seed(0)
        truth = torch.zeros(10, 64, 64, dtype=torch.bool)
        truth[:, :, 30] = True
        assert ((draw_rough_masks(truth, 0.0, 16) > 0).flatten(1).sum(1) > 0).float().mean() > 0.2


class TestMarks:
    @staticmethod
    def _marked(points: list[list[float]], labels: list[int], width: float = 1.0, side: int = 8) -> torch.Tensor:
        """Marks of one object's clicks in an undecided mask (side, side), a quarter of SAM2's image."""
        where = (torch.tensor([points]).reshape(1, -1, 2), torch.tensor([labels], dtype=torch.long).reshape(1, -1))
        return mark_clicks(torch.zeros(1, side, side), *where, image_size=4 * side, width=width)[0]

    def test_full_at_the_click_and_less_around_it(self) -> None:
        # the centre of the pixel (x, y) = (2, 5) of 8 is 9.5 and 21.5 of SAM2's 32
        marked = self._marked([[9.5, 21.5]], [1])
        assert marked[5, 2].item() == 10
        assert marked[5, 3].item() == pytest.approx(6.0653, abs=1e-4)  # 10 exp(-1/2)
        assert marked[6, 3].item() == pytest.approx(3.6788, abs=1e-4)  # 10 exp(-1)
        assert marked[0, 7].item() == pytest.approx(0, abs=1e-9)

    def test_beside_the_object(self) -> None:
        assert torch.equal(self._marked([[9.5, 21.5]], [0]), -self._marked([[9.5, 21.5]], [1]))

    def test_the_later_click_counts(self) -> None:
        assert self._marked([[9.5, 21.5], [9.5, 21.5]], [1, 0])[5, 2].item() == -10

    @pytest.mark.parametrize("label", [-1, 2, 3])
    def test_what_is_no_click_leaves_nothing(self, label: int) -> None:
        assert not self._marked([[9.5, 21.5]], [label]).any()

    def test_no_clicks(self) -> None:
        assert not self._marked([], []).any()

    def test_each_object_its_own(self) -> None:
        points = torch.tensor([[[1.5, 1.5]], [[29.5, 29.5]]])
        marked = mark_clicks(torch.zeros(2, 8, 8), points, torch.tensor([[1], [0]]), image_size=32, width=0.5)
        assert marked[0].argmax().item() == 0
        assert marked[1].argmin().item() == 63
        assert marked[0].min().item() >= 0 >= marked[1].max().item()

    def test_gradients_go_on_beside_the_click(self) -> None:
        masks = torch.zeros(1, 8, 8, requires_grad=True)
        mark_clicks(
            masks, torch.tensor([[[9.5, 21.5]]]), torch.tensor([[1]]), image_size=32, width=1.0
        ).sum().backward()
        assert masks.grad is not None
        assert masks.grad[0, 5, 2].item() == 0
        assert masks.grad[0, 0, 7].item() == pytest.approx(1)

    def test_without_a_width_it_is_sam2s_own(self) -> None:
        masks = torch.randn(1, 8, 8)
        assert mark_clicks(masks, torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.long), 32, 0.0) is masks
