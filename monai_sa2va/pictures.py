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
from monai.data import MetaTensor

from monai_sa2va.data.read_image import SourceImage, read_image
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.intensity import Window
from monai_sa2va.transforms.rgb import ToRGB
from monai_sa2va.transforms.stacks import StackPlanes

__all__ = ["PictureReader", "Pictures", "as_colour"]


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

    def planes(self, source: SourceImage) -> MetaTensor:
        """All slices of a source, or the one of a picture: (D, C, H, W) float32, 0 to 255, C 1 or 3.

        Raises:
            DataError: when shape, orientation or values can't be used.
        """
        windowed = self.window_of(source)(source.pixels)
        # alpha is dropped; grey gets its three channels slice by slice
        planes: MetaTensor = self.stack(ToRGB()(windowed) if len(windowed) > 1 else windowed)
        return planes

    def picture(self, image: Any) -> torch.Tensor:
        """(3, H, W) float32, 0 to 255, of an image as :func:`~monai_sa2va.data.read_image.read_image` takes it.

        Raises:
            DataError: when it can't be used, or is a volume of several slices.
        """
        planes = self.planes(read_image(image))
        if len(planes) != 1:
            raise DataError(f"the image is a volume of {len(planes)} slices; give it as video, or one of its slices")
        return as_colour(planes[0])

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
        return Pictures(self.planes(read_image(video)), as_colour)


def as_colour(plane: torch.Tensor) -> torch.Tensor:
    """(3, H, W) of a plane (1, H, W) or (3, H, W), without a copy."""
    plain = plane.as_tensor() if isinstance(plane, MetaTensor) else plane
    return plain.expand(3, -1, -1)
