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

"""How the planes that a radiologist looks at lie in the voxels of a volume: exact index arithmetic, no resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch

from monai_sa2va.errors import ConfigError, DataError

__all__ = ["AXES", "PLANES", "PlaneGeometry", "check_axis", "slice_plane", "thin_axis"]

PLANES: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "axial": ((2, 1), (1, 1), (0, 1)),
    "coronal": ((1, 1), (2, -1), (0, 1)),
    "sagittal": ((0, 1), (2, -1), (1, 1)),
}
"""Radiological display: (world axis, direction) of slices, of rows downwards and of columns to the right.

World axes are LPS: 0 towards the patient's left, 1 posterior, 2 superior. Axial: rows go to posterior, columns to left.
Coronal: rows go to inferior, columns to left. Sagittal: rows go to inferior, columns to posterior. Slices always count
towards left, posterior, superior ("LPS order").
"""

AXES: tuple[str, ...] = ("auto", *PLANES)
"""Names that ``axis`` may have; the number (-3 to 2) of a source axis will do as well."""

_NORMALS = ("sagittal", "coronal", "axial")
_THICKER = 1.5
_THIN = 4.0


def check_axis(axis: int | str) -> int | str:
    """The axis as given.

    Raises:
        ConfigError: when it is none of `AXES` and no number from -3 to 2.
    """
    if axis in AXES or (isinstance(axis, int) and -3 <= axis < 3):
        return axis
    raise ConfigError(f"axis is {axis!r}; allowed: {', '.join(AXES)}, or a source axis from -3 to 2")


def slice_plane(shape: Sequence[int], affine: np.ndarray, axis: int | str = "auto") -> str:
    """The plane in which a volume is looked at: ``"axial"``, ``"coronal"`` or ``"sagittal"``.

    ``"auto"`` finds the plane in which the volume was taken: across the one axis that has a single voxel; else across
    the axis whose voxels are at least 1.5 times as long as along both others; else across the axis along which it is a
    slab (:func:`thin_axis`); else axial.

    Args:
        shape: voxels along x, y, z.
        affine: (4, 4), index -> RAS in mm; an oblique one counts as its closest axes.
        axis: ``"auto"``, a plane, or the number (-3 to 2) of the source axis that slices are counted along.

    Raises:
        ConfigError: when ``axis`` is none of these.
        DataError: when the affine tells no orientation.
    """
    closest, axis = _closest_axes(affine), check_axis(axis)
    if axis == "auto":
        single = [number for number, voxels in enumerate(shape) if voxels == 1]
        spacing = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
        longest = int(spacing.argmax())
        if len(single) == 1:
            axis = single[0]
        # rounded, as header and reader may differ in the last digits of a spacing
        elif round(float(spacing[longest] / np.delete(spacing, longest).max()), 3) >= _THICKER:
            axis = longest
        else:
            thin = thin_axis(shape, affine)
            axis = "axial" if thin is None else thin
    return _NORMALS[int(closest[axis, 0])] if isinstance(axis, int) else axis


def thin_axis(shape: Sequence[int], affine: np.ndarray) -> int | None:
    """The axis along which a volume reaches no further than a quarter of the way along both others, if there is one.

    Args:
        shape: voxels along x, y, z.
        affine: (4, 4), index -> world in mm.
    """
    reach = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0) * np.asarray(shape[:3])
    thin = int(reach.argmin())
    return thin if _THIN * reach[thin] <= np.delete(reach, thin).min() else None


def _closest_axes(affine: np.ndarray) -> np.ndarray:
    """For each source axis the closest world axis (LPS) and the direction along it."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)
    closest: np.ndarray = nib.io_orientation(lps) if np.isfinite(lps).all() else np.full((3, 2), np.nan)
    if not np.isfinite(closest).all():
        raise DataError("the affine is singular or not finite and tells no orientation; write a valid one")
    return closest


