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
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.presence import (
    auc,
    choose_threshold,
    expected_calibration_error,
    fit_presence,
    reliability,
    roc_curve,
    to_presence,
)


def test_presence_is_a_sigmoid_and_stable() -> None:
    np.testing.assert_allclose(to_presence([0.0, math.log(3), -math.log(3)]), [0.5, 0.75, 0.25])
    np.testing.assert_allclose(to_presence([2.0], scale=0.5, bias=-1.0), [0.5])
    assert to_presence([1e4, -1e4]).tolist() == [1.0, 0.0]


class TestThreshold:
    def test_in_the_middle_of_a_gap(self) -> None:
        assert choose_threshold([-3, -1, 2, 5], [False, False, True, True]) == 0.5

    def test_an_outlier_may_be_emptied_for_the_sake_of_the_absent(self) -> None:
        """49 of 50 are above 4; one lies at -2, among absent ones at -5, -1 and 1."""
        scores = [-2.0, *[4.0] * 49, -5.0, -1.0, 1.0]
        there = [True] * 50 + [False] * 3
        assert choose_threshold(scores, there, 0.02) == 2.5
        # no outlier may be emptied: the middle of -5 and -2
        assert choose_threshold(scores, there, 0.0) == -3.5

    def test_as_few_of_those_present_as_the_same_absent_ones_need(self) -> None:
        """Two of four may be emptied; nothing absent lies between 1 and 7, so only the one at 0 is."""
        assert choose_threshold([0, 2, 7, 9, -1, 1], [True] * 4 + [False] * 2, 0.5) == 1.5

    def test_where_none_can_be_emptied(self) -> None:
        assert choose_threshold([1, 2, 3, 4], [True, True, False, False], 0.0) == 1

    @given(
        st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
            lambda rows: 0 < sum(there for _, there in rows) < len(rows)
        ),
        st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    )
    def test_no_other_threshold_is_better(self, rows: list[tuple[int, bool]], limit: float) -> None:
        shown, missing = ([score for score, there in rows if there is kind] for kind in (True, False))

        def emptied(cut: float) -> tuple[int, int]:
            return sum(score < cut for score in missing), -sum(score < cut for score in shown)

        cuts = [number / 2 for number in range(-12, 13)]
        best = max(emptied(cut) for cut in cuts if -emptied(cut)[1] <= limit * len(shown))
        found = choose_threshold([score for score, _ in rows], [there for _, there in rows], limit)
        assert emptied(found) == best

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_bad_share(self, share: float) -> None:
        with pytest.raises(ConfigError, match="max_emptied is"):
            choose_threshold([0, 1], [False, True], share)


class TestCurves:
    def test_roc_with_ties_by_hand(self) -> None:
        false, hits = roc_curve([3, 2, 2, 1], [True, True, False, False])
        assert false.tolist() == [0, 0, 0.5, 1]
        assert hits.tolist() == [0, 0.5, 1, 1]
        # of four pairs three are right and one is a tie
        assert auc([3, 2, 2, 1], [True, True, False, False]) == 0.875

    def test_reliability_by_hand(self) -> None:
        first, second = reliability([0.0, 0.1, 0.75, 0.95, 1.0], [False, True, True, True, False], bins=2)
        assert (first.low, first.high, first.count, first.presence, first.observed) == (0, 0.5, 2, 0.05, 0.5)
        assert (second.count, second.observed) == (3, pytest.approx(2 / 3))
        assert second.presence == pytest.approx(0.9)
        assert expected_calibration_error([first, second]) == pytest.approx((2 * 0.45 + 3 * (0.9 - 2 / 3)) / 5)
        with pytest.raises(ConfigError, match="bins is 0"):
            reliability([0.5], [True], bins=0)

    @pytest.mark.parametrize(
        ("scores", "there", "message"),
        [
            ([0, 1], [True, True], "2 objects are there and 0 are not"),
            ([0, 1], [True], r"\(2,\) scores and \(1,\) truths"),
            ([0, math.nan], [True, False], "not finite"),
        ],
    )
    def test_refusals(self, scores: list[float], there: list[bool], message: str) -> None:
        with pytest.raises(DataError, match=message):
            roc_curve(scores, there)


class TestCalibration:
    def test_two_points_are_met_exactly(self) -> None:
        """At 1, 4 of 6 are there, at -1 1 of 4: the fit has two numbers, and meets both of Platt's shares."""
        scores = [1.0] * 6 + [-1.0] * 4
        there = [True] * 4 + [False] * 2 + [True] + [False] * 3
        fit = fit_presence(scores, there)
        high, low = 6 / 7, 1 / 7  # five are there, five are not
        wanted = [(4 * high + 2 * low) / 6, (high + 3 * low) / 4]
        np.testing.assert_allclose(to_presence([1.0, -1.0], fit.scale, fit.bias), wanted, atol=1e-9)

    def test_a_perfect_score_stays_finite(self) -> None:
        there = [True] * 8 + [False] * 8
        fit = fit_presence([3.0] * 8 + [-3.0] * 8, there)
        np.testing.assert_allclose(to_presence([3.0, -3.0], fit.scale, fit.bias), [0.9, 0.1], atol=1e-9)
        assert fit.threshold == pytest.approx(0.5)
        assert (fit.emptied_present, fit.emptied_absent, fit.auc) == (0, 1, 1)

    def test_temperature_has_no_offset_and_none_leaves_alone(self) -> None:
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 2, 4000)
        there = rng.random(4000) < 1 / (1 + np.exp(-logits))
        warm = fit_presence(logits * 5, there, "temperature")
        assert warm.bias == 0
        assert warm.scale == pytest.approx(0.2, rel=0.06)
        shifted = fit_presence(logits * 5 - 3, there, "platt")
        assert shifted.scale == pytest.approx(0.2, rel=0.06)
        assert shifted.bias == pytest.approx(0.6, abs=0.1)
        bare = fit_presence(logits, there, "none")
        assert (bare.scale, bare.bias) == (1, 0)

    def test_the_threshold_is_of_the_calibrated_presence(self) -> None:
        scores, there = [-3.0, -1.0, 2.0, 5.0] * 10, [False, False, True, True] * 10
        fit = fit_presence(scores, there)
        assert fit.threshold == pytest.approx(float(to_presence(0.5, fit.scale, fit.bias)))

    def test_scores_that_say_nothing_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"no higher where the object is there \(area .* 0\.00\)"):
            fit_presence([1, 2, 3, 4], [True, True, False, False])
        with pytest.raises(DataError, match=r"0\.50"):
            fit_presence([1, 1], [True, False])
        with pytest.raises(ConfigError, match="calibration is 'isotonic'; allowed: platt, temperature, none"):
            fit_presence([1, 2], [False, True], "isotonic")
