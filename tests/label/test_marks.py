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

import numpy as np
import pytest
import torch

from monai_sa2va.label.marks import MOST_POINTS, box_of, points_of
from monai_sa2va.label.options import RequestError
from monai_sa2va.transforms.geometry import PlaneGeometry

SHAPE = (9, 7, 5)


def geometry(*signs: float) -> PlaneGeometry:
    from dataclasses import replace

    found = PlaneGeometry.of_volume(SHAPE, np.diag([*signs, 1.0]))
    return replace(found, flips=(False, *found.flips[1:]))


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, 1)])
def test_a_click_is_on_the_voxel_that_was_clicked(signs: tuple[float, ...]) -> None:
    planes = geometry(*signs)
    volume = torch.zeros((1, *SHAPE))
    volume[0, 2, 5, 3] = 1
    stack = planes.stack(volume)[:, 0]
    (row,) = points_of({"foreground": [[2, 5, 3]]}, planes, volume=True).round().astype(int)  # type: ignore[union-attr]
    assert stack[row[2], row[1], row[0]] == 1


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_a_region_holds_what_it_held_in_the_source(signs: tuple[float, ...]) -> None:
    planes = geometry(*signs)
    volume = torch.zeros((1, *SHAPE))
    volume[0, 2:6, 1:5, 1:4] = 1
    stack = planes.stack(volume)[:, 0]
    # each pair is reversed, as 3D Slicer sends it for LPS images
    x0, y0, z0, x1, y1, z1 = box_of({"roi": [5, 2, 4, 1, 3, 1]}, planes, volume=True).astype(int)  # type: ignore[union-attr]
    assert stack[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1].sum() == stack.sum() == 4 * 4 * 3
    assert (x1 - x0 + 1) * (y1 - y0 + 1) * (z1 - z0 + 1) == stack.sum()


def test_a_region_is_cut_off_at_the_image() -> None:
    assert box_of({"roi": [-5, 100, -5, 100, -5, 100]}, geometry(1, 1, 1), volume=True).tolist() == [  # type: ignore[union-attr]
        *(0, 0, 0),
        *(8, 6, 4),
    ]


def test_clicks_on_the_object_come_first() -> None:
    found = points_of({"background": [[0, 0, 0]], "foreground": [[1, 1, 1]]}, geometry(1, 1, 1), volume=True)
    assert found is not None
    assert found[:, 3].tolist() == [1, 0]


def test_of_a_picture_the_third_number_is_left_out() -> None:
    picture = PlaneGeometry.of_picture((9, 7))
    for point in ([3, 4], [3, 4, 0], [3, 4, 17]):
        assert points_of({"foreground": [point]}, picture, volume=False).tolist() == [[3, 4, 1]]  # type: ignore[union-attr]
    assert box_of({"roi": [5, 2, 1, 3]}, picture, volume=False).tolist() == [2, 1, 5, 3]  # type: ignore[union-attr]


def test_nothing_is_none() -> None:
    assert points_of({"foreground": [], "background": []}, geometry(1, 1, 1), volume=True) is None
    assert points_of({}, geometry(1, 1, 1), volume=True) is None
    assert box_of({"roi": []}, geometry(1, 1, 1), volume=True) is None


@pytest.mark.parametrize(
    "foreground",
    [
        "here",
        3,
        {"x": 1},
        ["x"],
        [[1, 2]],
        [[1, 2, 3, 4]],
        [["1", "2", "3"]],
        [[1, 2, None]],
        [[True, 1, 1]],
        [[float("nan"), 1, 1]],
        [[10**400, 1, 1]],
        [[9, 0, 0]],
        [[0, 0, -1]],
        [[1, 1, 1]] * (MOST_POINTS + 1),
    ],
)
def test_what_is_no_point_is_refused(foreground: Any) -> None:
    with pytest.raises(RequestError):
        points_of({"foreground": foreground}, geometry(1, 1, 1), volume=True)


@pytest.mark.parametrize("roi", ["here", 3, [1, 2, 3], [1, 2, 3, 4], [20, 30, 0, 1, 0, 1], [[1]], {"a": 1}])
def test_what_is_no_region_is_refused(roi: Any) -> None:
    with pytest.raises(RequestError):
        box_of({"roi": roi}, geometry(1, 1, 1), volume=True)
