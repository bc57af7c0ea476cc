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

import math
import warnings

import numpy as np
import pytest
import torch

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.surface import calculate_hd95, calculate_surface_dice

# A square of 3 x 3, and the same one column on. Of 8 pixels of outline, 4 lie on the other's, 3 are one column off, and
# the one in the other's middle is one row off, as is the middle of the right side for the other direction.
SQUARE = np.zeros((6, 7), dtype=np.uint8)
SQUARE[1:4, 1:4] = 1
SHIFTED = np.zeros((6, 7), dtype=np.uint8)
SHIFTED[1:4, 2:5] = 1
EMPTY = np.zeros((6, 7), dtype=np.uint8)


@pytest.mark.parametrize(
    ("tolerance", "spacing", "expected"),
    [
        (0.0, None, 8 / 16),
        (0.99, None, 8 / 16),
        (1.0, None, 1.0),
        # columns 2 mm apart: three pixels a side are 2 mm off, one is 1 mm off
        (0.5, (1.0, 2.0), 8 / 16),
        (1.0, (1.0, 2.0), 10 / 16),
        (2.0, (1.0, 2.0), 1.0),
        # rows 5 mm apart: the middle one is closer along the columns
        (1.0, (5.0, 1.0), 1.0),
    ],
)
def test_surface_dice_by_hand(tolerance: float, spacing: tuple[float, float] | None, expected: float) -> None:
    assert calculate_surface_dice(SQUARE, SHIFTED, tolerance, spacing) == pytest.approx(expected)
    assert calculate_surface_dice(SHIFTED, SQUARE, tolerance, spacing) == pytest.approx(expected)


def test_hd95_by_hand() -> None:
    # 0, 0, 0, 0, 1, 1, 1, 1 both ways
    assert calculate_hd95(SQUARE, SHIFTED) == pytest.approx(1.0)
    # 0, 0, 0, 0, 1, 2, 2, 2
    assert calculate_hd95(SQUARE, SHIFTED, (1.0, 2.0)) == pytest.approx(2.0)
    assert calculate_hd95(SQUARE, SQUARE) == 0.0


def test_hd95_lies_between_the_largest_distances() -> None:
    line, outlier = np.zeros((11, 19), dtype=bool), np.zeros((11, 19), dtype=bool)
    line[0] = outlier[0] = True
    outlier[10, 0] = True
    # of 20 distances, 19 are 0 and one is 10: 0.95 * 19 = 18.05, so 0.05 of the way from the 19th to the 20th; MONAI
    # interpolates in single precision
    assert calculate_hd95(outlier, line) == pytest.approx(0.5, abs=1e-5)
    # the larger direction counts, whichever mask comes first
    assert calculate_hd95(line, outlier) == pytest.approx(0.5, abs=1e-5)


def test_volumes_are_measured_in_space() -> None:
    first, second = np.zeros((3, 3, 3), dtype=bool), np.zeros((3, 3, 3), dtype=bool)
    first[0, 0, 0] = second[1, 1, 1] = True
    assert calculate_hd95(first, second, (2.0, 3.0, 4.0)) == pytest.approx(math.sqrt(29))
    assert calculate_surface_dice(first, second, 5.3, (2.0, 3.0, 4.0)) == 0.0
    assert calculate_surface_dice(first, second, 5.4, (2.0, 3.0, 4.0)) == 1.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_a_picture(axis: int) -> None:
    ring = SQUARE.copy()
    ring[2, 2] = 0
    solid, hollow = np.expand_dims(SQUARE, axis), np.expand_dims(ring, axis)
    # as a volume, the middle of the square would be outline: 16 of 17
    assert calculate_surface_dice(hollow, solid, 0.0) == 1.0
    spacing = np.insert([1.0, 2.0], axis, 9.0)
    shifted = np.expand_dims(SHIFTED, axis)
    assert calculate_surface_dice(solid, shifted, 1.0, spacing) == pytest.approx(10 / 16)
    assert calculate_hd95(solid, shifted, spacing) == pytest.approx(2.0)


def test_a_mask_at_the_border_ends_there() -> None:
    full, inner = np.ones((5, 5), dtype=bool), np.zeros((5, 5), dtype=bool)
    inner[1:4, 1:4] = True
    # 16 pixels of the outer outline: 12 are 1 off, the corners are diagonal; all 8 inner ones are 1 off
    assert calculate_surface_dice(full, inner, 1.0) == pytest.approx(20 / 24)
    assert calculate_hd95(full, inner) == pytest.approx(math.sqrt(2))


def test_empty_cases_are_defined_and_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calculate_surface_dice(EMPTY, EMPTY, 1.0) == 1.0
        assert calculate_surface_dice(SQUARE, EMPTY, 1.0) == 0.0
        assert calculate_surface_dice(EMPTY, SQUARE, 1.0) == 0.0
        assert calculate_hd95(EMPTY, EMPTY) == 0.0
        assert math.isnan(calculate_hd95(SQUARE, EMPTY))
        assert math.isnan(calculate_hd95(EMPTY, SQUARE))


def test_tensors_and_arrays_give_the_same() -> None:
    assert calculate_surface_dice(torch.from_numpy(SQUARE), SHIFTED.astype(bool), 0.0) == 0.5


def test_bad_arguments() -> None:
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="tolerance is"):
            calculate_surface_dice(SQUARE, SQUARE, tolerance)
    for spacing in ((1.0,), (1.0, 0.0), (1.0, math.nan), (1.0, 1.0, 1.0)):
        with pytest.raises(DataError, match="spacing is"):
            calculate_hd95(SQUARE, SQUARE, spacing)
    with pytest.raises(DataError, match="pred has the shape"):
        calculate_hd95(SQUARE, SQUARE[:5])
    with pytest.raises(DataError, match="pred holds 2"):
        calculate_hd95(SQUARE * 2, SQUARE)
    with pytest.raises(DataError, match="gt holds 2"):
        calculate_surface_dice(SQUARE, SQUARE * 2, 1.0)
