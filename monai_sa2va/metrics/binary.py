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

"""From numbers to masks to scores: thresholds by the named range, and the empty cases defined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_confusion_matrix_metric
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_sa2va.enums import InputRange, MaskScore
from monai_sa2va.errors import ConfigError, DataError

__all__ = ["binarize_prediction", "binarize_truth", "check_choice", "score_masks", "to_tensor"]

# What is above the threshold is foreground; values outside of low to high are refused.
_RANGES = {
    InputRange.LOGITS: (0.0, -math.inf, math.inf),
    InputRange.PROBABILITIES: (0.5, 0.0, 1.0),
    InputRange.IMAGE: (127.0, 0.0, 255.0),
}
_MONAI_NAMES = {
    MaskScore.DICE: "f1 score",
    MaskScore.IOU: "threat score",
    MaskScore.PRECISION: "precision",
    MaskScore.RECALL: "recall",
}


def check_choice(value: Any, choices: type[InputRange] | type[MaskScore], name: str) -> Any:
    """Member of an enum by its value.

    Raises:
        ConfigError: naming the argument ``name`` and what is allowed.
    """
    try:
        return choices(value)
    except ValueError:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(map(str, choices))}") from None


def to_tensor(values: Any, name: str) -> Tensor:
    """Array, tensor or nested list as a plain tensor without gradient, where it lies.

    Raises:
        DataError: naming the argument ``name`` where these are no numbers, or none at all, or NaN.
    """
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))  # read from NIfTI or DICOM; torch can't take it
    try:
        tensor = convert_to_tensor(values, track_meta=False, wrap_sequence=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} is no array of numbers: {error}") from error
    if not isinstance(tensor, Tensor) or tensor.is_complex():
        raise DataError(f"{name} is a {type(values).__name__}; give an array or tensor of real numbers")
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        tensor = tensor.to(torch.int64)  # torch can't compare these
    if not tensor.numel():
        raise DataError(f"{name} has the shape {tuple(tensor.shape)} and no element")
    if tensor.is_floating_point() and tensor.isnan().any():
        raise DataError(f"{name} holds NaN; give finite values")
    return tensor.detach()


def binarize_prediction(
    pred: Any,
    input_range: InputRange | str = InputRange.PROBABILITIES,
    threshold: float | None = None,
    name: str = "pred",
) -> Tensor:
    """Foreground of a prediction: ``pred > threshold``.

    Args:
        pred: array or tensor of any shape.
        input_range: what the numbers are: ``"logits"`` (threshold 0), ``"probabilities"`` (0 to 1, threshold 0.5) or
            ``"image"`` (0 to 255, threshold 127). Booleans count as probabilities 0 and 1.
        threshold: takes the place of the range's own.
        name: of the argument, for messages.

    Returns:
        Boolean tensor of the same shape.

    Raises:
        ConfigError: when ``input_range`` is unknown or ``threshold`` lies outside of it.
        DataError: when values lie outside of ``input_range``.
    """
    kind = check_choice(input_range, InputRange, "input_range")
    default, low, high = _RANGES[kind]
    threshold = default if threshold is None else threshold
    if not (math.isfinite(threshold) and low <= threshold <= high):
        raise ConfigError(f"threshold is {threshold}; with input_range {kind} give a number from {low:g} to {high:g}")
    values = to_tensor(pred, name)
    if values.dtype == torch.bool:
        if kind is not InputRange.PROBABILITIES:
            raise DataError(f"{name} is boolean, and input_range is {kind}; give input_range=probabilities")
        values = values.to(torch.uint8)
    smallest, largest = values.min().item(), values.max().item()
    if smallest < low or largest > high:
        raise DataError(
            f"{name} has values from {smallest:g} to {largest:g}, outside of input_range {kind} ({low:g} to {high:g}); "
            "say by input_range what they are"
        )
    return values > threshold


def binarize_truth(gt: Any, gt_range: str = "binary", name: str = "gt") -> Tensor:
    """Foreground of a true mask, which has two values only.

    Args:
        gt: array or tensor of any shape.
        gt_range: ``"binary"`` for booleans or 0 and 1, ``"image"`` for 0 and 255.
        name: of the argument, for messages.

    Returns:
        Boolean tensor of the same shape.

    Raises:
        ConfigError: when ``gt_range`` is unknown.
        DataError: when there are other values.
    """
    if gt_range not in ("binary", "image"):
        raise ConfigError(f"gt_range is {gt_range!r}; allowed: binary, image")
    top = 1 if gt_range == "binary" else 255
    values = to_tensor(gt, name)
    foreground = values == top
    strange = ~foreground & (values != 0)
    if strange.any():
        raise DataError(
            f"{name} holds {values[strange][0].item()}; with gt_range={gt_range} give 0 and {top} only"
            + ("" if top == 255 else ", or gt_range=image for 0 and 255")
        )
    return foreground


def score_masks(pred: Tensor, gt: Tensor, score: MaskScore | str) -> Tensor:
    """Score predicted masks by MONAI's confusion matrix metrics, with the empty cases defined.

    Dice is MONAI's "f1 score", IoU its "threat score". Where prediction and truth are both empty every score is 1,
    where one of them is, every score is 0: also the precision of an empty prediction and the recall of an empty truth,
    which have no value of their own.

    Args:
        pred: (M, ...) boolean.
        gt: (M, ...) boolean, of the same shape; moved to where ``pred`` lies.
        score: ``"dice"``, ``"iou"``, ``"precision"`` or ``"recall"``.

    Returns:
        (M,) float64 on the CPU, 0 to 1.

    Raises:
        ConfigError: when ``score`` is unknown.
        DataError: when the shapes differ.
    """
    chosen = check_choice(score, MaskScore, "score")
    if pred.shape != gt.shape:
        raise DataError(f"pred has the shape {tuple(pred.shape)} and gt {tuple(gt.shape)}; give masks of one grid")
    pred, gt = pred.flatten(1), gt.to(pred.device).flatten(1)
    # Counted in integers: float32 sums, as in MONAI's get_confusion_matrix, are off in volumes beyond 2**24 voxels.
    overlap, predicted, real = ((mask.sum(dim=1)) for mask in (pred & gt, pred, gt))
    neither = pred.shape[1] - predicted - real + overlap
    matrix = torch.stack([overlap, predicted - overlap, neither, real - overlap], dim=-1).cpu().double()
    values: Tensor = compute_confusion_matrix_metric(_MONAI_NAMES[chosen], matrix)
    both_empty = (matrix[:, [0, 1, 3]].sum(dim=1) == 0).double()
    return torch.where(values.isnan(), both_empty, values)
