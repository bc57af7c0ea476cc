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

"""Any kind of picture to three channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from monai_sa2va.errors import DataError
from monai_sa2va.transforms.source import may_have_alpha, source_name

__all__ = ["ToRGB", "ToRGBD", "ToRGBDict", "ToRGBd"]


class ToRGB(Transform):
    """Three equal or coloured channels of whatever a picture has; alpha is dropped."""

    def __call__(self, image: Any, name: Hashable = "image") -> Any:
        """Make three channels.

        Args:
            image: (1, ...) grey, (2, ...) grey and alpha, (3, ...) RGB, or (4, ...) RGB and alpha; any dtype.
            name: what error messages call the image.

        Returns:
            (3, ...), same dtype; a ``MetaTensor`` keeps its meta data.

        Raises:
            DataError: for any other number of channels, and for 2 or 4 of a file that has no alpha.
        """
        tensor: torch.Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        channels = int(tensor.shape[0]) if tensor.ndim > 1 else 0
        if channels not in (1, 2, 3, 4):
            raise DataError(
                f"{source_name(image, name)} has shape {tuple(tensor.shape)}; expected 1, 2, 3 or 4 channels first"
            )
        if channels in (2, 4) and not may_have_alpha(image):
            raise DataError(
                f"{source_name(image, name)} has {channels} channels and its file no alpha; choose 1 or 3 of them"
            )
        if channels < 3:
            return tensor[:1].repeat(3, *([1] * (tensor.ndim - 1)))
        return tensor[:3]


class ToRGBd(MapTransform):
    """Dictionary form of :class:`ToRGB`.

    Args:
        keys: of the images.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to_rgb = ToRGB()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make three channels of every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.to_rgb(d[key], name=key)
        return d


ToRGBD = ToRGBDict = ToRGBd
