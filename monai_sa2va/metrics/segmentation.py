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

"""A MONAI metric that keeps each object's score with its name, so that a rare structure counts like a common one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from monai_sa2va.enums import InputRange, MaskScore
from monai_sa2va.errors import DataError
from monai_sa2va.metrics.binary import binarize_prediction, binarize_truth, check_choice, score_masks, to_tensor

__all__ = ["PromptScores", "PromptSegmentationMetric"]


class PromptScores(NamedTuple):
    """What was accumulated, over all ranks.

    Attributes:
        mean: mean over names of the mean per name ("mean over prompts").
        object_mean: mean over all objects, whatever their names.
        by_name: mean of each name's objects, by name in alphabetical order.
        counts: number of objects of each name.
    """

    mean: float
    object_mean: float
    by_name: dict[str, float]
    counts: dict[str, int]


class PromptSegmentationMetric(CumulativeIterationMetric):
    """Score of every object, accumulated with the name of what was asked for.

    Use like any cumulative MONAI metric: call it for each batch, ``aggregate()`` or :meth:`scores` at the end,
    ``reset()`` before the next round. Objects are gathered over all ranks of a distributed run; every rank must then
    ask for the result, and a rank without objects may.

    Args:
        metric: ``"dice"``, ``"iou"``, ``"precision"`` or ``"recall"``; each 1 where prediction and truth are empty and
            0 where one of them is.
        input_range: what predictions are: ``"logits"`` (threshold 0), ``"probabilities"`` (0.5) or ``"image"`` (127).
        threshold: takes the place of the range's own; ``pred > threshold`` is foreground.

    Raises:
        ConfigError: when an argument isn't among the allowed.

    Example:
        >>> metric = PromptSegmentationMetric("dice")
        >>> values = metric(torch.ones(2, 4, 4), torch.ones(2, 4, 4), names=["vessels", "optic disc"])
        >>> metric.scores().by_name
        {'optic disc': 1.0, 'vessels': 1.0}
    """

    def __init__(
        self,
        metric: MaskScore | str = MaskScore.DICE,
        input_range: InputRange | str = InputRange.LOGITS,
        threshold: float | None = None,
    ) -> None:
        self._names: list[str] = []
        self._gathered_names: list[str] = []
        super().__init__()
        self.metric: MaskScore = check_choice(metric, MaskScore, "metric")
        self.input_range: InputRange = check_choice(input_range, InputRange, "input_range")
        self.threshold = threshold

    def __call__(self, y_pred: Any, y: Any = None, *, names: Sequence[str] = (), **kwargs: Any) -> Tensor:
        """Score a batch of objects and keep the scores.

        Args:
            y_pred: (M, H, W) or (M, D, H, W) tensor, or a list of M tensors (H, W) or (D, H, W) of any sizes; logits
                or what ``input_range`` says.
            y: the truth, 0 and 1, of the same form and shapes.
            names: M names, by which the scores are grouped.
            kwargs: none are known.

        Returns:
            (M, 1) float64 scores on the CPU, 0 to 1.

        Raises:
            DataError: when numbers or shapes don't fit, a name is empty, or values are out of range.
        """
        if kwargs:
            raise TypeError(f"unexpected argument {next(iter(kwargs))!r}")
        names = list(names)
        if y is None or not len(y_pred) == len(y) == len(names):
            found = "none" if y is None else len(y)
            raise DataError(f"{len(y_pred)} predicted masks, {found} true masks and {len(names)} names; give one each")
        strange = [name for name in names if not isinstance(name, str) or not name.strip()]
        if strange:
            raise DataError(f"names holds {strange[0]!r}; give a phrase for each mask")
        self._synced = False
        if not names:
            return torch.zeros(0, 1, dtype=torch.float64)
        if not (isinstance(y_pred, Tensor) and isinstance(y, Tensor)):
            y_pred, y = ([to_tensor(mask, name) for mask in masks] for masks, name in ((y_pred, "pred"), (y, "gt")))
        values = super().__call__(y_pred, y)
        self._names.extend(names)
        assert isinstance(values, Tensor)
        return values

    def reset(self) -> None:
        """Forget all objects."""
        super().reset()
        self._names = []
        self._gathered_names = []

    def scores(self) -> PromptScores:
        """Means over names, over objects and per name, over all ranks.

        Raises:
            DataError: when no rank has an object.
        """
        values = self.get_buffer()
        if values is None:
            raise DataError("no object was scored since the last reset; check that the validation data has masks")
        groups: dict[str, list[float]] = {name: [] for name in sorted(set(self._gathered_names))}
        for name, value in zip(self._gathered_names, values.flatten().tolist(), strict=True):
            groups[name].append(value)
        means = {name: _mean(group) for name, group in groups.items()}
        return PromptScores(
            mean=_mean(list(means.values())),
            object_mean=_mean(values.flatten().tolist()),
            by_name=means,
            counts={name: len(group) for name, group in groups.items()},
        )

    def aggregate(self) -> Tensor:
        """Mean over names of the mean per name, a float64 scalar; errors as of :meth:`scores`."""
        return torch.tensor(self.scores().mean, dtype=torch.float64)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Scores (M, 1) of masks (M, ...)."""
        predicted = binarize_prediction(y_pred, self.input_range, self.threshold)
        if predicted.ndim not in (3, 4):
            raise DataError(f"pred has the shape {tuple(y_pred.shape)}; give (M, H, W) or (M, D, H, W)")
        return score_masks(predicted, binarize_truth(y), self.metric).unsqueeze(1)

    def _sync(self) -> None:
        """Gather scores and names together; MONAI's own would wait for ever for a rank that has no object."""
        if self._synced:
            return
        own = [] if self._buffers is None else torch.stack(self._buffers[0]).flatten().tolist()
        rows = list(zip(self._names, own, strict=True))
        if idist.get_world_size() > 1:
            gathered: Any = idist.all_gather(rows)
            rows = [row for rank in gathered for row in rank]
        self._gathered_names = [name for name, _ in rows]
        values = torch.tensor([[value] for _, value in rows], dtype=torch.float64)
        self._synced_tensors = [values] if rows else None
        self._synced = True


def _mean(values: list[float]) -> float:
    # fsum: the same to the last bit however ranks split the objects.
    return math.fsum(values) / len(values)
