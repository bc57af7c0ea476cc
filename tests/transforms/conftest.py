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

"""Strategies of hypothesis that several tests of geometry draw from."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st

_CODES = [
    a + b + c
    for axes in (("LR", "AP", "IS"), ("LR", "IS", "AP"), ("AP", "LR", "IS"), ("AP", "IS", "LR"), ("IS", "LR", "AP"))
    for a in axes[0]
    for b in axes[1]
    for c in axes[2]
]


@st.composite
def _affines(draw: st.DrawFn) -> np.ndarray:
    """Affines of any orientation, with unequal spacings, an origin, and a tilt that leaves the closest axes alone."""
    ornt = nib.orientations.axcodes2ornt(draw(st.sampled_from(_CODES)))
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for source, (world, flip) in enumerate(ornt):
        affine[int(world), source] = flip * draw(st.floats(0.3, 5.0))
    angle = draw(st.floats(-0.4, 0.4))
    tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = tilt @ affine[:3, :3]
    affine[:3, 3] = draw(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
    return affine


@pytest.fixture(scope="session")
def affines() -> st.SearchStrategy[np.ndarray]:
    """Affines (4, 4), index -> RAS."""
    return _affines()


@pytest.fixture(scope="session")
def shapes() -> st.SearchStrategy[tuple[int, int, int]]:
    """Shapes of small volumes, single slices among them."""
    return st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


@pytest.fixture(scope="session")
def axes() -> st.SearchStrategy[int | str]:
    """What a plane may be asked for by."""
    return st.one_of(st.sampled_from(["auto", "axial", "coronal", "sagittal"]), st.integers(-3, 2))
