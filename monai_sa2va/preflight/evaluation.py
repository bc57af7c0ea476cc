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

"""Checks before evaluation: truth, thresholds, number of samples, and the metrics themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from monai_sa2va.data.patients import patient_of
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.metrics.functional import calculate_dice, calculate_iou, calculate_precision_recall
from monai_sa2va.preflight.data import check_files, read_section, scanned
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings

__all__ = ["check_metrics", "check_samples", "check_thresholds", "check_truth"]

_FEWEST = 10
_SHARES = ("confidence", "presence_threshold", "threshold")
_DISTANCES = ("surface_tolerance",)
_COUNTS = ("resamples",)
# prediction, truth, and Dice, IoU, precision and recall of them by hand
_CASES = (
    ([[1, 1, 0, 0]], [[0, 1, 1, 1]], (2 / 5, 1 / 4, 1 / 2, 1 / 3)),
    ([[1, 0], [0, 1]], [[1, 0], [0, 1]], (1.0, 1.0, 1.0, 1.0)),
    ([[1, 0, 0]], [[0, 1, 1]], (0.0, 0.0, 0.0, 0.0)),
    ([[0, 0, 0]], [[0, 0, 0]], (1.0, 1.0, 1.0, 1.0)),
    ([[0, 0, 0]], [[0, 1, 0]], (0.0, 0.0, 0.0, 0.0)),
    ([[0, 1, 0]], [[0, 0, 0]], (0.0, 0.0, 0.0, 0.0)),
)


def check_truth(settings: Settings) -> Iterator[Remark]:
    """Whether every case has its truth, its files fit, and the truth isn't empty."""
    if not settings.has("datalist"):
        return
    section = settings.value("section", "testing")
    path = settings.value("resolved_datalist") if settings.has("resolved_datalist") else settings.value("datalist")
    entries = read_section(settings, path, section)
    bare = [Path(entry[Keys.IMAGE]).name for entry in entries if not (entry.get(Keys.LABEL) and entry[Keys.PROMPTS])]
    if len(bare) == len(entries):
        yield Status.FAIL, f"{section}: no entry has a label and prompts; name them in the datalist"
        return
    if bare:
        yield Status.WARN, f"{section}: {len(bare)} of {len(entries)} entries have no truth ({bare[0]}, ...)"
    yield from check_files(settings)
    found = scanned(settings)[section]
    never = [name for name in found.asked if not found.shown[name]]
    if found.asked and not found.shown:
        yield Status.FAIL, f"{section}: all true masks are empty; correct the keys of the prompts"
    elif never:
        yield Status.WARN, f"{section}: the truth of {never[0]} is empty in all cases; correct its key, or leave it out"
    else:
        names = ", ".join(f"{name} in {count}" for name, count in found.shown.most_common(8))
        yield Status.PASS, f"{section}: {names} of {found.images}"


def check_thresholds(settings: Settings) -> Iterator[Remark]:
    """Whether thresholds, tolerances and counts lie in their ranges."""
    ranges = [(_SHARES, 0.0, 1.0), (_DISTANCES, 0.0, math.inf), (_COUNTS, 1.0, math.inf)]
    shown = []
    for keys, low, high in ranges:
        for key in keys:
            value = settings.value(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                upper = f" to {high:g}" if math.isfinite(high) else " or more"
                yield Status.FAIL, f"{key} is {value!r}; give {low:g}{upper}"
            else:
                shown.append(f"{key} {value:g}")
    if shown:
        yield Status.PASS, ", ".join(shown)


def check_samples(settings: Settings) -> Iterator[Remark]:
    """Whether there are enough cases for an interval to mean something."""
    for section, entries in settings.notes.get("sections", {}).items():
        count = len({patient_of(entry, f"{section}[{n}]") or n for n, entry in enumerate(entries)})
        if count < _FEWEST:
            yield (
                Status.WARN,
                f"{section}: {count} independent cases; intervals of fewer than {_FEWEST} say little; add some",
            )
        else:
            yield Status.PASS, f"{section}: {len(entries)} cases"


def check_metrics(settings: Settings) -> Iterator[Remark]:
    """Whether the metrics give what was computed by hand, empty masks among it."""
    for number, (prediction, truth, expected) in enumerate(_CASES, 1):
        found = (
            calculate_dice(prediction, truth),
            calculate_iou(prediction, truth),
            *calculate_precision_recall(prediction, truth),
        )
        for name, got, wanted in zip(("Dice", "IoU", "precision", "recall"), found, expected, strict=True):
            if abs(float(got) - wanted) > 1e-6:
                yield (
                    Status.FAIL,
                    f"{name} of case {number} is {float(got):g}, not {wanted:g}; reinstall monai-sa2va",
                )
                return
    yield Status.PASS, f"Dice, IoU, precision and recall of {len(_CASES)} cases are as computed by hand"
