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

"""From what MONAI loads (x first, any orientation) to the plane (C, H, W) that the network sees, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform

from monai_sa2va.data.headers import same_grid
from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.geometry import slice_plane
from monai_sa2va.transforms.plane_transform import PlaneTransform, plain
from monai_sa2va.transforms.source import grid_of, source_name

__all__ = ["ToPlane", "ToPlaneD", "ToPlaneDict", "ToPlaned"]


class ToPlane(PlaneTransform):
    """One plane of an image, rows top-down as it is looked at.

    A picture (C, X, Y) becomes (C, H=Y, W=X). Of a volume (C, X, Y, Z) one slice is taken in radiological display,
    whatever the orientation it is stored in: axial slices have rows to posterior and columns to the patient's left,
    coronal ones rows to inferior and columns to left, sagittal ones rows to inferior and columns to posterior. No
    value is interpolated. The inverse puts (N, H, W), such as masks, back onto the source's grid: (N, X, Y), or a
    volume (N, X, Y, Z) that is 0 but for that slice, in the source's own orientation and with its affine.

    Args:
        axis: ``"auto"`` (the plane in which the volume was taken, see
            :func:`~monai_sa2va.transforms.geometry.slice_plane`), ``"axial"``, ``"coronal"``, ``"sagittal"``, or the
            number (-3 to 2) of the source axis that slices are counted along; it is displayed as the anatomical plane
            it is closest to. Pictures don't need it.
        index: of the slice, counted from 0 in LPS order (towards left, posterior, superior); ``"middle"``
            (``depth // 2``); ``"largest"``, the slice in which most voxels of the reference are not 0, the first of
            equals and the middle one of an empty reference; or ``None`` where a volume may have one slice only.

    Raises:
        ConfigError: when an argument is none of these.
    """

    def __init__(self, axis: int | str = "auto", index: int | str | None = None) -> None:
        super().__init__(axis)
        number = isinstance(index, int) and not isinstance(index, bool) and index >= 0
        if not (number or index in (None, "middle", "largest")):
            raise ConfigError(f"index is {index!r}; allowed: 0, 1, 2 ..., 'middle', 'largest', or null")
        self.index = index

    def __call__(self, image: Any, index: int | None = None, reference: Any = None, name: Hashable = "image") -> Any:
        """Take the plane.

        Args:
            image: (C, X, Y) or (C, X, Y, Z), any dtype; a volume has to be a ``MetaTensor``.
            index: of the slice, in LPS order, in place of the constructor's.
            reference: (K, X, Y, Z), the label that decides for ``"largest"``; ``image`` itself by default.
            name: what error messages call the image.

        Returns:
            (C, H, W), a ``MetaTensor`` with the plane's own affine.

        Raises:
            DataError: when the shape or the orientation can't be used, or there is no such slice.
        """
        geometry = self._geometry(image, name)
        if index is None:
            index = self.find(image, reference, name)
        if not 0 <= index < geometry.depth:
            raise DataError(
                f"{source_name(image, name)} has no slice {index}: its slices{self._along(image)} are "
                f"0 to {geometry.depth - 1}"
            )
        volume = plain(image)
        plane = geometry.take(volume if volume.ndim == 4 else volume[..., None], index)
        return self._remember(plane, image, geometry, index)

    def find(self, image: Any, reference: Any = None, name: Hashable = "image") -> int:
        """Index, in LPS order, of the slice that the constructor's ``index`` means in this image; 0 for a picture."""
        geometry = self._geometry(image, name)
        if image.ndim == 3:
            return 0
        if isinstance(self.index, int):
            return self.index
        if self.index == "middle":
            return geometry.depth // 2
        if self.index == "largest":
            chosen = image if reference is None else reference
            if tuple(chosen.shape[1:]) != geometry.shape:
                raise DataError(
                    f"{source_name(image, name)} has shape {geometry.shape}, but the label that decides its slice has "
                    f"{tuple(chosen.shape[1:])}; give a label on the image's grid"
                )
            filled = (geometry.stack(plain(chosen)) != 0).flatten(1).sum(1).cpu().numpy()
            if not filled.any():
                return geometry.depth // 2
            # argmax gives the first of equals, so it has to see the slices in LPS order
            return int(np.argmax(filled[::-1] if geometry.flips[0] else filled))
        if geometry.depth > 1:
            raise DataError(
                f"{source_name(image, name)} has {geometry.depth} slices{self._along(image)} and no index says which; "
                "give ToPlane an index, 'middle' or 'largest'"
            )
        return 0

    def _along(self, image: Any) -> str:
        grid = grid_of(image)
        return "" if grid.affine is None else f" along {slice_plane(grid.shape, grid.affine, self.axis)!r}"

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Back onto the source's grid.

        Args:
            data: (N, H, W) ``MetaTensor`` that carries what :meth:`__call__` noted (MONAI's ``Invertd`` hands it on
                to predictions).

        Returns:
            (N, X, Y) or (N, X, Y, Z), same dtype.

        Raises:
            DataError: when H and W are not the plane's.
        """
        geometry, info, size = self._recall(data, "plane")
        return self._restore(geometry.put(plain(data), int(info["index"])), data, info, size)


class ToPlaned(MapTransform, InvertibleTransform):
    """Dictionary form of :class:`ToPlane`: the same plane of all keys, which have to lie on one grid.

    Args:
        keys: of the images and labels.
        axis: as for :class:`ToPlane`.
        index: as for :class:`ToPlane`; an entry of its own under ``slice_key`` comes first.
        label_key: the label that decides for ``"largest"``.
        slice_key: where an entry says which slice, in LPS order, and where the slice taken of a volume is noted.
        allow_missing_keys: whether keys may be missing.

    Raises:
        ConfigError: when an argument can't be used, or ``"largest"`` has no ``label_key``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        axis: int | str = "auto",
        index: int | str | None = None,
        label_key: str | None = None,
        slice_key: str = Sa2VAKeys.SLICE,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if index == "largest" and label_key is None:
            raise ConfigError("index 'largest' needs label_key, the key of the label that decides")
        self.to_plane = ToPlane(axis, index)
        self.label_key, self.slice_key = label_key, slice_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the plane of every key.

        Raises:
            DataError: when the keys differ in grid, or a plane can't be taken.
        """
        d = dict(data)
        present = list(self.key_iterator(d))
        if not present:
            return d
        first = present[0]
        for key in present[1:]:
            reason = same_grid(grid_of(d[first]), grid_of(d[key]))
            if reason:
                raise DataError(f"{source_name(d[first], first)} and {source_name(d[key], key)} don't fit: {reason}")
        index = self._index(d, first)
        volume = d[first].ndim == 4
        for key in present:
            d[key] = self.to_plane(d[key], index=index, name=key)
        if volume:
            d[self.slice_key] = index
        return d

    def _index(self, d: dict[Hashable, Any], first: Hashable) -> int:
        given = d.get(self.slice_key)
        if given is not None:
            if int(given) != given or given < 0:
                raise DataError(f"{self.slice_key} of {source_name(d[first], first)} is {given!r}; give 0, 1, 2 ...")
            return int(given)
        if self.label_key is not None and self.label_key not in d:
            raise DataError(f"{source_name(d[first], first)} has no '{self.label_key}' beside it to choose a slice by")
        return self.to_plane.find(d[first], d.get(self.label_key), first)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put every key back onto its source's grid."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.to_plane.inverse(d[key])
        return d


ToPlaneD = ToPlaneDict = ToPlaned
