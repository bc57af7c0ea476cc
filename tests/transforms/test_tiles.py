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

"""InternVL's tiles: the grid's rules, where each tile comes from, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.tiles import TileImage, TileImaged, find_tile_grid


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((64, 64), (1, 1)),
        # 633 * 633 is less, 634 * 634 more than half of 4 tiles of 448 * 448
        ((633, 633), (1, 1)),
        ((634, 634), (2, 2)),
        ((1024, 1024), (3, 3)),
        ((128, 96), (4, 3)),
        ((100, 175), (1, 2)),
        ((10000, 10), (12, 1)),
    ],
)
def test_grids(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert find_tile_grid(*size) == grid


def test_grid_of_few_tiles() -> None:
    assert find_tile_grid(1000, 1000, max_tiles=1) == (1, 1)
    assert find_tile_grid(64, 64, min_tiles=4, max_tiles=4) == (2, 2)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_a_turned_picture_has_the_turned_grid(width: int, height: int) -> None:
    # the rule compares quotients: where two grids are equally close in w / h they aren't in h / w
    columns, rows = find_tile_grid(width, height)
    assert 1 <= columns * rows <= 12
    if width == height:
        assert columns == rows


@pytest.mark.parametrize("limits", [(0, 4), (5, 4), (-1, -1)])
def test_impossible_limits_are_refused(limits: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="min_tiles"):
        TileImage(min_tiles=limits[0], max_tiles=limits[1])


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(DataError, match="0 x 5 pixels"):
        find_tile_grid(0, 5)


def test_tiles_are_cut_row_by_row() -> None:
    # 3 columns x 2 rows of 4 x 4 pixels, each tile of one colour: resizing changes nothing
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(4, 0).repeat(4, 1)
    image = np.stack([colours, colours + 10, colours + 20], -1)
    tile = TileImage(tile_size=4, mean=(0, 0, 0), std=(1, 1, 1))
    tiles = tile(image)
    assert tiles.shape == (7, 3, 4, 4)
    assert tiles.dtype == torch.float32
    for number in range(6):
        assert torch.unique(tiles[number] * 255).round().tolist() == [number, number + 10, number + 20]
    thumbnail = np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BICUBIC))
    assert (tiles[6] * 255).round().permute(1, 2, 0).tolist() == thumbnail.tolist()
    assert len(TileImage(4, use_thumbnail=False)(image)) == 6


def test_one_tile_has_no_thumbnail_and_imagenets_normalisation() -> None:
    tiles = TileImage(tile_size=8)(np.full((5, 5, 3), 255, np.uint8))
    assert tiles.shape == (1, 3, 8, 8)
    # (1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225
    np.testing.assert_allclose(tiles[0, :, 0, 0], [2.2489083, 2.4285714, 2.64], atol=1e-6)


def test_array_picture_and_tensor_agree(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    tile = TileImage(tile_size=16)
    expected = tile(array)
    assert torch.equal(tile(Image.fromarray(array)), expected)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(tile(tensor), expected)
    assert torch.equal(tile(MetaTensor(tensor.float() + 0.3)), expected)
    assert torch.equal(tile(tensor.float() - 0.3), expected)


def test_dictionary_form_puts_tiles_beside_the_image() -> None:
    image = MetaTensor(torch.zeros(3, 6, 6))
    d = TileImaged(tile_size=8)({"image": image})
    assert d["pixel_values"].shape == (1, 3, 8, 8)
    assert type(d["pixel_values"]) is torch.Tensor
    assert d["image"] is image
    with pytest.raises(ConfigError, match="give one image"):
        TileImaged(["image", "other"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"array of shape \(4, 4\) and uint8"),
        (np.zeros((4, 4, 3), np.float32), "float32; expected"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (torch.zeros(1, 4, 4), r"tensor of shape \(1, 4, 4\); expected \(3, H, W\)"),
        (torch.full((3, 4, 4), 256.0), "values from 256 to 256; expected 0 to 255"),
        (torch.full((3, 4, 4), -1), "values from -1"),
        (torch.full((3, 4, 4), torch.nan), "values from nan"),
        (Image.new("I;16", (4, 4)), "picture of mode I;16"),
    ],
)
def test_bad_images_are_refused(image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TileImage()(image)


@pytest.mark.parametrize("arguments", [{"tile_size": 0}, {"mean": (0.5,)}, {"std": (1, 1)}])
def test_bad_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        TileImage(**arguments)
