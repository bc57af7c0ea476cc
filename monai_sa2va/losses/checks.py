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

"""Checks of what the loss is built from and called with: one clear line instead of a wrong number."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monai_sa2va.errors import ConfigError, DataError

__all__ = ["check_counts", "check_masks", "check_scores", "check_segmentation_loss"]


def check_masks(pred_masks: Tensor, gt_masks: Tensor) -> None:
    """Refuse masks that aren't logits (M, h, w) and a truth (M, H, W) of 0 to 1.

    Raises:
        DataError: naming the argument and what to give.
    """
    if not pred_masks.is_floating_point() or pred_masks.ndim != 3:
        raise DataError(
            f"pred_masks is {pred_masks.dtype} of shape {tuple(pred_masks.shape)}; give floating point logits (M, h, w)"
        )
    if gt_masks.ndim != 3 or len(gt_masks) != len(pred_masks):
        raise DataError(
            f"gt_masks has the shape {tuple(gt_masks.shape)}; give (M, H, W), M = {len(pred_masks)} as in pred_masks"
        )
    if gt_masks.dtype != torch.bool and gt_masks.numel():
        low, high = gt_masks.aminmax()
        if not (low >= 0 and high <= 1):
            raise DataError(f"gt_masks has values from {low.item()} to {high.item()}; give 0 for background and 1")


def check_scores(scores: Tensor | None, name: str, shape: tuple[int, ...]) -> Tensor:
    """Scores of M objects, ``shape`` (M,) or (M, K), refused where missing or of another shape.

    Raises:
        DataError: naming the argument ``name``.
    """
    if scores is None:
        raise DataError(f"{name} is missing, and its weight is above 0; hand it in or set the weight to 0")
    if scores.shape != shape:
        each = "an object" if len(shape) == 1 else "a candidate mask"
        raise DataError(f"{name} has the shape {tuple(scores.shape)}; give {shape}, one number {each}")
    return scores


def check_counts(counts: Mapping[str, Tensor | float], known: tuple[str, ...]) -> None:
    """Refuse counts of unknown parts and those that are no single number.

    Raises:
        ConfigError: naming the key.
    """
    for name, count in counts.items():
        if name not in known:
            raise ConfigError(f"counts has the unknown key {name!r}; known: {', '.join(known)}")
        if isinstance(count, Tensor) and count.numel() != 1:
            raise ConfigError(f"counts[{name!r}] has the shape {tuple(count.shape)}; give one number")


def check_segmentation_loss(loss: nn.Module) -> None:
    """Refuse a loss that isn't a mean over objects, or that would take the logits for probabilities.

    Raises:
        ConfigError: naming the loss and the argument to give it.
    """
    name = type(loss).__name__
    for part in loss.modules():
        # Composite MONAI losses keep the reduction that they were given in their parts only.
        reduction = getattr(part, "reduction", "mean")
        if str(reduction) != "mean":
            raise ConfigError(f'segmentation_loss {name} has reduction="{reduction}"; give it reduction="mean"')
        if getattr(part, "sigmoid", None) is False and getattr(part, "other_act", None) is None:
            raise ConfigError(f"segmentation_loss {name} would take logits for probabilities; give it sigmoid=True")
