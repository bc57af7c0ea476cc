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

"""Masks from polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.errors import DataError

__all__ = ["draw_polygons"]


def draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.bool_]:
    """Mask of one object: the pixels whose centre lies in at least one of its polygons.

    Args:
        polygons: of at least three corners each, ``[x1, y1, x2, y2, ...]`` in pixels, where (0, 0) is the outer corner
            of the first pixel. What lies outside the image is cut off.
        height: rows of the image.
        width: columns of the image.

    Returns:
        (height, width) bool. Polygons that overlap are united; one that crosses itself is filled by the even-odd rule.

    Raises:
        DataError: when a polygon has fewer corners, an odd number of values, or one that is no finite number.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    for number, polygon in enumerate(polygons):
        try:
            values = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.ndim != 1 or values.size < 6 or values.size % 2 or not np.isfinite(values).all():
            raise DataError(f"polygon {number}: give x and y of at least three corners in one list of numbers")
        mask |= _fill(values.reshape(-1, 2), height, width)
    return mask


def _fill(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    # each edge flips all pixels right of it, in the rows whose centre line it crosses
    flips = np.zeros((height, width + 1), dtype=np.uint8)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = min(y0, y1), max(y0, y1)
        first, last = max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5)))
        if first >= last:
            continue
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        flips[rows, columns] ^= 1
    filled: NDArray[np.bool_] = np.bitwise_xor.accumulate(flips, axis=1)[:, :width].astype(np.bool_)
    return filled
