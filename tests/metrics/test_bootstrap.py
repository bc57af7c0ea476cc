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
from typing import Any

import numpy as np
import pytest

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.bootstrap import Interval, bootstrap_mean


def test_two_patients_by_hand() -> None:
    # the resamples are aa (1 in 4, mean 0), ab (1 in 2, mean 3/4 of objects) and bb (1 in 4, mean 1)
    values, groups = [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]
    assert bootstrap_mean(values, groups) == Interval(0.75, 0.0, 1.0)
    assert bootstrap_mean(values, groups, confidence=0.4) == Interval(0.75, 0.75, 0.75)


def test_patients_are_drawn_and_not_objects() -> None:
    # 40 objects of two patients: drawn by object, the mean would hardly leave 0.5
    values, groups = [0.0] * 20 + [1.0] * 20, [1] * 20 + [2] * 20
    assert bootstrap_mean(values, groups) == Interval(0.5, 0.0, 1.0)
    by_object = bootstrap_mean(values, range(40))
    assert 0.3 < by_object.low < 0.5 < by_object.high < 0.7


def test_expected_numbers_of_a_seed() -> None:
    values, groups = [0.2, 0.4, 0.9, 0.7, 0.5], [1, 1, 2, 3, 4]
    # counts of each of the four groups in the first five draws of this seed
    drawn = np.random.default_rng(7).multinomial(4, [0.25] * 4, size=5)
    means = [(0.6 * a + 0.9 * b + 0.7 * c + 0.5 * d) / (2 * a + b + c + d) for a, b, c, d in drawn]
    found = bootstrap_mean(values, groups, resamples=5, confidence=0.5, seed=7)
    # of five means in order, the quartiles are the second and the fourth
    assert found == pytest.approx((0.54, *np.sort(means)[[1, 3]]))
    assert bootstrap_mean(values, groups, seed=7) == bootstrap_mean(values, groups, seed=7)
    # groups 1, 1, 1, 3 have the mean (3 * 0.6 + 0.7) / 7, groups 2, 2, 3, 3 have 0.8
    assert bootstrap_mean(values, groups, seed=7) == pytest.approx((0.54, 2.5 / 7, 0.8))
    few = [bootstrap_mean(values, groups, resamples=5, confidence=0.5, seed=seed) for seed in (7, 8)]
    assert few[0] != few[1]


def test_each_stratum_counts_the_same() -> None:
    values, groups, strata = [1.0, 1.0, 1.0, 0.0], [1, 1, 2, 2], ["vessels", "vessels", "vessels", "disc"]
    # drawn 1, 1: no disc, so 1; 1, 2: (1 + 0) / 2; 2, 2: the same
    assert bootstrap_mean(values, groups, strata) == Interval(0.5, 0.5, 1.0)
    assert bootstrap_mean(values, groups).mean == 0.75


def test_one_patient_has_no_interval() -> None:
    found = bootstrap_mean([0.5, 1.0], [1, 1])
    assert found.mean == 0.75
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_nothing_has_no_mean() -> None:
    assert all(math.isnan(value) for value in bootstrap_mean([], []))


@pytest.mark.parametrize(
    ("error", "match", "changed"),
    [
        (ConfigError, "resamples is 0", {"resamples": 0}),
        (ConfigError, "confidence is 95", {"confidence": 95}),
        *((ConfigError, f"seed of the bootstrap is {seed!r}", {"seed": seed}) for seed in (-1, 0.5, "x", None, True)),
        (ConfigError, "confidence is 0", {"confidence": 0}),
        (DataError, "2 values, 1 groups", {"groups": [1]}),
        (DataError, "3 strata", {"strata": [1, 2, 3]}),
        (DataError, "hold NaN", {"values": [math.nan, 1.0]}),
    ],
)
def test_bad_arguments(error: type[Exception], match: str, changed: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        bootstrap_mean(**{"values": [0.0, 1.0], "groups": [1, 2], **changed})
