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

"""Planes of a volume: where each voxel goes, in numbers written out and for any orientation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.geometry import PLANES, PlaneGeometry, slice_plane


@pytest.mark.parametrize(
    ("axis", "plane_shape", "corners"),
    [
        # of an LPS volume: voxels (x, y, z) of the top left and the bottom right pixel of slice 1
        ("axial", (3, 2), ((0, 0, 1), (1, 2, 1))),
        ("coronal", (4, 2), ((0, 1, 3), (1, 1, 0))),
        ("sagittal", (4, 3), ((1, 0, 3), (1, 2, 0))),
    ],
)
def test_display_of_an_lps_volume(axis: str, plane_shape: tuple[int, int], corners: tuple) -> None:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    geometry = PlaneGeometry.of_volume((2, 3, 4), lps, axis)
    volume = torch.arange(24).reshape(1, 2, 3, 4)
    plane = geometry.take(volume, 1)[0]
    assert geometry.plane_shape == plane_shape == tuple(plane.shape)
    assert plane[0, 0] == volume[0][corners[0]]
    assert plane[-1, -1] == volume[0][corners[1]]


def test_display_of_a_ras_volume_shows_the_patient_not_the_array() -> None:
    geometry = PlaneGeometry.of_volume((2, 3, 4), np.eye(4), "axial")
    volume = torch.arange(24).reshape(1, 2, 3, 4)
    plane = geometry.take(volume, 0)[0]
    # top left is anterior right: the largest x and y of RAS
    assert plane[0, 0] == volume[0, 1, 2, 0]
    assert plane.tolist() == [[20, 8], [16, 4], [12, 0]]


def test_sagittal_slices_of_a_ras_volume_count_towards_the_left() -> None:
    geometry = PlaneGeometry.of_volume((2, 3, 4), np.eye(4), "sagittal")
    assert (geometry.depth, geometry.source_index(0)) == (2, 1)
    volume = torch.arange(24).reshape(1, 2, 3, 4)
    assert geometry.take(volume, 0)[0, 0, 0] == volume[0, 1, 2, 3]
    # the stack keeps the source's order
    assert geometry.stack(volume)[0, 0, 0, 0] == volume[0, 0, 2, 3]


@given(data=st.data())
def test_stack_and_back(data: st.DataObject, affines: Strategy, shapes: Strategy, axes: Strategy) -> None:
    affine, shape, axis = (data.draw(strategy) for strategy in (affines, shapes, axes))
    geometry = PlaneGeometry.of_volume(shape, affine, axis)
    volume = torch.arange(2 * int(np.prod(shape))).reshape(2, *shape)
    planes = geometry.stack(volume)
    assert planes.shape == (geometry.depth, 2, *geometry.plane_shape)
    assert torch.equal(geometry.unstack(planes), volume)


@given(data=st.data())
def test_take_and_put(data: st.DataObject, affines: Strategy, shapes: Strategy, axes: Strategy) -> None:
    affine, shape, axis = (data.draw(strategy) for strategy in (affines, shapes, axes))
    geometry = PlaneGeometry.of_volume(shape, affine, axis)
    index = data.draw(st.integers(0, geometry.depth - 1))
    volume = torch.arange(1, 1 + int(np.prod(shape))).reshape(1, *shape)
    back = geometry.put(geometry.take(volume, index), index)
    kept = back != 0
    assert int(kept.sum()) == geometry.plane_shape[0] * geometry.plane_shape[1]
    assert torch.equal(back[kept], volume[kept])


@given(data=st.data())
def test_matrix_says_where_a_pixel_comes_from(
    data: st.DataObject, affines: Strategy, shapes: Strategy, axes: Strategy
) -> None:
    affine, shape, axis = (data.draw(strategy) for strategy in (affines, shapes, axes))
    geometry = PlaneGeometry.of_volume(shape, affine, axis)
    index = data.draw(st.integers(0, geometry.depth - 1))
    row, column = (data.draw(st.integers(0, n - 1)) for n in geometry.plane_shape)
    volume = torch.arange(int(np.prod(shape))).reshape(1, *shape)
    x, y, z, one = (int(v) for v in geometry.matrix(index) @ [row, column, 0, 1])
    assert one == 1
    assert geometry.take(volume, index)[0, row, column] == volume[0, x, y, z]


@given(data=st.data(), axis=st.sampled_from(sorted(PLANES)))
def test_display_directions_in_the_world(data: st.DataObject, axis: str, affines: Strategy, shapes: Strategy) -> None:
    affine, shape = data.draw(affines), data.draw(shapes)
    geometry = PlaneGeometry.of_volume(shape, affine, axis)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine @ geometry.matrix()
    for (world, direction), column in zip(PLANES[axis], (lps[:3, 2], lps[:3, 0], lps[:3, 1]), strict=True):
        # the tilt is at most 0.4 radians, so the named direction is the nearest one
        assert np.argmax(np.abs(column)) == world
        assert np.sign(column[world]) == direction


def test_a_source_axis_is_shown_as_the_plane_it_is_closest_to() -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert PlaneGeometry.of_volume((2, 3, 4), affine, -1) == PlaneGeometry.of_volume((2, 3, 4), affine, "axial")
    assert PlaneGeometry.of_volume((2, 3, 4), affine, 0) == PlaneGeometry.of_volume((2, 3, 4), affine, "sagittal")


_CORONAL = np.array([[-0.2, 0, 0, 0], [0, 0, 1, 0], [0, 0.2, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("shape", "affine", "plane"),
    [
        ((8, 8, 8), np.eye(4), "axial"),
        # a radiograph as dcm2niix writes it, its one slice along z of the file and along y of the patient
        ((300, 260, 1), _CORONAL, "coronal"),
        # the single voxel comes before the spacing
        ((300, 260, 1), _CORONAL @ np.diag([9, 1, 1, 1]), "coronal"),
        ((1, 8, 8), np.eye(4), "sagittal"),
        # two single voxels tell nothing; three neither
        ((1, 8, 1), np.eye(4), "axial"),
        ((1, 8, 1), np.diag([1.0, 4, 1, 1]), "coronal"),
        ((1, 1, 1), np.eye(4), "axial"),
        ((7, 64, 64), np.diag([-4.0, 0.9, 0.9, 1]), "sagittal"),
        ((64, 64, 7), np.array([[0, 0, 4.0, 0], [0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]]), "sagittal"),
        ((8, 8, 8), np.diag([1.0, 1.5, 1, 1]), "coronal"),
        ((8, 8, 8), np.diag([1.0, 1.49, 1, 1]), "axial"),
        # a slab of even voxels
        ((6, 40, 48), np.eye(4), "sagittal"),
        ((11, 40, 48), np.eye(4), "axial"),
        # longer than one other, but not than both
        ((8, 8, 8), np.diag([3.0, 2.5, 1, 1]), "axial"),
    ],
)
def test_auto_is_the_plane_that_a_volume_was_taken_in(shape: tuple, affine: np.ndarray, plane: str) -> None:
    assert slice_plane(shape, affine) == plane
    assert PlaneGeometry.of_volume(shape, affine) == PlaneGeometry.of_volume(shape, affine, plane)
    assert slice_plane(shape, affine, "axial") == "axial"


@given(data=st.data(), thick=st.integers(0, 2))
def test_auto_finds_thick_slices_in_any_orientation(
    data: st.DataObject, thick: int, affines: Strategy, shapes: Strategy
) -> None:
    affine = data.draw(affines)
    affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
    affine[:3, thick] *= 2
    shape = tuple(n + 1 for n in data.draw(shapes))
    assert PlaneGeometry.of_volume(shape, affine).order[0] == thick


def test_a_picture_has_rows_y() -> None:
    geometry = PlaneGeometry.of_picture((3, 2))
    picture = torch.tensor([[[1, 2], [3, 4], [5, 6]]])
    assert geometry.take(picture[..., None], 0).tolist() == [[[1, 3, 5], [2, 4, 6]]]
    assert geometry.matrix()[:2].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 0.0, 1.0, 1.0])])
def test_an_affine_without_orientation_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="tells no orientation"):
        PlaneGeometry.of_volume((2, 2, 2), bad, "axial")


@pytest.mark.parametrize("axis", ["transversal", 3, -4])
def test_unknown_axis_is_refused(axis: int | str) -> None:
    with pytest.raises(ConfigError, match="axis is"):
        PlaneGeometry.of_volume((2, 2, 2), np.eye(4), axis)
