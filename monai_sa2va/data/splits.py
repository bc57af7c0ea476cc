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
"""Splitting by group, so that pictures of one patient are never on both sides of a split."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence

from monai_sa2va.data.datalist import SECTIONS
from monai_sa2va.errors import DatalistError

__all__ = ["DEFAULT_SPLIT", "group_of", "parse_split", "split_by_fraction", "split_by_name"]

DEFAULT_SPLIT = (0.8, 0.1, 0.1)
"""Shares of training, validation and testing."""


def parse_split(text: str) -> tuple[float, ...]:
    """Shares from text such as ``"0.8/0.1/0.1"`` or ``"0.8/0.2"`` (then nothing is for testing).

    Raises:
        DatalistError: when it is not two or three numbers, or `split_by_fraction` can't take them.
    """
    try:
        fractions = tuple(float(part) for part in text.split("/"))
    except ValueError:
        fractions = ()
    return _check_fractions(fractions, text)


def group_of(name: str, pattern: str | None) -> str | None:
    """The group (patient) that a file belongs to.

    Args:
        name: path inside its folder, without suffix.
        pattern: a regular expression that is searched in the name: its first group is the answer, else all that it
            matches. ``None``: every file is its own group.

    Returns:
        The group's name, or ``None`` where the expression matches nothing.

    Raises:
        DatalistError: when the expression can't be compiled.
    """
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise DatalistError(f"group regex '{pattern}' is no regular expression: {error}") from error
    return (found[1] if found.re.groups else found[0]) if found else None


def split_by_fraction(
    groups: Iterable[str], fractions: Sequence[float] = DEFAULT_SPLIT, seed: int = 0
) -> dict[str, str]:
    """Give each group its section, at random.

    Numbers of groups are the shares rounded by largest remainder; a share above zero gets at least one group.

    Args:
        groups: names, in any order and as often as you like.
        fractions: two or three shares that sum to 1: of training, validation, testing.
        seed: the same groups, shares and seed give the same split.

    Returns:
        Group -> section.

    Raises:
        DatalistError: when the shares are no such numbers, or there are fewer groups than shares above zero.
    """
    fractions = _check_fractions(fractions, fractions)
    names = sorted(set(groups))
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(names) < wanted:
        raise DatalistError(
            f"{len(names)} group(s) can't be split into {wanted} sections; take a split like 1/0/0, or name groups"
        )
    # adding 1e-9 undoes the binary rounding of shares like 0.29 * 100
    counts = [math.floor(fraction * len(names) + 1e-9) for fraction in fractions]
    rest = [fraction * len(names) - count for fraction, count in zip(fractions, counts, strict=True)]
    for index in sorted(range(len(rest)), key=lambda i: -round(rest[i], 9))[: len(names) - sum(counts)]:
        counts[index] += 1
    for index, fraction in enumerate(fractions):
        if fraction > 0 and counts[index] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[index] = 1
    random.Random(seed).shuffle(names)
    sections = [section for section, count in zip(SECTIONS, counts, strict=False) for _ in range(count)]
    return dict(zip(names, sections, strict=True))


def split_by_name(
    groups: Iterable[str], validation: Iterable[str], testing: Iterable[str], include_patient: bool = False
) -> dict[str, str]:
    """Give the groups named their section, and all others to training.

    Args:
        groups: names, in any order and as often as you like.
        validation: names of those for validation.
        testing: names of those for testing.
        include_patient: whether an error lists the groups that there are, by which patients may be named.

    Returns:
        Group -> section.

    Raises:
        DatalistError: when a group named does not occur, or is named for both.
    """
    known = sorted(set(groups))
    named = {"validation": set(validation), "testing": set(testing)}
    both = sorted(named["validation"] & named["testing"])
    if both:
        raise DatalistError(f"group '{both[0]}' is named for validation and for testing")
    for section, names in named.items():
        unknown = sorted(names - set(known))
        if unknown:
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            others = f"there are {len(known)} groups, which include_patient lists"
            those = f"groups: {listed}" if include_patient else others
            raise DatalistError(f"{section} group '{unknown[0]}' does not occur; {those}")
    return {group: next((s for s, names in named.items() if group in names), "training") for group in known}


def _check_fractions(fractions: Sequence[float], given: object) -> tuple[float, ...]:
    usable = len(fractions) in (2, 3) and all(0 <= fraction <= 1 for fraction in fractions)
    if not usable or abs(sum(fractions) - 1) > 1e-6:
        raise DatalistError(f"split {given!r} has to be shares that sum to 1, like 0.8/0.1/0.1 or 0.8/0.2")
    return tuple(fractions)
