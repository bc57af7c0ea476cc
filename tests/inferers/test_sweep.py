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

"""A sweep: which slices are asked, and what is taken to be an object's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.slices import SliceAsker
from monai_sa2va.inferers.sweep import Run, Sweep


class _Knowing(ImageInferer):
    """Shows each object in the slices that it is told of; the nearer to the middle of them, the surer."""

    def __init__(self, objects: Sequence[set[int]]) -> None:
        super().__init__()
        self.objects = objects
        self.asked: list[int] = []

    def __call__(self, inputs: int, *_: Any, **__: Any) -> ImageResult:
        self.asked.append(inputs)
        there = torch.tensor([inputs in held for held in self.objects])
        presence = torch.where(there, 0.9 - 0.002 * torch.tensor([abs(inputs - 30.0)] * len(there)), 0.1)
        return ImageResult(
            masks=there[:, None, None].expand(-1, 2, 3),
            names=[str(number) for number in range(len(there))],
            prompt_indices=[0] * len(there),
            presence=presence,
            iou_scores=torch.ones(len(there)),
            answers=[""],
            phrases=[[]],
            language=torch.full((len(there), 4), float(inputs)),
        )


def _sweep(depth: int, *objects: set[int]) -> tuple[Sweep, _Knowing, SliceResults]:
    knowing, results = _Knowing(objects), SliceResults(depth)
    ask = SliceAsker(range(depth), None, knowing, ["?"])  # type: ignore[arg-type]
    return Sweep(ask, results, 0.5), knowing, results


@given(first=st.integers(0, 99), length=st.integers(8, 60))
def test_an_object_as_long_as_a_step_is_found_to_the_slice(first: int, length: int) -> None:
    last = min(first + length, 100) - 1
    if last - first + 1 < 8:
        return
    sweep, knowing, results = _sweep(100, set(range(first, last + 1)))
    sweep.sweep(8, 2)
    sweep.narrow()
    (run,) = sweep.runs(0)
    # what lies before the first slice that was asked, or behind the last, is left to memory
    low, high = min(sweep.answers), max(sweep.answers)
    assert run.first == (0 if run.shown[0] == low else first)
    assert run.last == (99 if run.shown[-1] == high else last)
    assert set(run.shown) <= set(range(first, last + 1))
    assert len(knowing.asked) == len(set(knowing.asked)) <= 14 + 2 * 3
    # what a sentence drew is kept, and nothing else
    assert [bool(mask.any()) for mask in results.masks[0]] == [number in run.shown for number in range(100)]


def test_what_is_thin_is_looked_for_more_closely() -> None:
    sweep, knowing, _ = _sweep(64, {9, 10})
    sweep.sweep(8, 2)
    sweep.narrow()
    assert sweep.runs(0) == [Run(9, 10, (9, 10))]
    assert len(knowing.asked) < 64 / 2 + 4


def test_what_is_not_there_is_asked_for_in_every_second_slice_at_most() -> None:
    sweep, knowing, results = _sweep(64, set())
    sweep.sweep(8, 2)
    sweep.narrow()
    assert sweep.runs(0) == []
    assert len(knowing.asked) <= 33
    assert not results.masks.any()


def test_two_parts_of_one_object_and_another_object_have_their_own_slices() -> None:
    sweep, _, _ = _sweep(96, {*range(8, 24), *range(60, 72)}, set(range(20, 64)))
    sweep.sweep(8, 2)
    sweep.narrow()
    assert [(run.first, run.last) for run in sweep.runs(0)] == [(8, 23), (60, 71)]
    assert [(run.first, run.last) for run in sweep.runs(1)] == [(20, 63)]


def test_one_slice_that_does_not_show_it_is_left_to_memory() -> None:
    sweep, _, _ = _sweep(12, {2, 3, 5, 6, 9})
    sweep.look(range(12))
    assert sweep.runs(0) == [Run(2, 6, (2, 3, 5, 6)), Run(9, 9, (9,))]


def test_a_part_that_holds_little_of_an_object_is_a_mistake() -> None:
    objects = {3, *range(20, 40), *range(50, 52)}
    for min_share, kept in ((0.0, [3, 20, 50]), (0.1, [20, 50]), (0.11, [20])):
        sweep, _, results = _sweep(60, objects)
        sweep.look(range(60))
        assert [run.first for run in sweep.runs(0, min_share)] == kept
        assert results.masks[0, 3].any() == (3 in kept)
        assert results.masks[0, 51].any() == (50 in kept)
        assert results.masks[0, 39].any()


@pytest.mark.parametrize(("count", "best"), [(1, [30]), (2, [28, 30]), (9, [27, 28, 29, 30, 31])])
def test_memory_begins_in_the_best_of_each_part(count: int, best: list[int]) -> None:
    sweep, _, _ = _sweep(60, set(range(27, 32)))
    sweep.look(range(60))
    (run,) = sweep.runs(0)
    anchors = sweep.anchors(0, run, count)
    assert sorted(anchors) == best
    assert [anchors[number].tolist() for number in best] == [[float(number)] * 4 for number in best]
