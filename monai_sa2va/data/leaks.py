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
"""Whether names tell that images of one patient were split: both eyes, or the frames of one video."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from monai_sa2va.data.splits import group_of

__all__ = ["leak_between_sections"]

_INDEX = r"(?:[-_. ]+\d+|[-_. ]*\(\d+\))$"
_MARK = re.compile(
    r"(?i:(?<![a-z])(?:od|os|left|right|[lr])(?![a-z0-9]))|(?<=[a-z])(?:OD|OS|Left|Right|[LR])(?![A-Za-z0-9])"
)
_SIDES = ({"l", "r"}, {"od", "os"}, {"left", "right"})


def leak_between_sections(section_of: Mapping[str, str], include_patient: bool = False) -> str | None:
    """A warning where names that differ only by a side of the body or a trailing number are in different sections.

    A side is L and R, OD and OS, or left and right, wherever it stands; it counts where names with both occur. A
    trailing number is ``_001``, ``-2`` or ``(3)``; where all names are alike but for it, it tells nothing.

    Args:
        section_of: name of an image -> its section, when no regular expression told which are one patient's.
        include_patient: whether the line has the images' folders, too, which may name patients.

    Returns:
        One line that names two such images and, where one can be made, the regular expression that keeps them
        together; ``None`` where nothing leaks.
    """
    family_of, marks = _families(section_of)
    families = defaultdict(list)
    for name, family in family_of.items():
        families[family].append(name)
    split = [names for names in families.values() if len({section_of[name] for name in names}) > 1]
    if not split:
        return None
    first = split[0][0]
    other = next(name for name in split[0] if section_of[name] != section_of[first])
    pattern = _pattern(family_of, marks)
    remedy = f"--group-regex '{pattern}'" if pattern else "a --group-regex whose first (...) matches the patient"
    shown = [name if include_patient else PurePosixPath(name).name for name in (first, other)]
    return (
        f"{shown[0]} ({section_of[first]}) and {shown[1]} ({section_of[other]}) may be one patient's, which makes "
        f"scores too good ({len(split)} such group(s) are split); to keep them together give {remedy}"
    )


def _families(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Name -> what is left of it without side and trailing number, and the sides as they are written."""
    names = sorted(names)
    found = {name: [*_MARK.finditer(name)][-1:] for name in names}
    seen = {mark[0].casefold() for marks in found.values() for mark in marks}
    both = set().union(*(pair for pair in _SIDES if pair <= seen))
    # each name as what stands before its side, the side, and the rest
    parts = {name: (name, "", "") for name in names}
    for name, marks in found.items():
        for mark in marks:
            if mark[0].casefold() in both:
                parts[name] = (name[: mark.start()].rstrip("-_. /("), mark[0], name[mark.end() :])
    numbered = {name: before + after for name, (before, _, after) in parts.items()}
    family_of = {
        # of 01L the number is the patient, of 01L_2 the second one is not
        name: before + re.sub(_INDEX, "", after) if both else re.sub(_INDEX, "", before)
        for name, (before, _, after) in parts.items()
    }
    # image_001 to image_400 are as likely 400 patients
    if len(set(family_of.values())) == 1:
        family_of = numbered
    return family_of, sorted({side for _, side, _ in parts.values() if side})


def _pattern(family_of: Mapping[str, str], marks: list[str]) -> str | None:
    """The first of some plain regular expressions that finds just these families."""
    candidates = [
        r"^(.+?)[-_. ]+\d+$",
        r"^(.+?)[-_. ]*\(\d+\)$",
        rf"^(.+?){_INDEX}",
        rf"^(.+?){_INDEX[:-1]}?$",
    ]
    if marks:
        mark = f"[{''.join(marks)}]" if all(len(m) == 1 for m in marks) else f"(?:{'|'.join(marks)})"
        word = rf"(?<![A-Za-z]){mark}(?![A-Za-z0-9])"
        candidates = [
            rf"(\d+){mark}",
            rf"^(.+?)[-_. /]*{mark}$",
            rf"^(.+?)[-_. /]*{mark}?$",
            rf"^(.+?)[-_. /]*{mark}",
            rf"{mark}[-_. /]*(.+)$",
            rf"^(.+?)[-_. /]*{word}",
            rf"{word}[-_. /]*(.+)$",
            rf"{word}[-_. /]*(.+?){_INDEX}",
        ]
    for candidate in candidates:
        groups = {name: group_of(name, candidate) for name in family_of}
        pairs = {(family_of[name], group) for name, group in groups.items()}
        if None not in groups.values() and len(pairs) == len(set(family_of.values())) == len(set(groups.values())):
            return candidate
    return None
