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

"""SAM2's view of a picture: one square, its shape not kept, normalised as the reference does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Transform
from PIL import Image

from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import ConfigError
from monai_sa2va.transforms.picture import IMAGENET_MEAN, IMAGENET_STD, channel_constants, to_picture

__all__ = ["GroundingImage", "GroundingImageD", "GroundingImageDict", "GroundingImaged"]


class GroundingImage(Transform):
    """Resize a picture to a square (Pillow's bicubic) and normalise it.

    Args:
        size: side S of the square, pixels.
        mean: of each channel, of values 0 to 1; ImageNet's by default.
        std: standard deviation of each channel, likewise.
        round_constants_to_bf16: whether mean and std are rounded to bfloat16 first (0.485 becomes 0.484375), as the
            reference's inference does even in float32; its training does not.

    Raises:
        ConfigError: when size is less than 1, or mean or std don't have three values.
    """

    def __init__(
        self,
        size: int = 1024,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        round_constants_to_bf16: bool = True,
    ) -> None:
        if size < 1:
            raise ConfigError(f"size is {size}; at least 1 pixel is needed")
        self.size = size
        self.mean, self.std = channel_constants("mean", mean), channel_constants("std", std)
        if round_constants_to_bf16:
            self.mean, self.std = self.mean.bfloat16().float(), self.std.bfloat16().float()

    def resize(self, image: Any, name: Hashable = "image") -> np.ndarray:
        """The square before normalisation: (S, S, 3) uint8. See :meth:`__call__`."""
        return np.array(to_picture(image, name).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def __call__(self, image: Any, name: Hashable = "image") -> torch.Tensor:
        """Resize and normalise a picture.

        Args:
            image: (H, W, 3) uint8 array, a picture of Pillow, or (3, H, W) tensor with values 0 to 255, which are
                rounded.
            name: what error messages call the image.

        Returns:
            (3, S, S) float32.

        Raises:
            DataError: when the image is none of these.
        """
        pixels = torch.from_numpy(self.resize(image, name)).permute(2, 0, 1)
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous()


class GroundingImaged(MapTransform):
    """Dictionary form of :class:`GroundingImage`: the square is put beside the image, as one frame (1, 3, S, S).

    Args:
        keys: of the one image.
        output_key: where the square goes.
        size: as for :class:`GroundingImage`, like all that follow.
        mean: of each channel.
        std: standard deviation of each channel.
        round_constants_to_bf16: whether mean and std are rounded first.
        allow_missing_keys: whether the image may be missing.
    """

    def __init__(
        self,
        keys: str = Sa2VAKeys.IMAGE,
        output_key: str = Sa2VAKeys.GROUNDING_PIXEL_VALUES,
        size: int = 1024,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        round_constants_to_bf16: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ConfigError(f"keys are {self.keys}; give one image, since its square goes to '{output_key}'")
        self.output_key = output_key
        self.ground = GroundingImage(size, mean, std, round_constants_to_bf16)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the square."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.output_key] = self.ground(d[key], name=key)[None]
        return d


GroundingImageD = GroundingImageDict = GroundingImaged
