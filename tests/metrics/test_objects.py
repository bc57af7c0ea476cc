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

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_sa2va.errors import DataError
from monai_sa2va.metrics.objects import score_object

MASK = np.zeros((5, 5), dtype=bool)
MASK[1:3, 1:3] = True
MORE = MASK.copy()
MORE[1:3, 3] = True
EMPTY = np.zeros((5, 5), dtype=bool)


def test_all_scores_of_one_object() -> None:
    score = score_object(MORE, MASK, "vessels", 3, tolerance=1.0, spacing=(1.0, 2.0))
    assert (score.prompt, score.group, score.truth_voxels, score.predicted_voxels) == ("vessels", 3, 4, 6)
    assert (score.dice, score.iou) == pytest.approx((8 / 10, 4 / 6))
    assert (score.precision, score.recall) == pytest.approx((4 / 6, 1.0))
    # all 4 and 6 pixels are outline; the two added ones are 2 mm off
    assert score.surface_dice == pytest.approx(8 / 10)
    assert score.hd95 == pytest.approx(2.0)
    assert score.unit == "mm"
    assert score_object(MORE, MASK, "vessels", 3, tolerance=1.0).unit == "pixel"


@pytest.mark.parametrize(
    ("pred", "gt", "present", "false_empty", "false_positive", "value"),
    [
        (MASK, MASK, True, False, False, 1.0),
        (EMPTY, MASK, True, True, False, 0.0),
        (MASK, EMPTY, False, False, True, 0.0),
        (EMPTY, EMPTY, False, False, False, 1.0),
    ],
)
def test_what_is_false(
    pred: np.ndarray, gt: np.ndarray, present: bool, false_empty: bool, false_positive: bool, value: float
) -> None:
    score = score_object(pred, gt, "vessels", 1, tolerance=0.0)
    assert (score.present, score.false_empty, score.false_positive) == (present, false_empty, false_positive)
    assert [score.dice, score.iou, score.precision, score.recall, score.surface_dice] == [value] * 5
    assert math.isnan(score.hd95) if value == 0 else score.hd95 == 0


def test_other_grids_are_refused() -> None:
    with pytest.raises(DataError, match="give one grid"):
        score_object(MASK, MASK[:4], "vessels", 1, tolerance=0.0)
