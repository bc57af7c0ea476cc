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

"""Images, volumes and videos of any source as pictures that the network can be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from monai_sa2va.data.read_image import read_image
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.geometry import PlaneGeometry
from monai_sa2va.transforms.intensity import FittedWindow, Window
from monai_sa2va.transforms.plane_transform import plain
from monai_sa2va.transforms.rgb import ToRGB
from monai_sa2va.transforms.stacks import StackPlanes

__all__ = ["PictureReader", "Pictures", "Slices"]


class Pictures(Sequence[torch.Tensor]):
    """Pictures (3, H, W), made one at a time, so that a volume is never there in three channels.

    Args:
        items: what they are made of, with a length and an index.
        convert: makes one.
    """

    def __init__(self, items: Any, convert: Callable[[Any], torch.Tensor]) -> None:
        self._items, self._convert = items, convert

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._convert(self._items[index])


class Slices(Sequence[torch.Tensor]):
    """The slices of a volume as pictures (3, H, W) float32, 0 to 255, made one at a time from its own values.

    Args:
        pixels: (C, X, Y) or (C, X, Y, Z) of any type; 1 or 2 channels are grey and alpha, 3 or 4 RGB and alpha.
        window: how its values become 0 to 255.
        geometry: how the slices lie in it.

    Attributes:
        geometry: how the slices lie in the source.
        shape: (D, H, W).
    """

    def __init__(self, pixels: torch.Tensor, window: FittedWindow, geometry: PlaneGeometry) -> None:
        volume = plain(pixels)
        self._volume = volume if volume.ndim == 4 else volume[..., None]
        self._window, self.geometry = window, geometry
        self.shape = (geometry.depth, *geometry.plane_shape)
        # a picture that was drawn in is shown afterwards, too
        self._last: tuple[int, torch.Tensor] | None = None

    def along(self, geometry: PlaneGeometry) -> Slices:
        """The same volume, shown alike, in other slices."""
        return Slices(self._volume, self._window, geometry)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        if isinstance(number, range):
            return Pictures(number, self.__getitem__)
        if self._last is None or self._last[0] != number:
            colours = self._volume[: 3 if len(self._volume) > 2 else 1]
            # slices count as the source does, which is how take counts where they aren't flipped
            values = self._window(self.geometry.take(colours, number))
            self._last = number, values.expand(3, -1, -1)
        return self._last[1]


class PictureReader:
    """Reads images and slices them.

    Args:
        window: how grey values become 0 to 255.
        stack: how volumes are sliced.
    """

    def __init__(self, window: Window, stack: StackPlanes) -> None:
        self.window, self.stack = window, stack

    def window_of(self, source: SourceImage) -> Window:
        """How the grey values of a source are shown: where this one is ``"auto"``, as the source's own files ask."""
        return source.window if self.window.kind == "auto" and source.window is not None else self.window

    def geometry(self, source: SourceImage) -> PlaneGeometry:
        """How the slices lie in a source; where it has no place in the world, they are shown as they are stored.

        Raises:
            DataError: when shape or orientation can't be used.
        """
        if source.pixels.ndim == 4 and source.grid.affine is None:
            x, y, z = source.grid.shape
            return PlaneGeometry((x, y, z), (2, 1, 0), (False, False, False))
        return self.stack.geometry(source.pixels)

    def slices(self, source: SourceImage) -> Slices:
        """The slices of a source in its own order, or the one of a picture.

        Raises:
            DataError: when shape, orientation or values can't be used.
        """
        channels = len(source.pixels)
        if channels > 1:
            # one pixel says whether the channels are colours
            ToRGB()(source.pixels[(slice(None), *(slice(1),) * (source.pixels.ndim - 1))])
        # the ends of the window are those of the whole volume, alpha left out
        return Slices(source.pixels, self.window_of(source).fit(source.pixels), self.geometry(source))

    def picture(self, image: Any) -> torch.Tensor:
        """(3, H, W) float32, 0 to 255, of an image as :func:`~monai_sa2va.data.read_image.read_image` takes it.

        Raises:
            DataError: when it can't be used, or is a volume of several slices.
        """
        slices = self.slices(read_image(image))
        if len(slices) != 1:
            raise DataError(f"the image is a volume of {len(slices)} slices; give it as video, or one of its slices")
        return slices[0]

    def frames(self, video: Any) -> Sequence[torch.Tensor]:
        """The frames of a video, each as :meth:`picture`.

        Args:
            video: a list of images, an array (T, H, W, 3) of uint8, or a volume whose slices are the frames.

        Raises:
            DataError: when it is none of these.
        """
        if isinstance(video, np.ndarray) and video.ndim != 4:
            raise DataError(f"video is an array of shape {video.shape}; expected (T, H, W, 3), or a list of frames")
        if isinstance(video, (list, tuple, np.ndarray)):
            return Pictures(video, self.picture)
        return self.slices(read_image(video))
