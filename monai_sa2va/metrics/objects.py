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

"""One object in numbers: its mask against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai_sa2va.enums import MaskScore
from monai_sa2va.errors import DataError
from monai_sa2va.metrics.binary import binarize_truth, score_masks
from monai_sa2va.metrics.surface import calculate_hd95, calculate_surface_dice

__all__ = ["ObjectScore", "score_object"]


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one object that was asked for.

    Attributes:
        prompt: its phrase.
        group: number of its patient.
        truth_voxels: pixels or voxels of the true mask.
        predicted_voxels: of the predicted one.
        dice: 0 to 1; 1 where both masks are empty and 0 where one is, like the next four.
        iou: 0 to 1.
        precision: 0 to 1.
        recall: 0 to 1.
        surface_dice: 0 to 1.
        hd95: in ``unit``; 0 where both masks are empty, NaN where one is.
        unit: ``"mm"``, or ``"pixel"`` where the source doesn't say its spacing.
    """

    prompt: str
    group: int
    truth_voxels: int
    predicted_voxels: int
    dice: float
    iou: float
    precision: float
    recall: float
    surface_dice: float
    hd95: float
    unit: str

    @property
    def present(self) -> bool:
        """Whether the truth shows it."""
        return self.truth_voxels > 0

    @property
    def false_empty(self) -> bool:
        """Whether it is there and got no mask."""
        return self.present and not self.predicted_voxels

    @property
    def false_positive(self) -> bool:
        """Whether it isn't there and got a mask."""
        return not self.present and self.predicted_voxels > 0


def score_object(
    pred: Any, gt: Any, prompt: str, group: int, tolerance: float, spacing: Sequence[float] | None = None
) -> ObjectScore:
    """Score one mask.

    Args:
        pred: (H, W) or (D, H, W) of booleans, or 0 and 1.
        gt: the truth, of the same shape.
        prompt: its phrase.
        group: number of its patient.
        tolerance: of the surface Dice, in mm where ``spacing`` is given, else in pixels.
        spacing: distance of neighbouring pixels along each axis, in mm; ``None`` where that is unknown.

    Raises:
        ConfigError: when ``tolerance`` is negative or not finite.
        DataError: when shapes, values or ``spacing`` can't be used.
    """
    predicted, real = binarize_truth(pred, name="pred"), binarize_truth(gt)
    if predicted.shape != real.shape:
        raise DataError(f"pred has the shape {tuple(predicted.shape)} and gt {tuple(real.shape)}; give one grid")
    overlap = {str(score): score_masks(predicted[None], real[None], score).item() for score in MaskScore}
    return ObjectScore(
        prompt=prompt,
        group=group,
        truth_voxels=int(real.sum()),
        predicted_voxels=int(predicted.sum()),
        surface_dice=calculate_surface_dice(predicted, real, tolerance, spacing),
        hd95=calculate_hd95(predicted, real, spacing),
        unit="pixel" if spacing is None else "mm",
        **overlap,
    )
