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

from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.visual_prompts import sort_by_slice


def test_nothing_is_nothing() -> None:
    assert sort_by_slice((20, 30)) == {}
    assert sort_by_slice((4, 20, 30), points=[], boxes=[]) == {}


def test_clicks_of_a_picture_keep_their_order() -> None:
    found = sort_by_slice((20, 30), points=[[29.4, 19, 1], [3, 4, 0]])
    assert list(found) == [0]
    np.testing.assert_array_equal(found[0].points, [[29.4, 19, 1], [3, 4, 0]])
    assert found[0].box is None
    assert found[0].mask is None


def test_a_box_of_a_picture() -> None:
    np.testing.assert_array_equal(sort_by_slice((20, 30), boxes=[1, 2, 29, 19])[0].box, [1, 2, 29, 19])


def test_slices_of_a_volume_are_sorted() -> None:
    mask = np.zeros((5, 20, 30), np.uint8)
    mask[4, 3, 3] = 7
    found = sort_by_slice((5, 20, 30), [[1, 2, 3, 1], [5, 6, 0, 0], [7, 8, 3, 0]], [[0, 0, 1, 9, 9, 3]], mask)
    assert list(found) == [0, 2, 3, 4]
    np.testing.assert_array_equal(found[3].points, [[1, 2, 1], [7, 8, 0]])
    # of the box's slices 1 to 3 the middle one
    np.testing.assert_array_equal(found[2].box, [0, 0, 9, 9])
    shown = found[4].mask
    assert shown is not None
    assert shown.sum() == shown[3, 3] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": [[1, 2]]}, "2 numbers a point; give x, y, label"),
        ({"points": [[1, 2, 2]]}, "label 2; give 1 on the object, 0 beside it"),
        ({"points": [[30, 2, 1]]}, "a point has x 30, outside of 0 to 29"),
        ({"points": [[0, -1, 1]]}, "a point has y -1, outside of 0 to 19"),
        ({"points": [[0, float("nan"), 1]]}, "a number that is none"),
        ({"points": "here"}, "can't be read as numbers"),
        ({"points": [[[1, 2, 1]]]}, "points has shape"),
        ({"boxes": [1, 2, 3]}, "3 numbers a box; give x0, y0, x1, y1"),
        ({"boxes": [5, 2, 3, 4]}, r"the box \(5, 2, 3, 4\) isn't sorted"),
        ({"boxes": [5, 2, 30, 4]}, "a box has x 30"),
        ({"boxes": [[0, 0, 1, 1], [2, 2, 3, 3]]}, "two boxes for the picture"),
        ({"mask": np.zeros((20, 30))}, "mask is empty"),
        ({"mask": "mask.png"}, "mask can't be read as numbers"),
        ({"mask": [[1, 2], [3]]}, "mask can't be read as numbers"),
        ({"points": torch.ones(1, 3, requires_grad=True)}, "points can't be read as numbers"),
        ({"mask": np.ones((30, 20))}, r"mask has shape \(30, 20\); expected \(20, 30\)"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        sort_by_slice((20, 30), **given)


def test_a_box_may_begin_at_the_edge_of_the_first_voxel() -> None:
    assert list(sort_by_slice((4, 20, 30), boxes=[1, 1, -0.5, 5, 5, -0.5])) == [0]


def test_two_boxes_of_a_slice_are_refused() -> None:
    with pytest.raises(PromptError, match="two boxes for slice 1"):
        sort_by_slice((3, 20, 30), boxes=[[0, 0, 1, 1, 1, 1], [2, 2, 0, 3, 3, 2]])
    with pytest.raises(PromptError, match="give x, y, z, label"):
        sort_by_slice((3, 20, 30), points=[[1, 2, 1]])
    with pytest.raises(PromptError, match="z 3, outside of 0 to 2"):
        sort_by_slice((3, 20, 30), points=[[1, 2, 3, 1]])
