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

"""Masks of three planes as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.inferers.agreement import agree, check_planes, other_planes
from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.transforms.geometry import PLANES, PlaneGeometry

_TURNED = np.array([[0, -1.5, 0, 3], [0, 0, 1.2, -7], [1.0, 0, 0, 5], [0, 0, 0, 1]])


def _found(volume: np.ndarray, plane: str, presence: np.ndarray | None = None) -> tuple[SliceResults, PlaneGeometry]:
    """One object, (X, Y, Z), as this plane's slices show it."""
    geometry = PlaneGeometry.of_volume(volume.shape, _TURNED, plane)
    results = SliceResults(geometry.depth)
    stack = geometry.stack(torch.from_numpy(volume)[None])
    for number, mask in enumerate(stack):
        sure = torch.ones(1) if presence is None else torch.tensor([float(presence[number])])
        results.keep(number, ImageResult(mask, ["x"], [0], sure, sure, [""], [["x"]]))
    return results, geometry


@given(shape=st.tuples(*[st.integers(1, 5)] * 3), seed=st.integers(0, 999))
def test_a_voxel_counts_where_two_planes_have_it(shape: tuple[int, int, int], seed: int) -> None:
    volumes = np.random.default_rng(seed).random((3, *shape)) < 0.5
    found = [_found(volume, plane) for volume, plane in zip(volumes, PLANES, strict=True)]
    for how in ("majority", "mean"):
        agreed = agree(found, how)
        np.testing.assert_array_equal(found[0][1].view(agreed.masks)[0], volumes.sum(0) >= 2)


def test_votes_are_weighed_by_the_presence_in_their_slices() -> None:
    full, empty = np.ones((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool)
    # sure in one slice, unsure in the other; both others are against it, half sure
    found = [
        _found(full, "axial", np.array([0.9, 0.7])),
        _found(empty, "coronal", np.array([0.4, 0.4])),
        _found(empty, "sagittal", np.array([0.4, 0.4])),
    ]
    agreed = agree(found, "mean")
    assert [bool(mask.any()) for mask in agreed.masks[0]] == [True, False]
    assert agreed.masks[0, 0].all()
    assert agreed.presence[:, 0].tolist() == pytest.approx([0.9, 0.7])
    assert not agree(found, "majority").masks.any()


def test_planes_of_a_volume() -> None:
    assert other_planes("scan", (4, 5, 6), _TURNED, "coronal") == ["axial", "sagittal"]
    with pytest.raises(DataError, match=r"scan has voxels of 1 x 1 x 2\.5 mm, too uneven"):
        other_planes("scan", (4, 5, 6), np.diag([1, 1, 2.5, 1]), "auto")
    with pytest.raises(DataError, match="scan is a slab of 6 voxels across, too thin"):
        other_planes("scan", (6, 48, 40), np.eye(4), "auto")
    with pytest.raises(ConfigError, match="planes is 'all'; allowed: one, majority, mean"):
        check_planes("all")
