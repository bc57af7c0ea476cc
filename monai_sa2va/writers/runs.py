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


"""The frames of a series as grids that one matrix places each: a volume is one, a stack as many as it has even runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_sa2va.dicom.series import DicomSeries, Frame, Layout
from monai_sa2va.writers.seg_frames import is_placed, same_orientation

__all__ = ["Run", "even_runs", "frame_matrix"]

EVEN_MM = 0.01
"""How far a slice of an even run may be from its even place, in mm."""


@dataclass(frozen=True, eq=False)
class Run:
    """Frames that follow each other at even steps.

    Attributes:
        start: number of the first frame.
        stop: number after the last one.
        affine: (4, 4) float64, (x, y, z - start, 1) -> LPS in mm; ``None`` where the frames have no place.
        in_time: whether the frames follow each other in time instead of space.
    """

    start: int
    stop: int
    affine: np.ndarray | None
    in_time: bool = False


def frame_matrix(frame: Frame) -> np.ndarray:
    """(4, 4) float64: (x, y, 0, 1) of a placed frame -> LPS in mm; z goes along the normal by the slice's thickness."""
    if frame.position is None or frame.orientation is None or frame.spacing is None:
        raise ValueError("the frame has no place")
    row, column = frame.orientation[:3], frame.orientation[3:]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = row * frame.spacing[1], column * frame.spacing[0]
    matrix[:3, 2] = np.cross(row, column) * (frame.thickness or 1.0)
    matrix[:3, 3] = frame.position
    return matrix


def even_runs(series: DicomSeries) -> list[Run]:
    """All frames of a series, in order, in as few runs as a walk through them finds.

    A slice that stands alone is a run by itself, as thick as it says, else 1 mm.
    """
    count = len(series.frames)
    if series.layout is Layout.CINE:
        first = series.frames[0]
        return [Run(0, count, frame_matrix(first) if is_placed(first) else None, in_time=True)]
    if series.layout is not Layout.STACK:
        return [Run(0, count, series.affine)]
    runs: list[Run] = []
    start = 0
    while start < count:
        stop = start + 1
        while stop < count and _is_even(series.frames[start : stop + 1]):
            stop += 1
        runs.append(Run(start, stop, _run_matrix(series.frames[start:stop])))
        start = stop
    return runs


def _is_even(frames: Sequence[Frame]) -> bool:
    if not any(map(is_placed, frames)):
        # one behind the other, without a place
        return True
    if not all(map(is_placed, frames)) or not same_orientation(frames):
        return False
    if any(frame.spacing != frames[0].spacing for frame in frames):
        return False
    places = np.stack([np.asarray(frame.position) for frame in frames])
    steps = np.linspace(0, 1, len(frames))[:, None] * (places[-1] - places[0])
    normal = frame_matrix(frames[0])[:3, 2]
    ahead = float((places[-1] - places[0]) @ normal) > 0
    return ahead and bool(np.abs(places - places[0] - steps).max() <= EVEN_MM)


def _run_matrix(frames: Sequence[Frame]) -> np.ndarray | None:
    if not is_placed(frames[0]):
        return None
    matrix = frame_matrix(frames[0])
    if len(frames) > 1:
        matrix[:3, 2] = (np.asarray(frames[-1].position) - np.asarray(frames[0].position)) / (len(frames) - 1)
    return matrix
