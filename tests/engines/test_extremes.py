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

import pytest

from monai_sa2va.engines.extremes import pick_cases
from monai_sa2va.metrics.objects import ObjectScore
from monai_sa2va.writers.evaluation import CaseRow


def row(case: int, dice: float, truth: int = 5) -> CaseRow:
    score = ObjectScore("liver", 1, truth, 5, dice, dice, dice, dice, dice, 0.0, "mm")
    return CaseRow(case, f"{case}.png", 1, "liver", score)


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ([], {}),
        ([0.5], {"best": 1}),
        ([0.2, 0.8], {"best": 2, "worst": 1}),
        ([0.2, 0.8, 0.5], {"best": 2, "median": 3, "worst": 1}),
        ([0.2, 0.8, 0.5, 0.6], {"best": 2, "median": 3, "worst": 1}),
        # of equals, the first
        ([0.9, 0.9, 0.1, 0.5, 0.5], {"best": 1, "median": 4, "worst": 3}),
    ],
)
def test_best_median_and_worst(dices: list[float], expected: dict[str, int]) -> None:
    picked = pick_cases([row(number, dice) for number, dice in enumerate(dices, 1)])
    assert {name: found.case for name, found in picked.items()} == expected


def test_only_what_is_there_and_was_scored() -> None:
    rows = [row(1, 1.0, truth=0), CaseRow(2, "2.png", 1, "liver", error="torn"), row(3, 0.4)]
    assert {name: found.case for name, found in pick_cases(rows).items()} == {"best": 3}
