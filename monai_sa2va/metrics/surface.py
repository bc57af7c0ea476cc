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

"""How far the outlines of two masks lie apart, by MONAI, with the empty cases defined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.binary import binarize_truth

__all__ = ["calculate_hd95", "calculate_surface_dice", "check_tolerance"]


def check_tolerance(tolerance: float) -> float:
    """The tolerance as given.

    Raises:
        ConfigError: when it is negative or not finite.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"surface tolerance is {tolerance}; give a number of at least 0, in mm")
    return tolerance


def calculate_surface_dice(pred: Any, gt: Any, tolerance: float, spacing: Sequence[float] | None = None) -> float:
    """Share of both outlines that lies within ``tolerance`` of the other one.

    An outline is made of the mask's own pixels that have a neighbour outside of it, or beyond the image's border; each
    counts once, whatever its size. A volume with a single slice is measured as a picture.

    Args:
        pred: (H, W) or (D, H, W) array or tensor of booleans, or 0 and 1.
        gt: the truth, of the same shape.
        tolerance: largest distance that counts as agreement, in the unit of ``spacing``.
        spacing: distance of neighbouring pixels along each axis, in mm; 1 pixel by default.

    Returns:
        0 to 1; 1 where both masks are empty, 0 where one is.

    Raises:
        ConfigError: when ``tolerance`` is negative or not finite.
        DataError: when shapes, values or ``spacing`` can't be used.

    Example:
        >>> calculate_surface_dice([[1, 0, 0, 0]], [[0, 1, 0, 0]], tolerance=1)
        1.0
    """
    predicted, real, steps = _measurable(pred, gt, spacing)
    check_tolerance(tolerance)
    if not predicted.any() or not real.any():
        return float(not predicted.any() and not real.any())
    score = compute_surface_dice(
        predicted[None, None], real[None, None], [tolerance], include_background=True, spacing=steps
    )
    return float(score.item())


def calculate_hd95(pred: Any, gt: Any, spacing: Sequence[float] | None = None) -> float:
    """95 % Hausdorff distance: of each outline, the distance to the other that 95 % of its pixels keep; the larger one.

    Args:
        pred: as for :func:`calculate_surface_dice`, like the next two.
        gt: the truth.
        spacing: distance of neighbouring pixels along each axis, in mm; 1 pixel by default.

    Returns:
        A distance in the unit of ``spacing``; 0 where both masks are empty, NaN where one is: there is no distance.

    Raises:
        DataError: when shapes, values or ``spacing`` can't be used.

    Example:
        >>> calculate_hd95([[1, 0, 0, 0]], [[0, 0, 1, 0]], spacing=(1.0, 0.5))
        1.0
    """
    predicted, real, steps = _measurable(pred, gt, spacing)
    if not predicted.any() or not real.any():
        return math.nan if predicted.any() or real.any() else 0.0
    distance = compute_hausdorff_distance(
        predicted[None, None], real[None, None], include_background=True, percentile=95, spacing=steps
    )
    return float(distance.item())


def _measurable(pred: Any, gt: Any, spacing: Sequence[float] | None) -> tuple[Tensor, Tensor, list[float]]:
    """Two boolean masks on the CPU, and their spacing."""
    predicted, real = binarize_truth(pred, name="pred").cpu(), binarize_truth(gt).cpu()
    if predicted.shape != real.shape or predicted.ndim not in (2, 3):
        raise DataError(
            f"pred has the shape {tuple(predicted.shape)} and gt {tuple(real.shape)}; give both as (H, W) or (D, H, W)"
        )
    steps = [1.0] * real.ndim if spacing is None else [float(step) for step in spacing]
    if len(steps) != real.ndim or not all(math.isfinite(step) and step > 0 for step in steps):
        raise DataError(f"spacing is {steps}; give {real.ndim} numbers above 0, one an axis")
    if real.ndim == 3 and 1 in real.shape:
        # in space, every voxel of a single slice would be outline
        axis = real.shape.index(1)
        predicted, real = predicted.select(axis, 0), real.select(axis, 0)
        del steps[axis]
    return predicted, real, steps
