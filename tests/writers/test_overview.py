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

"""The overview picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_sa2va.errors import OutputError
from monai_sa2va.predictor import Segmentation
from monai_sa2va.writers.overview import PALETTE, draw_overview, write_overview

Make = Callable[..., Segmentation]


def test_picture_beside_filled_and_outlined_objects(segmentation: Make) -> None:
    def fill(masks: np.ndarray) -> None:
        masks[0, 100:200, 100:200] = True

    found = segmentation(np.full((400, 500), 100, np.uint8), ["a"], fill)
    sheet = np.asarray(draw_overview(found))
    # 400 x 500 stays as it is: picture, 4 px, picture, and one line of legend below
    assert sheet.shape == (400 + 22 + 8, 2 * 500 + 4, 3)
    assert (sheet[:400, :500] == 100).all()
    right = sheet[:400, 504:]
    assert (right[:90] == 100).all()
    fill_colour = [round(100 * 0.65 + value * 0.35) for value in PALETTE[0]]
    assert right[150, 150].tolist() == fill_colour
    assert right[100, 150].tolist() == list(PALETTE[0])
    assert sheet[411, 10].tolist() == list(PALETTE[0])
    # nothing but the object is touched
    assert (right != 100).any(-1).sum() == 100 * 100


@pytest.mark.parametrize(
    ("shape", "width", "height"), [((1, 1), 320, 320), ((32, 64), 640, 320), ((2000, 4000), 1600, 800)]
)
def test_size_is_readable(segmentation: Make, shape: tuple[int, int], width: int, height: int) -> None:
    assert draw_overview(segmentation(np.zeros(shape, np.uint8), ["a", "b"])).size == (
        2 * width + 4,
        height + 2 * 22 + 8,
    )


def test_a_mask_at_the_border_gets_no_frame(segmentation: Make) -> None:
    def fill(masks: np.ndarray) -> None:
        masks[:] = True

    found = segmentation(np.zeros((400, 400), np.uint8), ["a"], fill)
    right = np.asarray(draw_overview(found))[:400, 404:]
    assert len(np.unique(right.reshape(-1, 3), axis=0)) == 1


def test_the_legend_tells_what_isnt_seen(segmentation: Make) -> None:
    volume = MetaTensor(torch.zeros(1, 8, 8, 3), affine=torch.eye(4))

    def fill(masks: np.ndarray) -> None:
        masks[0, 1, 2:6, 2:6] = True
        masks[1, 2, 0, 0] = True

    found = replace(segmentation(volume, ["a", "b", "c"], fill), slice_index=1, views=())
    picture = draw_overview(found)
    assert picture.height == 320 + 4 * 22 + 8
    # the same with nothing in it looks different
    empty = draw_overview(replace(found, masks=np.zeros_like(found.masks)))
    assert np.asarray(empty).tolist() != np.asarray(picture).tolist()


def test_written_once(tmp_path: Path, segmentation: Make) -> None:
    found = segmentation(np.zeros((4, 4), np.uint8), ["血管", "x" * 300])
    path = write_overview(found, tmp_path / "overview.png")
    with Image.open(path) as image:
        assert image.mode == "RGB"
    with pytest.raises(OutputError, match="is there already"):
        write_overview(found, path)


def test_further_slices_follow_outlined(segmentation: Make) -> None:
    volume = MetaTensor(torch.zeros(1, 40, 40, 6), affine=torch.eye(4))

    def fill(masks: np.ndarray) -> None:
        masks[0, 2:, 10:30, 10:30] = True

    views = [(z, np.full((40, 40, 3), 90, np.uint8)) for z in (1, 2, 3, 4, 5)]
    found = replace(segmentation(volume, ["a"], fill), slice_index=2, views=views)
    sheet = np.asarray(draw_overview(found))
    # the slice that is shown large is not shown again: four of 158 x 158 in one row
    top = 320 + 2 * 22 + 8
    assert sheet.shape == (top + 158 + 4, 2 * 320 + 4, 3)
    empty, full = sheet[top : top + 158, :158], sheet[top : top + 158, 162 : 162 + 158]
    assert (empty[20:] == 90).all()
    assert full[79, 79].tolist() == [90, 90, 90]
    assert full[40, 79].tolist() == list(PALETTE[0])
