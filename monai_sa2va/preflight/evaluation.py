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

"""Checks before evaluation: truth, questions, thresholds, and number of patients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_sa2va.engines.truth import phrases_of
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.inferers.image import check_prompts
from monai_sa2va.preflight.data import check_files, read_section, scanned, summed
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings

__all__ = ["check_questions", "check_samples", "check_thresholds", "check_truth"]

_FEWEST = 10
_SHOWN = 3


def check_truth(settings: Settings) -> Iterator[Remark]:
    """Whether every case has its truth, its files fit, and the truth isn't empty."""
    if not settings.has("datalist"):
        return
    section = settings.value("section", "testing")
    entries = read_section(settings, settings.value("datalist"), section, must_exist=False)
    bare = [Path(entry[Keys.IMAGE]).name for entry in entries if not _has_truth(settings, entry)]
    if len(bare) == len(entries):
        yield Status.FAIL, f"{section}: no entry has a label and prompts; name them in the datalist"
        return
    if bare:
        yield (
            Status.WARN,
            f"{section}: {len(bare)} of {len(entries)} entries have no truth ({bare[0]}{', ...' if bare[1:] else ''}) "
            "and will not be scored; give them label and prompts",
        )
    found = scanned(settings)[section]
    if found.faults and found.images:
        # evaluation notes what can't be scored, and goes on
        yield Status.WARN, f"{section}: {summed(found.faults)}; what can't be read will not be scored"
    else:
        yield from check_files(settings)
    never = [name for name in found.asked if not found.shown[name]]
    if found.asked and not found.shown:
        yield Status.FAIL, f"{section}: all true masks are empty; correct the keys of the prompts"
    elif never:
        yield Status.WARN, f"{section}: the truth of {never[0]} is empty in all cases; correct its key, or leave it out"
    if found.empty and found.shown:
        names = ", ".join(list(dict.fromkeys(found.empty))[:_SHOWN])
        yield (
            Status.WARN,
            f"{section}: the labels of {len(found.empty)} of {found.images} cases hold no value of their prompts "
            f"({names}{', ...' if len(set(found.empty)) > _SHOWN else ''}), which then counts as not there; "
            "correct labels or keys, unless it is so",
        )
    if found.shown and not never:
        names = ", ".join(f"{name} in {count}" for name, count in found.shown.most_common(8))
        yield Status.PASS, f"{section}: {names} of {found.images}"


def check_questions(settings: Settings) -> Iterator[Remark]:
    """Whether what will be asked of each case are sentences that can be asked."""
    question = settings.value("question")
    sections: Mapping[str, Any] = settings.notes.get("sections", {})
    if question is None or not sections:
        return
    if not isinstance(question, str) or question.count("{}") != 1 or "{" in question.replace("{}", ""):
        yield Status.FAIL, f"question is {question!r}; give a sentence with one {{}} where the phrase goes"
        return
    absent = bool(settings.value("include_absent", True))
    asked = sorted(
        {phrase for entries in sections.values() for entry in entries for phrase in phrases_of(entry, absent)}
    )
    if asked:
        check_prompts([question.format(phrase) for phrase in asked])
        shown = ", ".join(asked[:8]) + (", ..." if len(asked) > 8 else "")
        yield Status.PASS, f"{question!r} for {shown}"


def check_thresholds(settings: Settings) -> Iterator[Remark]:
    """Whether tolerance, confidence and number of resamples lie in their ranges, and a summary can be made of them."""
    shown = []
    for key, fits, advice in (
        ("confidence", lambda value: 0 < value < 1, "a share between 0 and 1, such as 0.95"),
        ("surface_tolerance", lambda value: 0 <= value < math.inf, "0 or more, in mm"),
        ("resamples", lambda value: value >= 1 and value == int(value), "a whole number of at least 1, such as 1000"),
    ):
        value = settings.value(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not fits(value):
            yield Status.FAIL, f"{key} is {value!r}; give {advice}"
        else:
            shown.append(f"{key} {value:g}")
    settings.value("summary")
    if settings.has("network_def"):
        # which refuses one out of range when it is built
        presence = settings.value("network_def").config.presence_threshold
        shown.append("no presence_threshold" if presence is None else f"presence_threshold {presence:g}")
    if shown:
        yield Status.PASS, ", ".join(shown)


def check_samples(settings: Settings) -> Iterator[Remark]:
    """Whether there are enough patients for an interval to mean something."""
    sections: Mapping[str, Any] = settings.notes.get("sections", {})
    if not settings.has("dataset") or not any(sections.values()):
        return
    # as the run will have them, numbered by patient or group
    entries = getattr(settings.value("dataset"), "data", [])
    count = len({entry.get(Keys.GROUP, number) for number, entry in enumerate(entries)})
    shown = f"{len(entries)} images of {count} patients or groups"
    if count < _FEWEST:
        yield Status.WARN, f"{shown}; intervals of fewer than {_FEWEST} say little; add some"
    else:
        yield Status.PASS, shown


def _has_truth(settings: Settings, entry: Mapping[str, Any]) -> bool:
    """Whether an entry has a label for its prompts, or only says what isn't there."""
    if entry[Keys.PROMPTS]:
        return Keys.LABEL in entry
    return bool(entry[Keys.ABSENT]) and bool(settings.value("include_absent", True))
