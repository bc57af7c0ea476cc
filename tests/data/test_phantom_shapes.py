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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label as components

from monai_sa2va.data.phantom_shapes import blob, field, ramp, ring, vessel_tree


def test_disc_of_radius_two_pixel_by_pixel(rng):
    expected = np.zeros((128, 128), dtype=bool)
    # centre (10, 20) lies between four pixels; (±0.5, ±1.5) is 1.58 away, (±1.5, ±1.5) 2.12
    expected[18:22, 9:11] = True
    expected[19:21, 8:12] = True
    np.testing.assert_array_equal(blob(rng, 128, (10, 20), (2, 2)), expected)


@given(
    x=st.floats(30, 98),
    y=st.floats(30, 98),
    a=st.floats(4, 25),
    b=st.floats(4, 25),
    angle=st.floats(-math.pi, math.pi),
)
def test_ellipse_has_its_area_and_centre(x, y, a, b, angle):
    mask = blob(np.random.default_rng(0), 256, (x, y), (a, b), angle)
    assert mask.sum() / 4 == pytest.approx(math.pi * a * b, rel=0.06)
    rows, columns = np.nonzero(mask)
    assert columns.mean() / 2 + 0.25 == pytest.approx(x, abs=0.3)
    assert rows.mean() / 2 + 0.25 == pytest.approx(y, abs=0.3)


def test_angle_turns_the_long_axis_from_x_towards_y(rng):
    mask = blob(rng, 128, (64, 64), (30, 3), math.pi / 4)
    assert mask[64 + 18, 64 + 18]
    assert not mask[64 - 18, 64 + 18]


@given(seed=st.integers(0, 1000), roughness=st.floats(0, 0.2), bend=st.floats(-0.6, 0.6), angle=st.floats(-3, 3))
def test_window_of_a_blob_cuts_nothing_off(seed, roughness, bend, angle):
    def draw(centre):
        return blob(np.random.default_rng(seed), 128, centre, (20, 9), angle, roughness, (2, 4), bend)

    # a window that were too small would leave a straight edge: the outline itself never fills a whole border line
    rows, columns = np.nonzero(draw((64, 64)))
    assert rows.min() > 0
    assert rows.max() < 127
    left_of_border = draw((0, 64))
    np.testing.assert_array_equal(left_of_border[:, :60], draw((64, 64))[:, 64:124])
    assert len(np.unique(rows[columns == columns.min()])) < 20


def test_rough_blobs_differ_and_stay_within_their_bounds():
    masks = [blob(np.random.default_rng(seed), 128, (64, 64), (10, 10), 0, 0.2, (2, 5)) for seed in range(20)]
    areas = {int(mask.sum()) for mask in masks}
    assert len(areas) > 10
    for mask in masks:
        rows, columns = np.nonzero(mask)
        distance = np.hypot(columns + 0.5 - 64, rows + 0.5 - 64)
        assert distance.max() <= 14.0  # 1.4 radii
        assert mask[blob(np.random.default_rng(0), 128, (64, 64), (6.5, 6.5))].all()  # 0.65 radii


def test_blob_outside_the_image_is_empty(rng):
    assert not blob(rng, 64, (-300, 400), (10, 10)).any()


@pytest.mark.parametrize("calibre", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("size", [128, 384])
def test_unbranched_vessel_has_its_calibre(calibre, size):
    mask = vessel_tree(np.random.default_rng(1), size, (14, 64), 0.0, calibre, 60, curvature=0.0, generations=0)
    scale = size / 128
    column = mask[:, round(20 * scale)]
    assert column.sum() == pytest.approx(calibre * scale, abs=1.2)
    assert components(mask, np.ones((3, 3)))[1] == 1


@given(seed=st.integers(0, 10**6), calibre=st.floats(3, 8), heading=st.floats(-math.pi, math.pi))
def test_vessel_tree_is_in_one_piece_and_grows_with_its_generations(seed, calibre, heading):
    def tree(generations):
        return vessel_tree(np.random.default_rng(seed), 128, (64, 64), heading, calibre, 14, generations=generations)

    whole = tree(2)
    assert components(whole, np.ones((3, 3)))[1] == 1
    assert whole.sum() > tree(0).sum()
    assert whole[63:65, 63:65].any()


def test_vessel_ends_at_two_pixels():
    # 2.0 * 0.9 is under the thinnest calibre: the part is not tapered, and has no branches
    thin = vessel_tree(np.random.default_rng(3), 128, (20, 64), 0.0, 2.0, 40, curvature=0.0, generations=5)
    assert thin.sum() == pytest.approx(40 * 2, rel=0.35)


def test_vessel_that_leaves_the_image_is_cut():
    mask = vessel_tree(np.random.default_rng(0), 64, (120, 120), 0.0, 8, 60)
    assert mask.shape == (64, 64)
    assert mask.any()
    assert not mask[:40].any()


@pytest.mark.parametrize("sigma", [0.8, 5.0, 9.0, 24.0])
@pytest.mark.parametrize("size", [64, 128, 200])
def test_field_is_standardised_and_smooth(rng, sigma, size):
    noise = field(rng, size, sigma)
    assert noise.shape == (size, size)
    assert abs(noise.mean()) < 0.25
    assert 0.6 < noise.std() < 1.2
    if sigma >= 5:
        # its slope has the deviation 1 / (sqrt(2) sigma), of which five are never passed
        assert np.abs(np.diff(noise, axis=0)).max() < 5 / math.sqrt(2) / sigma * 128 / size


def test_ramp_runs_from_minus_one_to_one(rng):
    plane = ramp(rng, 128)
    assert plane.mean() == pytest.approx(0, abs=1e-9)
    assert np.abs(plane).max() <= math.sqrt(2)
    assert max(plane[0].max(), plane[-1].max(), plane[:, 0].max(), plane[:, -1].max()) >= 0.99


@pytest.mark.parametrize("size", [128, 256])
def test_ring_surrounds_a_disc(rng, size):
    disc = blob(rng, size, (64, 64), (20, 20))
    around = ring(disc, 3.0)
    assert not (around & disc).any()
    rows, columns = np.nonzero(around)
    reach = np.hypot(columns + 0.5 - size / 2, rows + 0.5 - size / 2) * 128 / size - 20
    assert 2.0 < reach.max() < 4.0
