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

"""Clicks, boxes and rough masks as users give them, in voxels of the masks, checked and sorted by slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.errors import PromptError

__all__ = ["VisualPrompts", "sort_by_slice"]


@dataclass(frozen=True, eq=False)
class VisualPrompts:
    """What shows one object in one picture or slice, beside or in place of a sentence.

    Attributes:
        points: (N, 3) float64: x, y in pixels, 0 the centre of the first one, and the label: 1 on the object, 0
            beside it. In the order of the clicks.
        box: (4,) float64, x and y of the first and of the last pixel inside, or ``None``.
        mask: (H, W) bool, roughly the object, or ``None``.
    """

    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    box: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None


def sort_by_slice(
    size: tuple[int, ...], points: Any = None, boxes: Any = None, mask: Any = None
) -> Mapping[int, VisualPrompts]:
    """Check prompts that show one object, and sort them by slice.

    Args:
        size: of the masks: (H, W) of a picture, (D, H, W) of a volume.
        points: (N, 3) of a picture: x, y, label; (N, 4) of a volume: x, y, z, label; label 1 on the object, 0 beside
            it. Voxels, 0 the centre of the first one.
        boxes: of a picture one, (4,) or (1, 4): x and y of the first, then of the last pixel inside. Of a volume (6,)
            or (N, 6), x, y, z each: a box counts in the middle one of its slices.
        mask: roughly the object: (H, W), or (D, H, W) whose slices that hold anything count; above 0 is inside.

    Returns:
        Number of the slice (0 of a picture) -> what shows the object there, in ascending order; empty where nothing
        is given.

    Raises:
        PromptError: when a shape or label can't be used, a point or box lies outside, a box isn't sorted, or the mask
            is empty.
    """
    depth, plane = (1, size) if len(size) == 2 else (size[0], size[1:])
    clicks = _points(points, size)
    found: dict[int, dict[str, Any]] = {}
    slices = clicks[:, 2].round().astype(int)
    for z in np.unique(slices).tolist():
        found.setdefault(z, {})["points"] = clicks[slices == z][:, [0, 1, 3]]
    for box in _boxes(boxes, size):
        # a box may begin half a voxel before the first one's centre
        z = max(int(box[2] + box[5]) // 2, 0)
        if "box" in found.setdefault(z, {}):
            where = "the picture" if depth == 1 and len(size) == 2 else f"slice {z}"
            raise PromptError(f"boxes holds two boxes for {where}, and they show one object; ask for one at a time")
        found[z]["box"] = box[[0, 1, 3, 4]]
    if mask is not None:
        try:
            inside = np.asarray(mask) > 0
        except (TypeError, ValueError, RuntimeError) as error:
            raise PromptError("mask can't be read as numbers; give an array of the shape of the masks") from error
        if inside.shape != tuple(size):
            raise PromptError(f"mask has shape {inside.shape}; expected {tuple(size)}, the shape of the masks")
        if not inside.any():
            raise PromptError("mask is empty; give one that shows the object roughly, or leave it out")
        stack = inside.reshape(depth, *plane)
        for z in np.flatnonzero(stack.any(axis=(1, 2))):
            found.setdefault(int(z), {})["mask"] = stack[z]
    return {z: VisualPrompts(**found[z]) for z in sorted(found)}


def _points(points: Any, size: tuple[int, ...]) -> NDArray[np.float64]:
    """(N, 4): x, y, z, label."""
    if points is None:
        return np.zeros((0, 4))
    axes = len(size)
    given = _numbers(points, "points").reshape(-1, np.shape(points)[-1] if np.size(points) else axes + 1)
    if given.shape[1] != axes + 1:
        names = "x, y, label" if axes == 2 else "x, y, z, label"
        raise PromptError(f"points has {given.shape[1]} numbers a point; give {names}")
    odd = given[~np.isin(given[:, -1], (0, 1))]
    if len(odd):
        raise PromptError(f"a point has label {odd[0, -1]:g}; give 1 on the object, 0 beside it")
    for point in given:
        _check_inside(point[:-1], size, "a point")
    return given if axes == 3 else np.insert(given, 2, 0.0, axis=1)


def _boxes(boxes: Any, size: tuple[int, ...]) -> NDArray[np.float64]:
    """(N, 6): x, y, z of the first voxel, then of the last."""
    if boxes is None:
        return np.zeros((0, 6))
    axes = len(size)
    given = _numbers(boxes, "boxes").reshape(-1, np.shape(boxes)[-1] if np.size(boxes) else 2 * axes)
    if given.shape[1] != 2 * axes:
        names = "x0, y0, x1, y1" if axes == 2 else "x0, y0, z0, x1, y1, z1"
        raise PromptError(f"boxes has {given.shape[1]} numbers a box; give {names}")
    for box in given:
        if (box[:axes] > box[axes:]).any():
            raise PromptError(f"the box {_shown(box)} isn't sorted; give its smallest coordinates first")
        _check_inside(box[:axes], size, "a box")
        _check_inside(box[axes:], size, "a box")
    return given if axes == 3 else np.insert(given, [2, 4], 0.0, axis=1)


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    try:
        given = np.asarray(values, dtype=np.float64)
    # torch refuses a tensor that needs gradients by a RuntimeError
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError(f"{name} can't be read as numbers; give one row of numbers for each") from error
    if given.ndim not in (1, 2) or not np.isfinite(given).all():
        raise PromptError(f"{name} has shape {given.shape}, or a number that is none; give one row of numbers for each")
    return given


def _check_inside(place: NDArray[np.float64], size: tuple[int, ...], name: str) -> None:
    # x is the last axis of the masks
    for value, axis, length in zip(place, "xyz"[: len(size)], reversed(size), strict=True):
        if not -0.5 <= value < length - 0.5:
            raise PromptError(f"{name} has {axis} {value:g}, outside of 0 to {length - 1}; give voxels of the image")


def _shown(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
