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

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.data.splits import group_of, parse_split, split_by_fraction, split_by_name
from monai_sa2va.errors import DatalistError


@pytest.mark.parametrize(
    ("pattern", "group"),
    [(None, "p7/Image_01L"), (r"(\d+)[LR]", "01"), (r"\d+[LR]", "01L"), (r"^(.+?)/", "p7"), (r"x(\d)", None)],
)
def test_the_group_is_what_the_expression_finds(pattern, group):
    assert group_of("p7/Image_01L", pattern) == group


def test_a_broken_expression_is_named():
    with pytest.raises(DatalistError, match=r"group regex '\(' is no regular expression"):
        group_of("a", "(")


def test_shares_are_read_from_text():
    assert parse_split("0.8/0.1/0.1") == (0.8, 0.1, 0.1)
    assert parse_split("0.75/0.25") == (0.75, 0.25)


@pytest.mark.parametrize("text", ["", "1", "0.8/0.3", "a/b", "0.5/0.5/0.5/-0.5", "1.5/-0.5", "80/10/10", "nan/0.5/0.5"])
def test_shares_that_do_not_sum_to_one_are_refused(text):
    with pytest.raises(DatalistError, match="has to be shares that sum to 1"):
        parse_split(text)


@pytest.mark.parametrize(
    ("count", "fractions", "expected"),
    [
        (14, (0.8, 0.1, 0.1), (11, 2, 1)),  # 11.2, 1.4, 1.4
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (100, (0.29, 0.71), (29, 71, 0)),
        (5, (1, 0, 0), (5, 0, 0)),
        (4, (0, 0, 1), (0, 0, 4)),
    ],
)
def test_numbers_of_groups_are_rounded_shares(count, fractions, expected):
    split = Counter(split_by_fraction([f"g{i}" for i in range(count)], fractions).values())
    assert (split["training"], split["validation"], split["testing"]) == expected


@given(
    groups=st.lists(st.text(max_size=4), min_size=3, max_size=40, unique=True),
    weights=st.tuples(*[st.integers(0, 9)] * 3).filter(any),
    seed=st.integers(0, 99),
)
def test_every_group_has_one_section_and_every_share_some_group(groups, weights, seed):
    fractions = [weight / sum(weights) for weight in weights]
    split = split_by_fraction(groups, fractions, seed)
    assert split == split_by_fraction([*groups[::-1], *groups], fractions, seed)
    assert set(split) == set(groups)
    counts = Counter(split.values())
    for section, fraction in zip(("training", "validation", "testing"), fractions, strict=True):
        assert (counts[section] > 0) == (fraction > 0)
        assert abs(counts[section] - fraction * len(groups)) < 3


def test_the_seed_decides():
    groups = [f"g{i}" for i in range(20)]
    assert split_by_fraction(groups, seed=0) == split_by_fraction(groups, seed=0)
    assert split_by_fraction(groups, seed=0) != split_by_fraction(groups, seed=1)


def test_too_few_groups_are_refused():
    with pytest.raises(DatalistError, match=r"2 group\(s\) can't be split into 3 sections"):
        split_by_fraction(["a", "b", "a"])


def test_groups_are_named():
    split = split_by_name(["01", "02", "03", "01"], validation=["02"], testing=["03"])
    assert split == {"01": "training", "02": "validation", "03": "testing"}


def test_groups_that_do_not_occur_or_occur_twice_are_refused():
    with pytest.raises(DatalistError, match=r"testing group '3' does not occur; groups: 01, 02, 03$"):
        split_by_name(["01", "02", "03"], validation=[], testing=["3"], include_patient=True)
    with pytest.raises(
        DatalistError, match=r"group '3' does not occur; there are 3 groups, which include_patient lists$"
    ):
        split_by_name(["01", "02", "03"], validation=[], testing=["3"])
    with pytest.raises(DatalistError, match="group '01' is named for validation and for testing"):
        split_by_name(["01", "02"], validation=["01"], testing=["01"])
