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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("contourpy", reason="contourpy is not installed")

from monai_sa2va.writers.contours import fill_contours, mask_contours

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(mask=MASKS)
def test_contours_are_the_mask(mask: np.ndarray) -> None:
    assert (fill_contours(mask_contours(mask), mask.shape) == mask).all()


@given(mask=MASKS, seed=st.integers(0, 2**31 - 1))
def test_rounding_to_a_millionth_changes_nothing(mask: np.ndarray, seed: int) -> None:
    noise = np.random.default_rng(seed)
    moved = [points + noise.uniform(-1e-6, 1e-6, points.shape) for points in mask_contours(mask)]
    assert (fill_contours(moved, mask.shape) == mask).all()


def test_one_pixel_is_a_diamond_around_its_centre() -> None:
    mask = np.zeros((5, 4), bool)
    mask[3, 1] = True
    (points,) = mask_contours(mask)
    assert sorted(map(tuple, points.tolist())) == [(2.5, 1.0), (3.0, 0.5), (3.0, 1.5), (3.5, 1.0)]


def test_a_hole_is_joined_by_a_channel_that_is_walked_twice() -> None:
    mask = np.ones((7, 7), bool)
    mask[3, 3] = False
    (points,) = mask_contours(mask)
    steps = [tuple(sorted([tuple(a), tuple(b)])) for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)]
    assert len(steps) - len(set(steps)) == 1
    assert not fill_contours([points], mask.shape)[3, 3]


def test_pieces_are_outlines_of_their_own() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[5, 5] = True
    assert len(mask_contours(mask)) == 2
    assert mask_contours(np.zeros((3, 3), bool)) == []
