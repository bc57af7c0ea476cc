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


"""How large an object is: volume, area and extent, exact for sheared volumes and for slices at uneven steps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from monai_sa2va.data.headers import Grid
from monai_sa2va.dicom.series import DicomSeries, Layout
from monai_sa2va.writers.runs import frame_matrix
from monai_sa2va.writers.seg_frames import is_placed, same_orientation

__all__ = ["extent_mm", "slice_heights", "voxel_sizes"]


def voxel_sizes(grid: Grid, series: DicomSeries | None = None) -> np.ndarray | None:
    """What one voxel of each slice measures: mm3 of a volume, mm2 of a picture.

    Of a volume it is the absolute determinant of its matrix: the area of a pixel times the step across the slices,
    whatever shear there is. Of slices at uneven steps it is the area of the slice's pixel times its height, see
    :func:`slice_heights`.

    Args:
        grid: of the source.
        series: the source, where it is a DICOM series.

    Returns:
        (slices,) float64; ``None`` where the source doesn't say, and of a cine, whose frames are no volume.
    """
    if series is not None and series.layout is not Layout.VOLUME:
        if series.layout is Layout.CINE or any(frame.spacing is None for frame in series.frames):
            return None
        areas = np.array([frame.spacing[0] * frame.spacing[1] for frame in series.frames if frame.spacing])
        if series.layout is Layout.PICTURE:
            return areas
        heights = slice_heights(series)
        return None if heights is None else areas * heights
    affine, shape = (grid.affine, grid.shape) if series is None else (series.affine, series.shape)
    if affine is None:
        return None
    columns = affine[:3, :3]
    if len(shape) == 2:
        return np.array([float(np.linalg.norm(np.cross(columns[:, 0], columns[:, 1])))])
    return np.full(shape[2], abs(float(np.linalg.det(columns))))


def slice_heights(series: DicomSeries) -> np.ndarray | None:
    """The mm that each slice of a stack stands for.

    It reaches half-way to the slice before and half-way to the one after; the first and the last one of parallel
    slices reach as far outwards as inwards. A slice that has no parallel neighbour is as thick as it says.

    Returns:
        (slices,) float64; ``None`` where a lone slice doesn't say its thickness, or has no place.
    """
    frames = series.frames
    if not all(map(is_placed, frames)):
        return None
    steps: list[float | None] = []
    for before, after in pairwise(frames):
        across = np.cross(np.asarray(before.orientation)[:3], np.asarray(before.orientation)[3:])
        step = float((np.asarray(after.position) - np.asarray(before.position)) @ across)
        steps.append(step if same_orientation([before, after]) and step > 0 else None)
    heights = np.zeros(len(frames))
    for z, frame in enumerate(frames):
        sides = [step for step in (steps[z - 1] if z else None, steps[z] if z < len(steps) else None) if step]
        if not sides and frame.thickness is None:
            return None
        heights[z] = sum(sides) / len(sides) if sides else frame.thickness
    return heights


def extent_mm(mask: np.ndarray, grid: Grid, series: DicomSeries | None = None) -> list[float] | None:
    """Sides of the box around an object, along the source's own x, y and (of a volume) z, in mm.

    Along z it is counted across the slices: from the first to the last one with the object, each with its own height.

    Args:
        mask: (X, Y) or (X, Y, Z) bool.
        grid: of the source.
        series: the source, where it is a DICOM series.

    Returns:
        Two or three numbers; zeros for an empty mask; ``None`` where the source doesn't say its spacing, and of a cine.
    """
    if series is not None:
        return _extent_of_series(mask.reshape(series.shape), series)
    if grid.affine is None:
        return None
    columns = grid.affine[:3, :3]
    sizes = [float(np.linalg.norm(columns[:, axis])) for axis in range(2)]
    if mask.ndim == 3:
        across = np.cross(columns[:, 0], columns[:, 1])
        sizes.append(abs(float(columns[:, 2] @ across)) / float(np.linalg.norm(across)))
    return [size * _length(mask, axis) for axis, size in enumerate(sizes)]


def _extent_of_series(mask: np.ndarray, series: DicomSeries) -> list[float] | None:
    first = series.frames[0]
    same = all(frame.spacing == first.spacing for frame in series.frames)
    if first.spacing is None or not same or series.layout is Layout.CINE:
        return None
    plane = [first.spacing[1] * _length(mask, 0), first.spacing[0] * _length(mask, 1)]
    if series.layout is Layout.PICTURE:
        return plane
    if not same_orientation(series.frames):
        return None
    heights = slice_heights(series)
    seen = np.flatnonzero(mask.any(axis=(0, 1)))
    if heights is None:
        return None
    if not len(seen):
        return [*plane, 0.0]
    across = frame_matrix(first)[:3, 2] / np.linalg.norm(frame_matrix(first)[:3, 2])
    top, bottom = (np.asarray(series.frames[int(z)].position) for z in (seen[-1], seen[0]))
    return [*plane, float((top - bottom) @ across) + float(heights[seen[0]] + heights[seen[-1]]) / 2]


def _length(mask: np.ndarray, axis: int) -> int:
    seen = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
    return int(seen[-1] - seen[0] + 1) if len(seen) else 0
