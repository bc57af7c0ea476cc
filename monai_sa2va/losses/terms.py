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

"""The terms of the loss: sums over objects or tokens divided by their count, in full precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from monai_sa2va.errors import ConfigError, DataError

__all__ = ["dice_per_object", "divide", "full_precision", "language_term", "resize_logits", "true_iou"]


def full_precision(values: Tensor) -> Tensor:
    """float64 as it is, everything else as float32; a plain tensor where metadata was attached."""
    values = values.as_subclass(Tensor)
    return values if values.dtype == torch.float64 else values.float()


def resize_logits(logits: Tensor, truth: Tensor) -> Tensor:
    """Bring logits (M, h, w) to the size of the truth (M, H, W), bilinearly; M above 0."""
    if logits.shape[-2:] == truth.shape[-2:]:
        return logits
    return functional.interpolate(
        logits.unsqueeze(1), size=truth.shape[-2:], mode="bilinear", align_corners=False
    ).squeeze(1)


def divide(values: Tensor, count: Tensor | float | None) -> Tensor:
    """Sum of values (M,) over a count.

    Args:
        values: one an object or token.
        count: number to divide by, above 0; M where ``None``. Not looked at where M is 0.

    Raises:
        ConfigError: when the count isn't above 0.
    """
    total = values.sum()
    if not len(values) or count is None:
        return total / max(len(values), 1)
    if not count > 0:
        raise ConfigError(f"counts has {float(count)}, but this call holds {len(values)} objects or tokens")
    return total / (count.to(total.device).reshape(()) if isinstance(count, Tensor) else count)


def dice_per_object(probabilities: Tensor, truth: Tensor, smooth: float, batch: bool = False) -> Tensor:
    """Dice loss ``1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth)``.

    Args:
        probabilities: (M, P), 0 to 1.
        truth: (M, P), 0 to 1.
        smooth: in pixels or points, above 0.
        batch: sum over all objects first; the one value is repeated for each.

    Returns:
        (M,), 0 to 1.
    """
    overlap = (probabilities * truth).sum(dim=1)
    total = probabilities.sum(dim=1) + truth.sum(dim=1)
    if batch:
        # Repeated for each object, so that a call counts by its objects when several are accumulated.
        overlap, total = overlap.sum().expand_as(overlap), total.sum().expand_as(total)
    return 1 - (2 * overlap + smooth) / (total + smooth)


@torch.no_grad()
def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of each mask thresholded at logit 0 with its truth, 1 where both are empty.

    Args:
        logits: (M, h, w), brought to the truth's size first.
        truth: (M, H, W), foreground above 0.5.

    Returns:
        (M,), of the dtype of ``logits``, without gradient.
    """
    if not len(logits):
        return logits.new_zeros(0)
    predicted, real = (resize_logits(logits, truth) > 0).flatten(1), (truth > 0.5).flatten(1)
    union = (predicted | real).sum(dim=1)
    overlap = (predicted & real).sum(dim=1)
    return torch.where(union > 0, overlap / union.clamp(min=1), 1.0).to(logits.dtype)


def language_term(logits: Tensor, targets: Tensor, count: Tensor | float | None) -> Tensor:
    """Cross entropy of the supervised positions.

    Args:
        logits: (K, V); K may be 0.
        targets: (K,) integer token ids, 0 to V - 1.
        count: what the sum is divided by; K where ``None``.

    Raises:
        DataError: when the shapes don't fit or a target is outside the vocabulary.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise DataError(
            f"language_logits {tuple(logits.shape)} and language_targets {tuple(targets.shape)} don't fit; "
            "give (K, V) and (K,)"
        )
    logits = full_precision(logits)
    if not len(targets):
        return logits.sum()
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise DataError(
            f"language_targets has values outside 0 to {logits.shape[1] - 1}; hand in supervised positions only"
        )
    return divide(functional.cross_entropy(logits, targets.long(), reduction="none"), count)
