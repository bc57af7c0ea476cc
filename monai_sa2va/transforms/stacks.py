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

"""All planes of a volume at once, for inference slice by slice, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform

from monai_sa2va.errors import DataError
from monai_sa2va.transforms.geometry import PlaneGeometry
from monai_sa2va.transforms.plane_transform import PlaneTransform, plain

__all__ = ["StackPlanes", "StackPlanesD", "StackPlanesDict", "StackPlanesd"]


class StackPlanes(PlaneTransform):
    """All planes of a volume, for inference slice by slice: (C, X, Y, Z) -> (D, C, H, W).

    Planes are displayed as :class:`ToPlane` does, but stand in the source's own slice order. A picture (C, X, Y)
    becomes (1, C, H, W). The inverse takes (D, N, H, W) to (N, X, Y, Z), or to (N, X, Y) for a picture.

    Args:
        axis: as for :class:`ToPlane`.
    """

    def geometry(self, image: Any, name: Hashable = "image") -> PlaneGeometry:
        """How the planes of this image lie in it; slices are counted as the source counts them, not in LPS order.

        Raises:
            DataError: when the shape or the orientation can't be used.
        """
        found = self._geometry(image, name)
        return replace(found, flips=(False, *found.flips[1:]))

    def __call__(self, image: Any, name: Hashable = "image") -> Any:
        """Stack the planes.

        Args:
            image: (C, X, Y) or (C, X, Y, Z), any dtype; a volume has to be a ``MetaTensor``.
            name: what error messages call the image.

        Returns:
            (D, C, H, W), a ``MetaTensor`` whose affine places (row, column, slice).

        Raises:
            DataError: when the shape or the orientation can't be used.
        """
        geometry = self.geometry(image, name)
        volume = plain(image)
        planes = geometry.stack(volume if volume.ndim == 4 else volume[..., None])
        return self._remember(planes, image, geometry, 0)

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Back onto the source's grid: (D, N, H, W) -> (N, X, Y, Z) or (N, X, Y), same dtype.

        Raises:
            DataError: when D, H and W are not the source's.
        """
        geometry, info, size = self._recall(data, "planes")
        if data.shape[0] != geometry.depth:
            raise DataError(f"planes has {data.shape[0]} slices, but its source has {geometry.depth}")
        return self._restore(geometry.unstack(plain(data)), data, info, size)


class StackPlanesd(MapTransform, InvertibleTransform):
    """Dictionary form of :class:`StackPlanes`.

    Args:
        keys: of the images and labels.
        axis: as for :class:`ToPlane`.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(self, keys: KeysCollection, axis: int | str = "auto", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.stack = StackPlanes(axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Stack the planes of every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.stack(d[key], name=key)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put every key back onto its source's grid."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.stack.inverse(d[key])
        return d


StackPlanesD = StackPlanesDict = StackPlanesd
