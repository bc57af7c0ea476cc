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

"""Confidence intervals by bootstrap over patients: objects of one patient are not independent of each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from monai_sa2va.errors import ConfigError, DataError

__all__ = ["Interval", "bootstrap_mean", "check_bootstrap"]


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: of all values; NaN where there is none.
        low: lower end of the interval; NaN with fewer than two groups, which tell nothing of how groups differ.
        high: upper end; likewise.
    """

    mean: float
    low: float
    high: float


def check_bootstrap(resamples: int, confidence: float, seed: int = 0) -> None:
    """Refuse settings that give no interval.

    Raises:
        ConfigError: when ``resamples`` is less than 1, ``confidence`` isn't between 0 and 1, or ``seed`` is no whole
            number of at least 0.
    """
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; at least 1 is needed, better 1000")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; give a share between 0 and 1, such as 0.95")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed of the bootstrap is {seed!r}; give a whole number of at least 0")


def bootstrap_mean(
    values: Sequence[float],
    groups: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of values, and the percentile interval of its bootstrap over groups.

    Each resample draws as many groups as there are, with replacement, each with all of its values.

    Args:
        values: N finite numbers.
        groups: N patients, one a value.
        strata: N prompts, one a value: the mean is then the mean over strata of the mean in each. A stratum that a
            resample holds no value of doesn't count in that resample.
        resamples: how many are drawn.
        confidence: share of the resamples' means that the interval holds, 0 to 1.
        seed: the same input and seed give the same interval.

    Raises:
        ConfigError: when ``resamples``, ``confidence`` or ``seed`` can't be used.
        DataError: when lengths differ or a value isn't finite.

    Example:
        >>> bootstrap_mean([0.0, 1.0], ["a", "b"])
        Interval(mean=0.5, low=0.0, high=1.0)
    """
    check_bootstrap(resamples, confidence, seed)
    strata = [0] * len(values) if strata is None else strata
    if not len(values) == len(groups) == len(strata):
        raise DataError(f"{len(values)} values, {len(groups)} groups and {len(strata)} strata; give one each")
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise DataError("values hold NaN or infinity; leave those out, and count them")
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan)
    columns, rows = _numbered(groups), _numbered(strata)
    size = (max(rows) + 1, max(columns) + 1)
    sums, counts = np.zeros(size), np.zeros(size)
    np.add.at(sums, (rows, columns), numbers)
    np.add.at(counts, (rows, columns), 1)
    mean = _mean_of_strata(sums, counts, np.ones((1, size[1])))[0]
    if size[1] < 2:
        return Interval(mean, np.nan, np.nan)
    # how often each group is drawn
    drawn = np.random.default_rng(seed).multinomial(size[1], np.full(size[1], 1 / size[1]), size=resamples)
    means = _mean_of_strata(sums, counts, drawn.astype(np.float64))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(mean), float(low), float(high))


def _mean_of_strata(sums: np.ndarray, counts: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(resamples,) from sums and counts (strata, groups) and how often each group was drawn (resamples, groups)."""
    totals, numbers = drawn @ sums.T, drawn @ counts.T
    held = numbers > 0
    means = np.divide(totals, numbers, out=np.zeros_like(totals), where=held)
    # every group has a value, so every resample has a stratum
    result: np.ndarray = means.sum(axis=1) / held.sum(axis=1)
    return result


def _numbered(names: Sequence[Hashable]) -> list[int]:
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [order[name] for name in names]
