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

"""The loss of a Sa2VA: mask BCE, Dice, language cross entropy, predicted IoU, presence; exact over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.losses.checks import check_counts, check_masks, check_scores, check_segmentation_loss
from monai_sa2va.losses.point_sampling import check_sampling, point_values, sample_points
from monai_sa2va.losses.terms import (
    dice_per_object,
    divide,
    full_precision,
    language_term,
    resize_logits,
    true_iou,
)

__all__ = ["Sa2VALoss", "as_criterion"]

MASKS = "masks"
TOKENS = "tokens"


class Sa2VALoss(nn.Module):
    """Weighted sum of Sa2VA's losses; logits in, never probabilities.

    Every part is a sum over objects (or answer tokens) divided by a count. The count is this call's own, or that of the
    whole effective batch when it is handed in: then the losses of all micro-batches add up to exactly the loss of the
    whole batch, and so do their gradients.

    The parts of one object, with ``p`` the sigmoid of its logits and ``g`` its truth:

    * mask: mean over pixels of the binary cross entropy with logits;
    * Dice: ``1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth)``;
    * IoU: ``|predicted IoU - true IoU|``, the latter of the mask thresholded at logit 0 (1 where both are empty);
    * object: binary cross entropy of the object score with "the truth has a foreground pixel".

    Mask and Dice follow the reference's recipe (bytedance/Sa2VA, which weights them 2.0 and 0.5).

    Args:
        mask_weight: weight of the mask BCE, or of ``segmentation_loss``.
        dice_weight: weight of the Dice loss.
        language_weight: weight of the answer's cross entropy.
        iou_weight: weight of the predicted IoU's error; 0 leaves the part out.
        object_weight: weight of the object score's cross entropy; 0 leaves the part out.
        segmentation_loss: takes the place of mask and Dice: a MONAI loss such as ``DiceCELoss(sigmoid=True)``, called
            on logits and truth (M, 1, H, W), with ``reduction="mean"``. One that mixes objects (``batch=True``) is not
            exact over micro-batches.
        dice_smooth: ``smooth`` of the Dice loss, in pixels; above 0, so that two empty masks are no division by 0.
        dice_batch: sum over all objects of the call before dividing, as for one large mask. Not exact over
            micro-batches: what is summed together is what one call sees.
        sample_points: compute mask and Dice on points (:func:`~monai_sa2va.losses.point_sampling.sample_points`)
            instead of on all pixels. They are drawn at random, so micro-batches agree in expectation only.
        num_points: points an object.
        oversample_ratio: candidates for each point.
        importance_sample_ratio: share of points chosen where the prediction is least sure.

    Raises:
        ConfigError: when a weight or setting is out of its range, or ``segmentation_loss`` can't be used.

    Example:
        >>> criterion = Sa2VALoss()
        >>> losses = criterion(torch.zeros(3, 64, 64), torch.ones(3, 64, 64))
        >>> round(losses["loss_mask"].item(), 4)
        0.6931
    """

    def __init__(
        self,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        language_weight: float = 0.5,
        iou_weight: float = 0.0,
        object_weight: float = 0.0,
        *,
        segmentation_loss: nn.Module | None = None,
        dice_smooth: float = 1.0,
        dice_batch: bool = False,
        sample_points: bool = False,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.weights = {
            "mask": mask_weight,
            "dice": dice_weight,
            "lang": language_weight,
            "iou": iou_weight,
            "object": object_weight,
        }
        for part, weight in self.weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                name = "language" if part == "lang" else part
                raise ConfigError(f"{name}_weight is {weight}; give a finite number of at least 0")
        if not (dice_smooth > 0 and math.isfinite(dice_smooth)):
            raise ConfigError(f"dice_smooth is {dice_smooth}; give a finite number above 0")
        check_sampling(num_points, oversample_ratio, importance_sample_ratio)
        if segmentation_loss is not None:
            check_segmentation_loss(segmentation_loss)
            if sample_points or dice_batch:
                raise ConfigError("segmentation_loss takes whole masks; leave out sample_points and dice_batch")
        self.segmentation_loss = segmentation_loss
        self.dice_smooth = dice_smooth
        self.dice_batch = dice_batch
        self.sample_points = sample_points
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio

    def forward(
        self,
        pred_masks: Tensor,
        gt_masks: Tensor,
        *,
        language_logits: Tensor | None = None,
        language_targets: Tensor | None = None,
        iou_scores: Tensor | None = None,
        object_scores: Tensor | None = None,
        candidate_masks: Tensor | None = None,
        counts: Mapping[str, Tensor | float] | None = None,
    ) -> dict[str, Tensor]:
        """Compute all parts and their weighted sum, in float32 (float64 inputs stay float64), autocast or not.

        Args:
            pred_masks: (M, h, w) mask logits of M objects, flattened over samples, frames and objects; M may be 0.
                Where the size differs they are brought to (H, W) bilinearly; sampled points are read as they are.
            gt_masks: (M, H, W) truth, 0 to 1, boolean or of any number type.
            language_logits: (K, V) logits of the K supervised answer positions only; K may be 0.
            language_targets: (K,) integer token ids, already shifted.
            iou_scores: (M,) predicted IoU; needed when ``iou_weight`` is above 0. (M, K) with ``candidate_masks``.
            object_scores: (M,) presence logits; needed when ``object_weight`` is above 0.
            candidate_masks: (M, K, h, w) logits of all masks that were offered for each object, where the IoU of all is
                to be learnt: the part is then their mean. ``None`` where ``pred_masks`` are the only ones.
            counts: ``"masks"`` and ``"tokens"``: by what the sums over objects and over tokens are divided, e.g. their
                numbers in the whole effective batch; M and K where absent.

        Returns:
            Scalars ``loss_mask``, ``loss_dice``, ``loss_lang`` (zeros with a gradient path where nothing applies),
            ``loss_iou`` and ``loss_object`` where their weight is above 0, all unweighted; their weighted sum ``loss``.

        Raises:
            DataError: when shapes or values don't fit, or scores that a weight asks for are missing.
            ConfigError: when ``counts`` has an unknown key or a number that isn't above 0.
        """
        check_masks(pred_masks, gt_masks)
        counts = counts or {}
        check_counts(counts, (MASKS, TOKENS))
        masks_count = counts.get(MASKS)
        # Half precision loses the small terms of these sums, also inside of a loss that is handed in.
        with torch.autocast(pred_masks.device.type, enabled=False):
            logits = full_precision(pred_masks)
            truth = gt_masks.as_subclass(Tensor).to(logits)
            parts = self._mask_parts(logits, truth, masks_count)
            if language_logits is None or language_targets is None:
                if language_logits is not None or language_targets is not None:
                    raise DataError("give both language_logits (K, V) and language_targets (K,), or neither")
                parts["loss_lang"] = logits[:0].sum()
            else:
                parts["loss_lang"] = language_term(language_logits, language_targets, counts.get(TOKENS))
            if self.weights["iou"] > 0:
                candidates = logits.unsqueeze(1) if candidate_masks is None else full_precision(candidate_masks)
                shape = (len(logits),) if candidate_masks is None else tuple(candidates.shape[:2])
                scores = full_precision(check_scores(iou_scores, "iou_scores", shape)).reshape(candidates.shape[:2])
                error = (scores - _true_ious(candidates, truth)).abs().mean(dim=1)
                parts["loss_iou"] = divide(error, masks_count)
            if self.weights["object"] > 0:
                scores = full_precision(check_scores(object_scores, "object_scores", (len(logits),)))
                present = (truth > 0.5).flatten(1).any(dim=1).to(scores)
                entropy = functional.binary_cross_entropy_with_logits(scores, present, reduction="none")
                parts["loss_object"] = divide(entropy, masks_count)
        total = sum((self.weights[key.removeprefix("loss_")] * value for key, value in parts.items()), logits[:0].sum())
        return {**parts, "loss": total}

    def _mask_parts(self, logits: Tensor, truth: Tensor, count: Tensor | float | None) -> dict[str, Tensor]:
        """``loss_mask`` and ``loss_dice`` of logits (M, h, w) and truth (M, H, W)."""
        zero = logits[:0].sum()
        if not len(logits):
            return {"loss_mask": zero, "loss_dice": zero}
        if self.segmentation_loss is not None:
            return {"loss_mask": self._replaced_part(logits, truth, count), "loss_dice": zero}
        if self.sample_points:
            points = sample_points(logits, self.num_points, self.oversample_ratio, self.importance_sample_ratio)
            logits, truth = point_values(logits, points), point_values(truth, points)
        else:
            logits, truth = resize_logits(logits, truth).flatten(1), truth.flatten(1)
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
        dice = dice_per_object(logits.sigmoid(), truth, self.dice_smooth, self.dice_batch)
        return {"loss_mask": divide(entropy, count), "loss_dice": divide(dice, count)}

    def _replaced_part(self, logits: Tensor, truth: Tensor, count: Tensor | float | None) -> Tensor:
        """The segmentation loss that was handed in, weighted by this call's share of all objects."""
        assert self.segmentation_loss is not None
        value = self.segmentation_loss(resize_logits(logits, truth).unsqueeze(1), truth.unsqueeze(1))
        if not isinstance(value, Tensor) or value.ndim:
            name = type(self.segmentation_loss).__name__
            raise ConfigError(f'segmentation_loss {name} returns no single number; give it reduction="mean"')
        return divide(value.expand(len(logits)), count)


def _true_ious(candidates: Tensor, truth: Tensor) -> Tensor:
    """True IoU (M, K) of masks (M, K, h, w) with the truth (M, H, W)."""
    number = candidates.shape[1]
    return true_iou(candidates.flatten(0, 1), truth.repeat_interleave(number, dim=0)).unflatten(0, (-1, number))


def as_criterion(loss: nn.Module | None = None) -> Sa2VALoss:
    """Make a network's criterion of what a configuration names.

    Args:
        loss: a :class:`Sa2VALoss` (returned as it is), any other segmentation loss (wrapped, in place of mask and Dice
            parts), or ``None`` for the default :class:`Sa2VALoss`.

    Raises:
        ConfigError: when ``loss`` is no module or can't be used.
    """
    if loss is None:
        return Sa2VALoss()
    if isinstance(loss, Sa2VALoss):
        return loss
    if not isinstance(loss, nn.Module):
        raise ConfigError(f"criterion is a {type(loss).__name__}; give a Sa2VALoss or another torch.nn.Module")
    return Sa2VALoss(segmentation_loss=loss)
