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

"""The metrics' own self-test: cases that were computed by hand, empty masks among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from monai_sa2va.metrics.functional import calculate_dice, calculate_iou, calculate_precision_recall
from monai_sa2va.metrics.surface import calculate_hd95, calculate_surface_dice
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings

__all__ = ["check_metrics"]

_NAMES = ("Dice", "IoU", "precision", "recall", "surface Dice", "HD95")


class _Case(NamedTuple):
    """Two masks, and their scores in the order of `_NAMES`."""

    predicted: list[list[int]]
    truth: list[list[int]]
    scores: tuple[float, ...]
    tolerance: float = 1.0
    spacing: tuple[float, float] = (1.0, 1.0)


_CASES = (
    # 1 pixel is common to 2 and 3. All are outline, and each has one of the other mask within a pixel but the last of
    # the truth, which lies 2 away: 4 of 5.
    # HD95 takes the 95 % point of {1, 0} and of {0, 1, 2}, between values linearly: 0.95 and 1.9.
    _Case([[1, 1, 0, 0]], [[0, 1, 1, 1]], (2 / 5, 1 / 4, 1 / 2, 1 / 3, 4 / 5, 1.9)),
    # all the same: a square whose middle is no outline
    _Case([[1, 1, 1], [1, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 1], [1, 1, 1]], (1.0, 1.0, 1.0, 1.0, 1.0, 0.0)),
    # nothing in common, 3 pixels of 0.5 mm apart: within a tolerance of 1.5 mm, not of 1 mm
    _Case([[1, 0, 0, 0]], [[0, 0, 0, 1]], (0.0, 0.0, 0.0, 0.0, 1.0, 1.5), 1.5, (1.0, 0.5)),
    _Case([[1, 0, 0, 0]], [[0, 0, 0, 1]], (0.0, 0.0, 0.0, 0.0, 0.0, 1.5), 1.0, (1.0, 0.5)),
    # one pixel apart along the first axis, of 2 mm
    _Case([[1], [0]], [[0], [1]], (0.0, 0.0, 0.0, 0.0, 0.0, 2.0), 1.0, (2.0, 0.5)),
    # both masks empty: agreement; one empty: none, and no distance
    _Case([[0, 0, 0]], [[0, 0, 0]], (1.0, 1.0, 1.0, 1.0, 1.0, 0.0)),
    _Case([[0, 0, 0]], [[0, 1, 0]], (0.0, 0.0, 0.0, 0.0, 0.0, math.nan)),
    _Case([[0, 1, 0]], [[0, 0, 0]], (0.0, 0.0, 0.0, 0.0, 0.0, math.nan)),
)


def check_metrics(settings: Settings) -> Iterator[Remark]:
    """Whether the metrics give what was computed by hand, whatever is to be evaluated."""
    for number, case in enumerate(_CASES, 1):
        for name, found, wanted in zip(_NAMES, _scores(case), case.scores, strict=True):
            if not (abs(found - wanted) < 1e-6 or (math.isnan(found) and math.isnan(wanted))):
                yield Status.FAIL, f"{name} of case {number} is {found:g}, not {wanted:g}; reinstall monai-sa2va"
                return
    yield Status.PASS, f"{', '.join(_NAMES)} of {len(_CASES)} cases are as computed by hand"


def _scores(case: _Case) -> list[float]:
    pred, gt = case.predicted, case.truth
    return [
        float(score)
        for score in (
            calculate_dice(pred, gt),
            calculate_iou(pred, gt),
            *calculate_precision_recall(pred, gt),
            calculate_surface_dice(pred, gt, case.tolerance, case.spacing),
            calculate_hd95(pred, gt, case.spacing),
        )
    ]
