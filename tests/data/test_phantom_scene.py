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
import pytest

from monai_sa2va.data.phantom_scene import STRUCTURES, Scene


def make_scene(size: int = 128) -> Scene:
    return Scene(np.random.default_rng(0), np.random.default_rng(1), size)


def square(top: int, left: int, side: int, size: int = 128) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_later_structures_hide_earlier_ones():
    scene = make_scene()
    scene.add("back", square(10, 10, 20), 0.3)
    scene.add("front", square(20, 20, 20), 0.6)
    seen = scene.visible()
    assert list(seen) == ["back", "front"]
    assert seen["back"].sum() == 400 - 100
    assert seen["front"].sum() == 400
    assert not (seen["back"] & seen["front"]).any()
    assert scene.image[15, 15, 0] == pytest.approx(0.3, abs=1e-6)
    assert scene.image[25, 25, 0] == pytest.approx(0.6, abs=1e-6)


def test_parts_of_one_structure_are_joined():
    scene = make_scene()
    scene.add("pair", square(10, 10, 10), 0.5)
    scene.add("pair", square(50, 50, 10), 0.5)
    assert scene.visible()["pair"].sum() == 200


@pytest.mark.parametrize(
    ("size", "rows_left", "there"), [(128, 3, True), (128, 2, False), (256, 8, True), (256, 5, False)]
)
def test_nearly_hidden_structure_is_left_out(size, rows_left, there):
    # 30 pixels of the reference size are the least: 30 at 128, 120 at 256
    scene = make_scene(size)
    side = 10 * size // 128
    scene.add("back", square(0, 0, side, size), 0.5)
    scene.add("front", square(rows_left, 0, side, size), 0.5)
    assert ("back" in scene.visible()) is there


def test_paint_blends_by_strength_and_touches_nothing_far_away():
    scene = make_scene()
    scene.image[:] = 0.2
    scene.paint(square(40, 40, 20), (1.0, 0.6, 0.2), strength=0.5)
    np.testing.assert_allclose(scene.image[50, 50], (0.6, 0.4, 0.2), atol=1e-9)
    np.testing.assert_array_equal(scene.image[:30], 0.2)
    scene.paint(np.zeros((128, 128), dtype=bool), 1.0)
    np.testing.assert_array_equal(scene.image[:30], 0.2)


def test_mottle_varies_the_structure_only():
    scene = make_scene()
    scene.add("lesion", square(40, 40, 30), 0.5, mottle=0.1)
    inside = scene.image[45:65, 45:65, 0]
    assert 0.02 < inside.std() < 0.08
    assert scene.image[:30].max() == 0


@pytest.mark.parametrize(
    ("look", "groups"),
    [
        ("fundus", [{"macula"}, {"optic disc", "lesion"}]),
        ("ct", [{"kidney"}, {"spine"}]),
        ("ultrasound", [{"cyst"}, {"nodule"}]),
    ],
)
def test_choice_leaves_two_structures_that_share_their_grey(look, groups):
    scene = make_scene()
    counts = dict.fromkeys(STRUCTURES[look], 0)
    for _ in range(2000):
        chosen = scene.choose(look)
        assert any(group <= chosen for group in groups)
        for name in chosen:
            counts[name] += 1
    assert counts.pop("vessels") == 0  # always painted, never drawn by lot
    for count in counts.values():
        assert 0.72 <= count / 2000 <= 0.87
