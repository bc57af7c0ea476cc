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

"""Clicks and boxes as the stock clients send them, in voxels of the source, as the network takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.label.options import RequestError
from monai_sa2va.transforms.geometry import PlaneGeometry

__all__ = ["MOST_POINTS", "box_of", "points_of"]

MOST_POINTS = 200
"""Most points of a request."""


def points_of(request: Mapping[str, Any], geometry: PlaneGeometry, volume: bool) -> NDArray[np.float64] | None:
    """Clicks on and beside the object.

    Args:
        request: ``foreground`` and ``background``, lists of [i, j, k], voxels of the source, k counting for volumes
            alone. The stock clients send two lists and no order between them: those on the object count as the first.
        geometry: how the slices lie in the source.
        volume: whether the source is one.

    Returns:
        (N, 4) x, y, z, label of a volume, (N, 3) x, y, label of a picture, voxels of the masks; ``None`` for no click.

    Raises:
        RequestError: when a point is none, lies outside, or there are too many.
    """
    rows: list[list[float]] = []
    for key, label in (("foreground", 1.0), ("background", 0.0)):
        given = request.get(key)
        points = [] if given is None else given
        if not isinstance(points, list):
            raise RequestError(f"{key} is no list of points; give [[i, j, k], ...]")
        for point in points:
            rows.append([*_on_masks(_voxel(point, key, volume), geometry, key, volume), label])
    if len(rows) > MOST_POINTS:
        raise RequestError(f"the request has {len(rows)} points; at most {MOST_POINTS} are taken")
    return np.array(rows) if rows else None


def box_of(request: Mapping[str, Any], geometry: PlaneGeometry, volume: bool) -> NDArray[np.float64] | None:
    """The region of interest.

    Args:
        request: ``roi``, [i0, i1, j0, j1, k0, k1], voxels of the source, inclusive. 3D Slicer sends each pair in either
            order, so each is sorted by itself. What lies outside of the source is cut off.
        geometry: how the slices lie in the source.
        volume: whether the source is one; of a picture the last pair is left out or ignored.

    Returns:
        (6,) of a volume, (4,) of a picture: the first, then the last voxel inside, voxels of the masks; ``None`` where
        there is no region.

    Raises:
        RequestError: when it is none, or lies outside altogether.
    """
    given = request.get("roi")
    if given is None or given == []:
        return None
    axes = 3 if volume else 2
    numbers = _numbers(given, "roi")
    if len(numbers) != 6 and not (len(numbers) == 4 and not volume):
        raise RequestError(f"roi has {len(numbers)} numbers; give [i0, i1, j0, j1, k0, k1]")
    corners = []
    for axis in range(axes):
        first, last = sorted(numbers[2 * axis : 2 * axis + 2])
        length = geometry.shape[axis]
        if last < -0.5 or first >= length - 0.5:
            raise RequestError(f"roi goes from {first:g} to {last:g} along {'ijk'[axis]}, outside of 0 to {length - 1}")
        corners.append((max(first, 0.0), min(last, length - 1.0)))
    ends = [_on_masks([pair[end] for pair in corners], geometry, "roi", volume) for end in (0, 1)]
    return np.concatenate([np.min(ends, axis=0), np.max(ends, axis=0)])


def _voxel(point: Any, key: str, volume: bool) -> list[float]:
    numbers = _numbers(point, key)
    if len(numbers) == 3 or (len(numbers) == 2 and not volume):
        return numbers if volume else numbers[:2]
    raise RequestError(f"{key} holds a point of {len(numbers)} numbers; give [i, j, k], voxels of the image")


def _numbers(values: Any, key: str) -> list[float]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RequestError(f"{key} holds something that is no list of numbers")
    plain = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    # an integer of JSON may have any number of digits
    if len(plain) != len(values) or not all(abs(value) < 1e9 and math.isfinite(value) for value in plain):
        raise RequestError(f"{key} holds something that is no number")
    return [float(value) for value in plain]


def _on_masks(voxel: Sequence[float], geometry: PlaneGeometry, key: str, volume: bool) -> list[float]:
    """x, y and, of a volume, z in the masks of a voxel i, j, k of the source."""
    for value, axis, length in zip(voxel, "ijk", geometry.shape, strict=False):
        if not -0.5 <= value < length - 0.5:
            raise RequestError(f"{key} has {axis} {value:g}, outside of 0 to {length - 1}; give voxels of the image")
    placed = np.linalg.solve(geometry.matrix(), [*voxel, *([] if volume else [0.0]), 1.0])
    row, column, number = placed[:3]
    return [column, row, number] if volume else [column, row]
