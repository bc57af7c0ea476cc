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

"""The contact sheet of the demo."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from monai_sa2va.data.phantoms import SYNONYMS


@pytest.fixture
def sheet(scoring):
    return importlib.import_module("contact_sheet")


def test_every_structure_has_a_colour_of_its_own(sheet):
    assert set(sheet.COLOURS) == set(SYNONYMS)
    assert len(set(sheet.COLOURS.values())) == len(SYNONYMS)


def test_paint_mixes_inside_outlines_the_edge_and_leaves_the_rest(sheet):
    picture = np.full((10, 10, 3), 100, np.uint8)
    mask = np.zeros((10, 10), bool)
    mask[:, 5:] = True  # reaches the border, which is no edge
    painted = np.array(sheet.paint(picture, {"liver": mask}, side=100))
    assert painted.shape == (100, 100, 3)
    assert (painted[:, :45] == 100).all()
    colour = np.array(sheet.COLOURS["liver"])
    np.testing.assert_array_equal(painted[50, 80], np.round(50 + colour / 2))
    np.testing.assert_array_equal(painted[50, 99], np.round(50 + colour / 2))
    assert (painted[50] == colour).all(-1).sum() == 1


def test_panels_and_legend_stand_where_they_belong(sheet):
    picture = np.full((32, 32, 3), 90, np.uint8)
    mask = np.ones((32, 32), bool)
    tile = sheet.Tile(
        picture, {"spine": mask}, {"cyst": mask}, {"spine": "Segment the spine.", "cyst": "x", "liver": "y"}
    )
    drawn = np.array(sheet.contact_sheet([("one", [tile, tile]), ("two", [tile])], "end"))
    assert drawn.shape[1] == 1186
    middle = 14 + 2 * 22 + 94  # of the panels of the first row
    for left in (14, 600):
        for panel, name in enumerate((None, "spine", "cyst")):
            wanted = 90 if name is None else np.round(45 + np.array(sheet.COLOURS[name]) / 2)
            np.testing.assert_array_equal(drawn[middle, left + panel * 192 + 94], np.broadcast_to(wanted, 3))
    chips = [drawn[254 + 22 * (i // 2) + 8 + 1, 14 + 286 * (i % 2) + 6] for i in range(3)]
    np.testing.assert_array_equal(chips, [sheet.COLOURS[name] for name in ("spine", "cyst", "liver")])
