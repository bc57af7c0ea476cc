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


"""Masks as polygons and back, in pixels: exact, as every outline runs half-way between the centres it parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["fill_contours", "mask_contours"]


def mask_contours(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines of a mask, one a connected piece.

    A hole is joined to its outline by a channel of no width (a keyhole), as most readers of RTSTRUCT expect.

    Args:
        mask: (X, Y) bool.

    Returns:
        (n, 2) float64 x and y of each outline's points, the first not repeated; pixel centres have whole numbers.
    """
    from contourpy import FillType, contour_generator

    padded = np.pad(mask, 1).T.astype(np.float64)
    drawn: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 1.5)
    outlines: list[np.ndarray] = []
    for points, starts in zip(*drawn, strict=True):
        # the first point is repeated at the end of each ring
        rings = [points[start : stop - 1] - 1 for start, stop in pairwise(starts)]
        outlines.append(_keyhole([np.asarray(ring, dtype=np.float64) for ring in rings]))
    return outlines


def fill_contours(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie within an odd number of outlines: the inverse of :func:`mask_contours`.

    Args:
        contours: (n, 2) x and y of each outline.
        shape: pixels along x and y.

    Returns:
        (X, Y) bool.
    """
    crossed = np.zeros((shape[0] + 1, shape[1]), dtype=np.int64)
    for points in contours:
        following = np.roll(points, -1, axis=0)
        for (x0, y0), (x1, y1) in zip(points, following, strict=True):
            if y0 == y1:
                continue
            (xa, ya), (xb, yb) = ((x0, y0), (x1, y1)) if y0 < y1 else ((x1, y1), (x0, y0))
            rows = np.arange(max(0, int(np.ceil(ya))), min(shape[1], int(np.ceil(yb))))
            at = xa + (rows - ya) / (yb - ya) * (xb - xa)
            np.add.at(crossed, (np.clip(np.ceil(at).astype(np.int64), 0, shape[0]), rows), 1)
    inside: np.ndarray = np.cumsum(crossed[:-1], axis=0) % 2 == 1
    return inside


def _keyhole(rings: list[np.ndarray]) -> np.ndarray:
    """One outline of an outer ring and its holes, the nearest hole first, so that no channel crosses another ring."""
    outline, holes = rings[0], rings[1:]
    while holes:
        _, number, at, start = min(_channel(outline, hole, number) for number, hole in enumerate(holes))
        hole = np.roll(holes.pop(number), -start, axis=0)
        outline = np.concatenate([outline[: at + 1], hole, hole[:1], outline[at:]])
    return outline


def _channel(outline: np.ndarray, hole: np.ndarray, number: int) -> tuple[float, int, int, int]:
    """Squared length of the shortest channel to a hole, the hole's number, and its ends in both rings."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(axis=2)
    at, start = np.unravel_index(int(distances.argmin()), distances.shape)
    return float(distances[at, start]), number, int(at), int(start)
