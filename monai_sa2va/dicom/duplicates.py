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
"""Frames that lie at one position: copies, repetitions that an attribute tells apart, or a contradiction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.frames import Candidate
from monai_sa2va.dicom.geometry import same_places
from monai_sa2va.dicom.headers import TIME_SEPARATORS, VALUE_SEPARATORS

__all__ = ["Separated", "separate"]

_TIMELIKE = ("AcquisitionNumber", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase")
_MILLISECONDS = ("TriggerTime", "FrameReferenceTime")


@dataclass(frozen=True, eq=False)
class Separated:
    """Frames without two at one position, or a cine of one position.

    Attributes:
        frames: of a cine in the order of time.
        cine: whether they are one.
        findings: why they are apart from others.
    """

    frames: list[Candidate]
    cine: bool = False
    findings: tuple[Finding, ...] = ()


def separate(frames: Sequence[Candidate], same_pixels: Callable[[Candidate, Candidate], bool]) -> list[Separated]:
    """Take frames of one orientation apart until no two lie at one position.

    An attribute tells repetitions apart where each of its values is one volume; of times, those of one position count
    in their order. Pixels are compared only where no attribute of a value does it.

    Args:
        frames: of one orientation.
        same_pixels: whether two frames show the same.

    Raises:
        DicomError: DUPLICATE_POSITION when frames with different pixels can't be told apart.
    """
    _check_instances(frames)
    if _most(frames) == 1:
        return [Separated(list(frames))]
    groups, used = _by_values(list(frames))
    done: list[Separated] = []
    copies = 0
    for group in groups:
        kept = _without_copies(group, same_pixels) if _most(group) > 1 else group
        copies += len(group) - len(kept)
        done += _by_time(kept)
    findings = [_handled(f"copies left out, of the same pixels: {copies}")] if copies else []
    if used:
        code = FindingCode.TWO_ACQUISITIONS if "AcquisitionNumber" in used else FindingCode.DUPLICATE_POSITION
        findings.append(_handled(f"several volumes at the same positions, told apart by {', '.join(used)}", code))
    return [replace(one, findings=(*findings, *one.findings)) for one in done]


def _most(frames: Sequence[Candidate]) -> int:
    return max(map(len, same_places(frames)))


def _check_instances(frames: Sequence[Candidate]) -> None:
    """Refuse two files of one instance: those with the same pixels were left out before."""
    names = {(one.frame.sop_instance_uid, one.frame.number) for one in frames}
    if len(names) < len(frames):
        raise _contradiction(f"files of the same instance as others, with other pixels: {len(frames) - len(names)}")


def _without_copies(
    frames: Sequence[Candidate], same_pixels: Callable[[Candidate, Candidate], bool]
) -> list[Candidate]:
    kept: list[Candidate] = []
    for place in same_places(frames):
        unlike: list[Candidate] = []
        for one in place:
            if not any(same_pixels(other, one) for other in unlike):
                unlike.append(one)
        kept += unlike
    return kept


def _by_values(frames: list[Candidate]) -> tuple[list[list[Candidate]], list[str]]:
    groups, used = [frames], []
    for keyword in VALUE_SEPARATORS:
        found: list[list[Candidate]] = []
        for group in groups:
            places = same_places(group)
            split: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
            for one in group:
                split[one.tags.get(keyword, ())].append(one)
            # more values than repetitions: it changes from slice to slice, as counters do
            splits = 1 < len(split) <= max(map(len, places)) and not (len(places) == 1 and keyword in _TIMELIKE)
            found += [split[value] for value in sorted(split, key=_natural)] if splits else [group]
            if splits and keyword not in used:
                used.append(keyword)
        groups = found
    return groups, used


def _by_time(frames: list[Candidate]) -> list[Separated]:
    places = same_places(frames)
    most = max(map(len, places))
    if most == 1:
        return [Separated(frames)]
    for keyword in (*_TIMELIKE, *TIME_SEPARATORS):
        times = {id(one): _time(keyword, one) for one in frames}
        if any(time is None for time in times.values()) or min(map(len, places)) != most:
            continue
        if any(len({times[id(one)] for one in place}) < most for place in places):
            continue
        ranked = [sorted(place, key=lambda one: times[id(one)] or 0.0) for place in places]
        if len(places) == 1:
            return [Separated(_timed(ranked[0], keyword, times), cine=True)]
        told = _handled(f"{most} volumes one after another at the same positions, told apart by {keyword}")
        return [Separated([place[k] for place in ranked], findings=(told,)) for k in range(most)]
    extra = sum(len(place) - 1 for place in places)
    raise _contradiction(
        f"frames that lie where others do, with other pixels, and that no attribute tells apart: {extra}"
    )


def _timed(frames: list[Candidate], keyword: str, times: dict[int, float | None]) -> list[Candidate]:
    if keyword in _TIMELIKE:
        return frames
    start = times[id(frames[0])] or 0.0
    return [replace(one, frame=replace(one.frame, seconds=(times[id(one)] or 0.0) - start)) for one in frames]


def _time(keyword: str, one: Candidate) -> float | None:
    """Seconds, or a number that grows with time."""
    text = next(iter(one.tags.get(keyword, ())), "")
    digits = text.partition("+")[0].replace(":", "")
    try:
        value = float(digits)
        if keyword in _MILLISECONDS and len(digits.partition(".")[0]) < 14:
            return value / 1000
        if keyword in _TIMELIKE:
            return value
        dated = len(digits.partition(".")[0]) >= 14
        days = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).toordinal() if dated else 0
        clock = digits[8:] if dated else digits
        return days * 86400 + int(clock[:2]) * 3600 + int(clock[2:4] or 0) * 60 + float(clock[4:] or 0)
    except ValueError:
        return None


def _natural(values: tuple[str, ...]) -> tuple[tuple[int, float, str], ...]:
    """Numbers by size, before words."""
    key = []
    for value in values:
        try:
            key.append((0, float(value), ""))
        except ValueError:
            key.append((1, 0.0, value))
    return tuple(key)


def _handled(message: str, code: FindingCode = FindingCode.DUPLICATE_POSITION) -> Finding:
    return Finding(code, Severity.HANDLED, message)


def _contradiction(message: str) -> DicomError:
    return DicomError(Finding(FindingCode.DUPLICATE_POSITION, Severity.REFUSED, message))