@dataclass(frozen=True)
class PlaneGeometry:
    """Parallel planes of a volume: which voxel axis counts slices, rows and columns, and which way.

    Attributes:
        shape: voxels of the source along x, y, z.
        order: the source axes that slices, rows and columns run along.
        flips: whether slices (in LPS order), rows and columns run against their source axis.
    """

    shape: tuple[int, int, int]
    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of_volume(cls, shape: Sequence[int], affine: np.ndarray, axis: int | str = "auto") -> PlaneGeometry:
        """The planes of a volume, in radiological display.

        Args:
            shape: voxels along x, y, z.
            affine: (4, 4), index -> RAS in mm; an oblique one counts as its closest axes.
            axis: as :func:`slice_plane` takes it; slices along a source axis are displayed as the plane it is closest
                to.

        Raises:
            ConfigError: when ``axis`` is none of these.
            DataError: when the affine tells no orientation.
        """
        closest = _closest_axes(affine)
        order, flips = [], []
        for world_axis, direction in PLANES[slice_plane(shape, affine, axis)]:
            source = int(np.flatnonzero(closest[:, 0] == world_axis)[0])
            order.append(source)
            flips.append(bool(closest[source, 1] != direction))
        x, y, z = (int(n) for n in shape)
        return cls((x, y, z), (order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))

    @classmethod
    def of_picture(cls, shape: Sequence[int]) -> PlaneGeometry:
        """A picture (X, Y) as a volume of one slice: rows are y, columns are x, as its file has them."""
        return cls((int(shape[0]), int(shape[1]), 1), (2, 1, 0), (False, False, False))

    @property
    def depth(self) -> int:
        """Number of slices."""
        return self.shape[self.order[0]]

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows H and columns W of a plane."""
        return self.shape[self.order[1]], self.shape[self.order[2]]

    def source_index(self, index: int) -> int:
        """Index along the source's own axis of a slice given in LPS order; also the way back."""
        return self.depth - 1 - index if self.flips[0] else index

    def stack(self, volume: torch.Tensor) -> torch.Tensor:
        """All planes of a volume, in the source's own slice order.

        Args:
            volume: (C, X, Y, Z).

        Returns:
            (D, C, H, W), same dtype.
        """
        slices, rows, columns = (axis + 1 for axis in self.order)
        planes = volume.permute(slices, 0, rows, columns)
        return planes.flip(self._flipped_dims()).contiguous()

    def unstack(self, planes: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`stack`: (D, N, H, W) -> (N, X, Y, Z)."""
        slices, rows, columns = (axis + 1 for axis in self.order)
        back = [0, 0, 0, 0]
        for position, dim in enumerate((slices, 0, rows, columns)):
            back[dim] = position
        return planes.flip(self._flipped_dims()).permute(back).contiguous()

    def view(self, masks: np.ndarray) -> np.ndarray:
        """Masks of all planes on the source's own grid, without a copy: (N, D, H, W) -> (N, X, Y, Z)."""
        turned = np.flip(masks, tuple(self._flipped_dims()))
        back: np.ndarray = np.moveaxis(turned, (1, 2, 3), tuple(axis + 1 for axis in self.order))
        return back

    def planes_of(self, masks: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`view`, without a copy either: (N, X, Y, Z) -> (N, D, H, W)."""
        forth = np.moveaxis(masks, tuple(axis + 1 for axis in self.order), (1, 2, 3))
        turned: np.ndarray = np.flip(forth, tuple(self._flipped_dims()))
        return turned

    def take(self, volume: torch.Tensor, index: int) -> torch.Tensor:
        """One plane of a volume: (C, X, Y, Z) -> (C, H, W); ``index`` is in LPS order."""
        axis = self.order[0] + 1
        one = volume.narrow(axis, self.source_index(index), 1)
        return self.stack(one)[0]

    def put(self, plane: torch.Tensor, index: int) -> torch.Tensor:
        """A volume that is 0 but for one plane: (N, H, W) -> (N, X, Y, Z); ``index`` is in LPS order."""
        volume = plane.new_zeros((plane.shape[0], *self.shape))
        axis = self.order[0] + 1
        volume.narrow(axis, self.source_index(index), 1).copy_(self.unstack(plane[None]))
        return volume

    def matrix(self, index: int = 0) -> np.ndarray:
        """Matrix (4, 4) float64 of (row, column, slices on from ``index``) -> source voxel (x, y, z), homogeneous.

        ``affine @ matrix(index)`` places the plane in the world; its inverse takes points of the source, such as
        clicks, onto the plane.
        """
        result = np.zeros((4, 4))
        result[3, 3] = 1.0
        # columns of the matrix are row, column, slice
        for position, which in enumerate((1, 2, 0)):
            source, flipped = self.order[which], self.flips[which]
            result[source, position] = -1.0 if flipped else 1.0
            result[source, 3] = self.shape[source] - 1 if flipped else 0
        result[:, 3] += index * result[:, 2]
        return result

    def _flipped_dims(self) -> list[int]:
        """Dimensions of (D, C, H, W) to be turned; slices keep the source's order."""
        return [dim for dim, flipped in ((2, self.flips[1]), (3, self.flips[2])) if flipped]
