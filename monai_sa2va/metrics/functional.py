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

"""Scores of one mask, or of a batch of them, in one call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from monai_sa2va.enums import InputRange, MaskScore
from monai_sa2va.errors import DataError
from monai_sa2va.metrics.binary import binarize_prediction, binarize_truth, score_masks

__all__ = ["calculate_dice", "calculate_iou", "calculate_precision_recall"]


def calculate_iou(
    pred: Any,
    gt: Any,
    threshold: float | None = None,
    *,
    input_range: InputRange | str = InputRange.PROBABILITIES,
    gt_range: str = "binary",
) -> float | Tensor:
    """Intersection over union of a prediction and its truth.

    Args:
        pred: (H, W), (D, H, W) or (B, 1, ...) array or tensor; ``pred > threshold`` is foreground.
        gt: the truth, of the same shape.
        threshold: takes the place of the one that belongs to ``input_range``.
        input_range: what ``pred`` is: ``"logits"`` (threshold 0), ``"probabilities"`` (0 to 1, threshold 0.5) or
            ``"image"`` (0 to 255, threshold 127); never guessed.
        gt_range: ``"binary"`` for booleans or 0 and 1, ``"image"`` for 0 and 255.

    Returns:
        0 to 1: a float for one mask, (B,) float64 for (B, 1, ...). 1 where both masks are empty, 0 where one is.

    Raises:
        DataError: when shapes differ or don't fit, or values lie outside of the named range.
        ConfigError: when a named argument isn't among the allowed.

    Example:
        >>> calculate_iou([[1, 1, 0]], [[0, 1, 1]])
        0.3333333333333333
    """
    return _score(pred, gt, threshold, input_range, gt_range, MaskScore.IOU)[0]


def calculate_dice(
    pred: Any,
    gt: Any,
    threshold: float | None = None,
    *,
    input_range: InputRange | str = InputRange.PROBABILITIES,
    gt_range: str = "binary",
) -> float | Tensor:
    """Dice coefficient of a prediction and its truth; arguments, result and errors as of :func:`calculate_iou`.

    Example:
        >>> calculate_dice([[1, 1, 0]], [[0, 1, 1]])
        0.5
    """
    return _score(pred, gt, threshold, input_range, gt_range, MaskScore.DICE)[0]


def calculate_precision_recall(
    pred: Any,
    gt: Any,
    threshold: float | None = None,
    *,
    input_range: InputRange | str = InputRange.PROBABILITIES,
    gt_range: str = "binary",
) -> tuple[float | Tensor, float | Tensor]:
    """Precision and recall, in this order; arguments and errors as of :func:`calculate_iou`.

    Both are 1 where both masks are empty and both are 0 where only one is.

    Example:
        >>> calculate_precision_recall([[1, 1, 1, 1]], [[0, 1, 1, 0]])
        (0.5, 1.0)
    """
    precision, recall = _score(pred, gt, threshold, input_range, gt_range, MaskScore.PRECISION, MaskScore.RECALL)
    return precision, recall


def _score(
    pred: Any, gt: Any, threshold: float | None, input_range: InputRange | str, gt_range: str, *scores: MaskScore
) -> list[float | Tensor]:
    predicted = binarize_prediction(pred, input_range, threshold)
    real = binarize_truth(gt, gt_range)
    if predicted.shape != real.shape:
        raise DataError(f"pred has the shape {tuple(predicted.shape)} and gt {tuple(real.shape)}; give the same shape")
    dimensions = predicted.ndim
    if not 2 <= dimensions <= 5 or (dimensions > 3 and predicted.shape[1] != 1):
        raise DataError(f"pred has the shape {tuple(predicted.shape)}; give (H, W), (D, H, W) or (B, 1, ...)")
    if dimensions > 3:
        return [score_masks(predicted, real, score) for score in scores]
    return [score_masks(predicted[None], real[None], score).item() for score in scores]
