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
"""Qwen's view of a picture: patches in its own shape, after the two resamplings of the reference."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Transform
from PIL import Image

from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.picture import channel_constants, to_picture

__all__ = ["CLIP_MEAN", "CLIP_STD", "PatchImage", "PatchImageD", "PatchImageDict", "PatchImaged", "find_patch_size"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# the reference resizes each picture to this grid before the model's own, whatever that is
_FIRST_SIDE, _FIRST_SQUARES = 28, (4, 16384)

_LONGEST = 200


def find_patch_size(width: int, height: int, side: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size that a picture is resized to: multiples of ``side``, about its shape, with pixels within the limits.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        side: of the square that one token stands for, pixels.
        min_pixels: least pixels of the result.
        max_pixels: most pixels of the result.

    Returns:
        ``(width, height)``, pixels.

    Raises:
        DataError: when the picture is empty, or one side is more than 200 times the other.
    """
    if width < 1 or height < 1 or max(width, height) > _LONGEST * min(width, height):
        raise DataError(
            f"a picture of {width} x {height} pixels can't be cut into patches; "
            f"no side may be longer than {_LONGEST} times the other"
        )
    size = [max(round(length / side), 1) for length in (width, height)]
    pixels = size[0] * size[1] * side**2
    if pixels > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        size = [max(math.floor(length / shrink / side), 1) for length in (width, height)]
    elif pixels < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        size = [math.ceil(length * grow / side) for length in (width, height)]
    return size[0] * side, size[1] * side


class PatchImage(Transform):
    """Resize a picture twice, as the reference does (Pillow's bicubic), normalise it, and cut it into patches.

    The patches of each square that becomes one token follow one another; the squares go row by row.

    Args:
        patch_size: side p of a patch, pixels.
        merge_size: side of the square of patches that one token stands for.
        temporal_patch_size: T, how often a picture is repeated in its patches.
        min_pixels: least pixels after resizing.
        max_pixels: most pixels after resizing.
        mean: of each channel, of values 0 to 1; CLIP's by default, as Qwen2.5-VL has it.
        std: standard deviation of each channel, likewise.

    Raises:
        ConfigError: when a size is below 1, the limits allow nothing, or mean or std don't have three values.
    """

    def __init__(
        self,
        patch_size: int = 14,
        merge_size: int = 2,
        temporal_patch_size: int = 2,
        min_pixels: int = 512 * 28 * 28,
        max_pixels: int = 2048 * 28 * 28,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        sizes = (patch_size, merge_size, temporal_patch_size)
        if min(sizes) < 1 or not (patch_size * merge_size) ** 2 <= min_pixels <= max_pixels:
            raise ConfigError(
                f"patch_size, merge_size and temporal_patch_size are {sizes}, min_pixels {min_pixels}, max_pixels "
                f"{max_pixels}; give 1 or more, and limits that allow at least one square of patches"
            )
        self.patch_size, self.merge_size, self.temporal_patch_size = sizes
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.mean, self.std = channel_constants("mean", mean), channel_constants("std", std)

    def resize(self, image: Any, name: Hashable = "image") -> np.ndarray:
        """The picture before normalisation: (H, W, 3) uint8. See :meth:`__call__`."""
        picture = to_picture(image, name)
        least, most = (squares * _FIRST_SIDE**2 for squares in _FIRST_SQUARES)
        first = find_patch_size(*picture.size, _FIRST_SIDE, least, most)
        picture = picture.resize(first, Image.Resampling.BICUBIC)
        last = find_patch_size(*first, self.patch_size * self.merge_size, self.min_pixels, self.max_pixels)
        return np.array(picture.resize(last, Image.Resampling.BICUBIC))

    def __call__(self, image: Any, name: Hashable = "image") -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a picture into patches.

        Args:
            image: (H, W, 3) uint8 array, a picture of Pillow, or (3, H, W) tensor with values 0 to 255, which are
                rounded.
            name: what error messages call the image.

        Returns:
            Patches (rows * columns, 3 * T * p * p) float32, normalised, and (1, 3) int64: 1, rows and columns of
            patches.

        Raises:
            DataError: when the image is none of these, or too long for its width.
        """
        side, merge = self.patch_size, self.merge_size
        pixels = torch.from_numpy(self.resize(image, name)).permute(2, 0, 1)
        normalised = (pixels.float() / 255 - self.mean) / self.std
        rows, columns = normalised.shape[1] // side, normalised.shape[2] // side
        grid = normalised.view(3, rows // merge, merge, side, columns // merge, merge, side)
        squares = grid.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)
        repeated = squares.expand(-1, -1, -1, -1, -1, self.temporal_patch_size, -1, -1)
        return repeated.reshape(rows * columns, -1), torch.tensor([[1, rows, columns]])


class PatchImaged(MapTransform):
    """Dictionary form of :class:`PatchImage`: patches and grid are put beside the image.

    Args:
        keys: of the one image.
        output_key: where the patches go.
        grid_key: where the grid goes.
        patch_size: as for :class:`PatchImage`, like all that follow.
        merge_size: side of the square of patches that one token stands for.
        temporal_patch_size: how often a picture is repeated in its patches.
        min_pixels: least pixels after resizing.
        max_pixels: most pixels after resizing.
        mean: of each channel.
        std: standard deviation of each channel.
        allow_missing_keys: whether the image may be missing.
    """

    def __init__(
        self,
        keys: str = Sa2VAKeys.IMAGE,
        output_key: str = Sa2VAKeys.PIXEL_VALUES,
        grid_key: str = Sa2VAKeys.IMAGE_GRID,
        patch_size: int = 14,
        merge_size: int = 2,
        temporal_patch_size: int = 2,
        min_pixels: int = 512 * 28 * 28,
        max_pixels: int = 2048 * 28 * 28,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ConfigError(f"keys are {self.keys}; give one image, since its patches go to '{output_key}'")
        self.output_key, self.grid_key = output_key, grid_key
        self.cut = PatchImage(patch_size, merge_size, temporal_patch_size, min_pixels, max_pixels, mean, std)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add patches and grid."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.output_key], d[self.grid_key] = self.cut(d[key], name=key)
        return d


PatchImageD = PatchImageDict = PatchImaged
