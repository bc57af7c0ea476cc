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
"""How frames lie to each other, by their positions and orientations alone."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from monai_sa2va.dicom.findings import Finding, FindingCode, Severity
from monai_sa2va.dicom.frames import Candidate
from monai_sa2va.dicom.series import Layout

__all__ = [
    "EVEN_SHARE",
    "SAME_DIRECTION",
    "SAME_PLACE_MM",
    "TILT_DEGREES",
    "along_normal",
    "arrange",
    "by_orientation",
    "same_places",
]

SAME_DIRECTION = 1e-4
"""Largest difference of direction cosines of one orientation: files round to four digits."""
SAME_PLACE_MM = 0.01
"""Frames nearer to each other than this are at one position."""
EVEN_SHARE = 0.01
"""How far a frame may lie from where even steps would put it, in steps; highdicom's tolerance."""
TILT_DEGREES = 0.1
"""Angle between the way the frames go and their normal, above which the gantry counts as tilted."""


def along_normal(frames: Sequence[Candidate]) -> tuple[list[Candidate], np.ndarray]:
    """Frames of one orientation in the order of their positions along the normal, and these heights, mm."""
    first = frames[0].frame.orientation
    assert first is not None
    normal = np.cross(first[:3], first[3:])
    heights = _positions(frames) @ (normal / np.linalg.norm(normal))
    # the UID settles what positions don't, so that no result depends on the order of files
    order = sorted(range(len(frames)), key=lambda i: (heights[i], _identity(frames[i])))
    return [frames[i] for i in order], heights[order]


def by_orientation(frames: Sequence[Candidate]) -> list[list[Candidate]]:
    """Frames grouped by orientation, the largest group first."""
    groups: list[list[Candidate]] = []
    for one in sorted(frames, key=_identity):
        home = next((group for group in groups if _parallel(group[0], one)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    return sorted(groups, key=lambda group: -len(group))


def same_places(frames: Sequence[Candidate]) -> list[list[Candidate]]:
    """Frames of one orientation grouped by position, in the order of their positions."""
    ordered, heights = along_normal(frames)
    groups: list[tuple[float, list[Candidate]]] = []
    for height, one in zip(heights, ordered, strict=True):
        low = bisect.bisect_right(groups, height - SAME_PLACE_MM, key=_first_of_pair)
        home = next((group for _, group in groups[low:] if _apart(group[0], one) < SAME_PLACE_MM), None)
        if home is None:
            groups.append((float(height), [one]))
        else:
            home.append(one)
    return [group for _, group in groups]


def arrange(frames: Sequence[Candidate]) -> tuple[list[Candidate], Layout, np.ndarray | None, list[Finding]]:
    """Order frames of one orientation, no two of them at one position.

    Returns:
        The frames in order, their layout, the affine (x, y, z, 1) -> LPS in mm, and what is irregular.
    """
    ordered, heights = along_normal(frames)
    positions = _positions(ordered)
    if len(ordered) == 1:
        return ordered, Layout.PICTURE, _affine(ordered[0], _own_step(ordered[0])), []
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    expected = positions[0] + np.arange(len(ordered))[:, None] * step
    height = float(heights[-1] - heights[0]) / (len(ordered) - 1)
    findings = _tilt(step, height)
    off = np.linalg.norm(positions - expected, axis=1).max()
    if height > 0 and off <= max(EVEN_SHARE * height, 1e-6):
        return ordered, Layout.VOLUME, _affine(ordered[0], step), findings
    return ordered, Layout.STACK, None, [*findings, _uneven(heights, height)]


def _positions(frames: Sequence[Candidate]) -> np.ndarray:
    return np.stack([one.frame.position for one in frames])  # type: ignore[misc]


def _first_of_pair(pair: tuple[float, list[Candidate]]) -> float:
    return pair[0]


def _identity(one: Candidate) -> tuple[str, int]:
    return one.frame.sop_instance_uid, one.frame.number


def _parallel(first: Candidate, second: Candidate) -> bool:
    difference = first.frame.orientation - second.frame.orientation  # type: ignore[operator]
    return bool(np.abs(difference).max() <= SAME_DIRECTION)


def _apart(first: Candidate, second: Candidate) -> float:
    return float(np.linalg.norm(first.frame.position - second.frame.position))  # type: ignore[operator]


def _own_step(one: Candidate) -> np.ndarray:
    """Of a single slice, its thickness along the normal; 1 mm where it doesn't say."""
    orientation = one.frame.orientation
    assert orientation is not None
    step: np.ndarray = np.cross(orientation[:3], orientation[3:]) * (one.frame.thickness or 1.0)
    return step


def _affine(first: Candidate, step: np.ndarray) -> np.ndarray:
    """(column, row, frame, 1) -> LPS in mm."""
    orientation, spacing = first.frame.orientation, first.frame.spacing
    assert orientation is not None
    assert spacing is not None
    affine = np.eye(4)
    # spacing is between rows first, and rows follow each other down a column
    affine[:3, 0], affine[:3, 1] = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.frame.position
    return affine


def _tilt(step: np.ndarray, height: float) -> list[Finding]:
    length = float(np.linalg.norm(step))
    if height <= 0 or length == 0:
        return []
    angle = float(np.degrees(np.arccos(min(1.0, height / length))))
    if angle < TILT_DEGREES:
        return []
    message = (
        f"the gantry was tilted: slices follow each other {angle:.1f} degrees off their normal, "
        "and are segmented and written on their own planes"
    )
    return [Finding(FindingCode.GANTRY_TILT, Severity.HANDLED, message)]


def _uneven(heights: np.ndarray, mean: float) -> Finding:
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    times = np.round(gaps / step) if step > 0 else np.zeros_like(gaps)
    whole = bool((times >= 1).all() and (np.abs(gaps - times * step) <= EVEN_SHARE * step * times).all())
    missing = int(times.sum()) - len(gaps)
    if whole and 0 < missing <= len(heights):
        message = (
            f"slices missing: {missing} of {missing + len(heights)}, which lie {step:.4g} mm apart; "
            "those that are there are segmented and written where they lie"
        )
        return Finding(FindingCode.MISSING_SLICE, Severity.WARNING, message)
    spread = (
        f"slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart"
        if abs(gaps - mean).max() > EVEN_SHARE * max(mean, 1e-6)
        else "slices are shifted sideways against each other"
    )
    return Finding(
        FindingCode.NON_UNIFORM_SPACING, Severity.WARNING, f"{spread}; each is segmented and written where it lies"
    )
