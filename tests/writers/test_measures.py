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

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
from segmented import find

from monai_sa2va.data.headers import Grid
from monai_sa2va.writers.measures import extent_mm, slice_heights, voxel_sizes

NO_GRID = Grid((1, 1))


def test_shear_does_not_change_a_volume(tmp_path: Path) -> None:
    tilted = find(tmp_path / "in", made.series(4, places=made.positions(4, shear=(0.2, 0.3)), spacing=(0.75, 0.5)))
    sizes = voxel_sizes(NO_GRID, tilted)
    assert sizes is not None
    np.testing.assert_allclose(sizes, [0.75 * 0.5 * 2.5] * 4, rtol=1e-9)
    mask = np.zeros(tilted.shape, bool)
    mask[1:3, 2:5, 1:4] = True
    assert extent_mm(mask, NO_GRID, tilted) == pytest.approx([2 * 0.5, 3 * 0.75, 3 * 2.5])


def test_uneven_slices_reach_half_way_to_their_neighbours(tmp_path: Path) -> None:
    places = made.positions(5, heights=[0, 1, 2, 5, 8])
    series = find(tmp_path / "in", made.series(5, places=places, spacing=(0.75, 0.5)))
    heights = slice_heights(series)
    assert heights is not None
    np.testing.assert_allclose(heights, [1, 1, 2, 3, 3])
    sizes = voxel_sizes(NO_GRID, series)
    assert sizes is not None
    np.testing.assert_allclose(sizes, 0.375 * heights)
    mask = np.zeros(series.shape, bool)
    mask[0, 0, 2:4] = True
    # from 1 mm below the third to 1.5 mm above the fourth
    assert extent_mm(mask, NO_GRID, series) == pytest.approx([0.5, 0.75, 3 + 1 + 1.5])


def test_what_says_no_spacing_has_no_size(tmp_path: Path) -> None:
    picture = find(tmp_path / "picture", [made.image(made.voxels(1, 6, 8)[0], made.SC, "OT")])
    assert voxel_sizes(NO_GRID, picture) is None
    assert extent_mm(np.ones(picture.shape, bool), NO_GRID, picture) is None
    cine = find(tmp_path / "cine", [made.cine(3)])
    assert voxel_sizes(NO_GRID, cine) is None
    assert extent_mm(np.ones(cine.shape, bool), NO_GRID, cine) is None
    assert extent_mm(np.ones((2, 2), bool), NO_GRID) is None


def test_a_slice_by_itself_has_an_area(tmp_path: Path) -> None:
    one = find(tmp_path / "in", made.series(1, spacing=(0.75, 0.5)))
    assert voxel_sizes(NO_GRID, one) == pytest.approx([0.375])
    assert extent_mm(np.ones((8, 6), bool), NO_GRID, one) == pytest.approx([4.0, 4.5])


def test_a_nifti_grid() -> None:
    grid = Grid((4, 4, 3), np.diag([0.5, 2.0, 3.0, 1.0]))
    mask = np.zeros(grid.shape, bool)
    assert extent_mm(mask, grid) == [0.0, 0.0, 0.0]
    mask[1:3, 0, 1:] = True
    assert extent_mm(mask, grid) == [1.0, 2.0, 6.0]
    sizes = voxel_sizes(grid)
    assert sizes is not None
    assert sizes.tolist() == pytest.approx([3.0, 3.0, 3.0])
