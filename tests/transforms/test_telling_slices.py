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

from monai_sa2va.transforms.telling_slices import telling_slices


def _masks(*areas: list[int]) -> np.ndarray:
    masks = np.zeros((len(areas), len(areas[0]), 4, 4), bool)
    for number, row in enumerate(areas):
        for z, area in enumerate(row):
            masks[number, z].flat[:area] = True
    return masks


def test_the_largest_of_each_object_and_even_steps_between_the_ends() -> None:
    masks = _masks([0, 1, 2, 9, 2, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0])
    assert telling_slices(masks, 2) == [3, 8]
    assert telling_slices(masks, 4) == [1, 3, 8, 9]
    assert telling_slices(masks, 5) == [1, 3, 5, 8, 9]
    assert telling_slices(masks, 50) == list(range(1, 10))


def test_more_objects_than_slices() -> None:
    assert telling_slices(_masks([1, 0, 0], [0, 3, 0], [0, 0, 2]), 2) == [1, 2]


def test_gaps_are_left_out_and_nothing_is_nothing() -> None:
    assert telling_slices(_masks([2, 0, 1]), 8) == [0, 2]
    assert telling_slices(_masks([0, 0])) == []
