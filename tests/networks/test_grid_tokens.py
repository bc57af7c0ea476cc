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

from monai_sa2va.errors import DataError
from monai_sa2va.networks.grid_tokens import GridTokens, grid_positions


def _places(*rows: str) -> torch.Tensor:
    """A picture's tokens are #."""
    return torch.tensor([[letter == "#" for letter in row] for row in rows])


def test_a_picture_counts_by_row_and_column_and_text_goes_on_after_its_longer_side() -> None:
    positions = grid_positions(_places("ab######c"), [(2, 3)])
    time, row, column = positions[:, 0].tolist()
    assert time == [0, 1, 2, 2, 2, 2, 2, 2, 5]
    assert row == [0, 1, 2, 2, 2, 3, 3, 3, 5]
    assert column == [0, 1, 2, 3, 4, 2, 3, 4, 5]


def test_text_alone_counts_on() -> None:
    assert grid_positions(_places("abc", "def"), []).tolist() == [[[0, 1, 2]] * 2] * 3


def test_pictures_are_taken_in_the_order_of_the_batch() -> None:
    # two pictures in the first sample, one after padding would begin in the second
    positions = grid_positions(_places("a##b###c", "######de"), [(1, 2), (3, 1), (2, 3)])
    assert positions[1].tolist() == [[0, 1, 1, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 1, 3, 4]]
    assert positions[2].tolist() == [[0, 1, 2, 3, 4, 4, 4, 7], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert positions.dtype == torch.int64


@pytest.mark.parametrize(
    ("row", "grids", "message"),
    [
        ("a###b", [(1, 2)], "hold 3 image tokens in a row, the picture of image_grid_thw makes 1 x 2"),
        ("a##b#c", [(1, 2)], "hold 1 image tokens in a row, the picture of image_grid_thw makes 0 x 0"),
        ("a##b", [(1, 2), (1, 1)], "have no place for 1 of 2 pictures"),
    ],
)
def test_pictures_that_do_not_fit_their_places(row: str, grids: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        grid_positions(_places(row), grids)


def test_the_same_picture_for_several_rows() -> None:
    features = torch.arange(4.0).view(2, 2)
    tokens = GridTokens(features, ((1, 2),), (features + 10,)).repeat(2)
    assert len(tokens) == 4
    assert tokens.grids == ((1, 2), (1, 2))
    assert tokens.features.tolist() == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert tokens.deepstack[0].tolist() == [[10, 11], [12, 13], [10, 11], [12, 13]]
