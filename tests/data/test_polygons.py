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

"""Polygons to masks, by the pixels' centres."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monai_sa2va.data.polygons import draw_polygons
from monai_sa2va.errors import DataError


def test_a_square_covers_its_pixels() -> None:
    mask = draw_polygons([[1, 1, 4, 1, 4, 3, 1, 3]], 4, 6)
    assert mask.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_the_centre_of_a_pixel_decides() -> None:
    # right-angled, legs of 4: a pixel's centre lies below x + y = 4
    mask = draw_polygons([[0, 0, 4, 0, 0, 4]], 4, 4)
    rows, columns = np.mgrid[:4, :4] + 0.5
    assert mask.sum() == 6 + (rows + columns == 4).sum() * mask[0, 3]
    assert (mask == (rows + columns < 4)).all() or (mask == (rows + columns <= 4)).all()


def test_polygons_that_overlap_are_united() -> None:
    two = draw_polygons([[0, 0, 3, 0, 3, 2, 0, 2], [2, 0, 5, 0, 5, 2, 2, 2]], 2, 6)
    assert two.astype(int).tolist() == [[1, 1, 1, 1, 1, 0]] * 2


def test_either_direction_and_a_notch() -> None:
    shape = [0, 0, 5, 0, 5, 5, 3, 5, 3, 2, 2, 2, 2, 5, 0, 5]
    mask = draw_polygons([shape], 5, 5)
    assert mask.sum() == 25 - 3
    assert not mask[2:, 2].any()
    turned = np.array(shape).reshape(-1, 2)[::-1].ravel().tolist()
    assert (draw_polygons([turned], 5, 5) == mask).all()


def test_what_lies_outside_is_cut_off() -> None:
    assert draw_polygons([[-9, -9, 99, -9, 99, 99, -9, 99]], 3, 4).all()
    assert not draw_polygons([[10, 0, 20, 0, 20, 9, 10, 9]], 3, 4).any()
    assert not draw_polygons([], 3, 4).any()


@pytest.mark.parametrize(
    "polygon",
    [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3], [[0, 0], [1, 1], [2, 0]], [0, 0, 1, float("nan"), 2, 0], "abc", None],
)
def test_what_is_no_polygon(polygon: Any) -> None:
    with pytest.raises(DataError, match="polygon 1: give x and y of at least three corners"):
        draw_polygons([[0, 0, 1, 0, 1, 1], polygon], 4, 4)
