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
"""A DICOM series as it is placed in the world: its frames in order, each with its own position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from monai_sa2va.dicom.findings import Finding

__all__ = ["DicomFile", "DicomSeries", "Frame", "Layout"]


class Layout(str, Enum):
    """How the frames of a series lie to each other."""

    VOLUME = "volume"
    """Parallel slices at even steps: one affine places all voxels, sheared where the gantry was tilted."""
    STACK = "stack"
    """Slices at uneven steps or in several directions: each is placed by itself, and nothing is resampled.
    Or frames of one instance that have no place."""
    CINE = "cine"
    """Frames in time of one view: the third axis is no space."""
    PICTURE = "picture"
    """One frame, with or without a place in the world."""


@dataclass(frozen=True)
class DicomFile:
    """Where the bytes of an instance are.

    Attributes:
        path: the file, or the zip that holds it.
        member: name within the zip; ``None`` for a plain file.
    """

    path: Path
    member: str | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a series.

    Attributes:
        file: where its instance is.
        sop_class_uid: of its instance.
        sop_instance_uid: of its instance.
        number: in its instance, from 1; 1 in an instance of a single frame.
        position: (3,) float64, LPS in mm: the centre of its first pixel; ``None`` where the file doesn't say.
        orientation: (6,) float64: direction of growing columns (along a row), then of growing rows; ``None`` likewise.
        spacing: mm between rows, then between columns; ``None`` likewise.
        thickness: mm; ``None`` likewise.
        seconds: since the first frame of a cine; ``None`` where time doesn't count or isn't known.
        siblings: how many frames its instance has, with itself, whether or not they are in the series.
    """

    file: DicomFile
    sop_class_uid: str
    sop_instance_uid: str
    number: int
    position: np.ndarray | None = None
    orientation: np.ndarray | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    seconds: float | None = None
    siblings: int = 1


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """Frames that are segmented together: a series, or a part of one that mixes several.

    Voxels are counted (x, y, z): column, row, frame. Frames stand in the order of their positions along their normal
    (which is that of row direction x column direction), those of a cine in the order of time.

    Attributes:
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        part: 0, or the number of this part, from 1, of a series that is segmented in several.
        modality: e.g. ``"CT"``.
        description: SeriesDescription; to match rules by, never for logs or reports, as it may name a patient.
        frame_of_reference_uid: ``None`` where the files don't say.
        layout: how the frames lie to each other.
        frames: in order.
        shape: (columns, rows, frames).
        channels: 1 for grey values, 3 for colour.
        affine: (4, 4) float64, (x, y, z, 1) -> LPS in mm, of a volume, and of a picture that has a place; else
            ``None``.
        findings: what is irregular.
    """

    study_uid: str
    series_uid: str
    part: int
    modality: str
    description: str
    frame_of_reference_uid: str | None
    layout: Layout
    frames: Sequence[Frame]
    shape: tuple[int, int, int]
    channels: int
    affine: np.ndarray | None
    findings: tuple[Finding, ...] = field(default=())
