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

"""InternVL's dynamic tiling: square tiles of the picture for the MLLM, in a grid of about the picture's shape."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Transform
from PIL import Image

from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.picture import IMAGENET_MEAN, IMAGENET_STD, channel_constants, to_picture

__all__ = ["TileImage", "TileImageD", "TileImageDict", "TileImaged", "find_tile_grid"]


def find_tile_grid(
    width: int, height: int, tile_size: int = 448, min_tiles: int = 1, max_tiles: int = 12
) -> tuple[int, int]:
    """The grid of tiles that a picture is resized to: InternVL's ``dynamic_preprocess``.

    Of all grids with ``min_tiles`` to ``max_tiles`` tiles the one whose columns / rows is closest to width / height.
    Of several equally close ones a larger grid is taken only where the picture has more than half its pixels.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        tile_size: side of a tile, pixels.
        min_tiles: fewest tiles.
        max_tiles: most tiles, the thumbnail not counted.

    Returns:
        ``(columns, rows)``.

    Raises:
        DataError: when the picture is empty.
        ConfigError: when there is no such grid.
    """
    if width < 1 or height < 1:
        raise DataError(f"a picture of {width} x {height} pixels can't be tiled")
    ratio, area = width / height, width * height
    best, smallest = (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        difference = abs(ratio - columns / rows)
        roomy = area > 0.5 * tile_size * tile_size * columns * rows
        if difference < smallest or (difference == smallest and roomy):
            best, smallest = (columns, rows), difference
    return best


@lru_cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    if not 1 <= min_tiles <= max_tiles:
        raise ConfigError(f"min_tiles {min_tiles} and max_tiles {max_tiles} allow no grid; 1 <= min_tiles <= max_tiles")
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if min_tiles <= columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


class TileImage(Transform):
    """Cut a picture into normalised square tiles, row by row, and add a thumbnail of the whole to several tiles.

    Args:
        tile_size: side t of a tile, pixels.
        min_tiles: fewest tiles.
        max_tiles: most tiles, the thumbnail not counted.
        use_thumbnail: whether several tiles get the whole picture as one more, the last.
        mean: of each channel, of values 0 to 1; ImageNet's by default.
        std: standard deviation of each channel, likewise.

    Raises:
        ConfigError: when no grid is allowed, or mean or std don't have three values.
    """

    def __init__(
        self,
        tile_size: int = 448,
        min_tiles: int = 1,
        max_tiles: int = 12,
        use_thumbnail: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if tile_size < 1:
            raise ConfigError(f"tile_size is {tile_size}; at least 1 pixel is needed")
        _grids(min_tiles, max_tiles)
        self.tile_size, self.min_tiles, self.max_tiles = tile_size, min_tiles, max_tiles
        self.use_thumbnail = use_thumbnail
        self.mean, self.std = channel_constants("mean", mean), channel_constants("std", std)

    def tiles(self, image: Any, name: Hashable = "image") -> np.ndarray:
        """The tiles before normalisation: (tiles, t, t, 3) uint8. See :meth:`__call__`."""
        picture, side = to_picture(image, name), self.tile_size
        columns, rows = find_tile_grid(*picture.size, side, self.min_tiles, self.max_tiles)
        resized = np.asarray(picture.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
        grid = resized.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        if self.use_thumbnail and len(grid) > 1:
            thumbnail = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
            grid = np.concatenate([grid, thumbnail[None]])
        # Pillow's own memory is read-only, which torch doesn't like
        return np.array(grid)

    def __call__(self, image: Any, name: Hashable = "image") -> torch.Tensor:
        """Tile a picture.

        Args:
            image: (H, W, 3) uint8 array, a picture of Pillow, or (3, H, W) tensor with values 0 to 255, which are
                rounded.
            name: what error messages call the image.

        Returns:
            (tiles, 3, t, t) float32, normalised.

        Raises:
            DataError: when the image is none of these.
        """
        pixels = torch.from_numpy(self.tiles(image, name)).permute(0, 3, 1, 2)
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous()


class TileImaged(MapTransform):
    """Dictionary form of :class:`TileImage`: the tiles are put beside the image.

    Args:
        keys: of the one image.
        output_key: where the tiles go.
        tile_size: as for :class:`TileImage`, like all that follow.
        min_tiles: fewest tiles.
        max_tiles: most tiles.
        use_thumbnail: whether several tiles get the whole picture as one more.
        mean: of each channel.
        std: standard deviation of each channel.
        allow_missing_keys: whether the image may be missing.
    """

    def __init__(
        self,
        keys: str = Sa2VAKeys.IMAGE,
        output_key: str = Sa2VAKeys.PIXEL_VALUES,
        tile_size: int = 448,
        min_tiles: int = 1,
        max_tiles: int = 12,
        use_thumbnail: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ConfigError(f"keys are {self.keys}; give one image, since its tiles go to '{output_key}'")
        self.output_key = output_key
        self.tile = TileImage(tile_size, min_tiles, max_tiles, use_thumbnail, mean, std)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the tiles."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.output_key] = self.tile(d[key], name=key)
        return d


TileImageD = TileImageDict = TileImaged
