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
"""Pixels of a series: all frames as one array, or one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.instance import InstanceReader
from monai_sa2va.dicom.modality import wider
from monai_sa2va.dicom.series import DicomSeries

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["FrameReader", "read_array", "read_frame", "read_pixels", "shown_affine"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class FrameReader:
    """Frames of a series one at a time; the file of the last one stays open, as the next may be in it.

    Args:
        series: what to read.
    """

    def __init__(self, series: DicomSeries) -> None:
        self.series = series
        self._open: InstanceReader | None = None

    def __len__(self) -> int:
        return len(self.series.frames)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, z: int) -> np.ndarray:
        """Frame ``z``, as :func:`read_frame` gives it.

        Raises:
            IndexError: when there is none of that number.
            DicomError: when it can't be read.
        """
        frame = self.series.frames[z]
        if self._open is None or self._open.file != frame.file:
            self.close()
            self._open = InstanceReader(frame.file)
        return _channels_first(self._open.frame(frame.number), self.series)

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def read_frame(series: DicomSeries, z: int) -> np.ndarray:
    """One frame of a series.

    Args:
        series: what to read.
        z: number in ``series.frames``, from 0.

    Returns:
        (C, X, Y): x is the column, y the row; modality values of uint8, int16 or float32, whichever is the smallest
        that is exact for this frame; colours of uint8.

    Raises:
        DicomError: TRUNCATED, CODEC_MISSING, NO_PIXELS or NOT_DICOM when it can't be read.
    """
    with FrameReader(series) as frames:
        return frames[z]


def read_array(series: DicomSeries) -> np.ndarray:
    """All frames: (C, X, Y, Z) in one type, that of :func:`read_frame` which holds them all.

    Frames are decoded into the array one by one, so that nothing but it is held.

    Raises:
        DicomError: as :func:`read_frame`.
    """
    columns, rows, count = series.shape
    # rows of a frame lie together, as they are decoded and as slices are taken
    size = (series.channels, count, rows, columns)
    array = np.empty(0, np.uint8)
    for z, values in _in_file_order(series):
        planes = np.moveaxis(values, 2, 0) if values.ndim == 3 else values[None]
        _check_shape(planes.shape, series)
        together = wider(array.dtype, values.dtype)
        if not array.size:
            array = np.empty(size, together)
        elif together != array.dtype:
            array = array.astype(together)
        array[:, z] = planes
    return array.transpose(0, 3, 2, 1)


def read_pixels(series: DicomSeries) -> MetaTensor:
    """All frames of a series as MONAI holds a volume.

    Args:
        series: what to read.

    Returns:
        (C, X, Y, Z) as :func:`read_array`, with :func:`shown_affine`.

    Raises:
        DicomError: as :func:`read_frame`.
    """
    import torch
    from monai.data import MetaTensor
    from monai.utils import MetaKeys, SpaceKeys

    affine = torch.as_tensor(shown_affine(series), dtype=torch.float64)
    return MetaTensor(torch.from_numpy(read_array(series)), affine=affine, meta={MetaKeys.SPACE: SpaceKeys.RAS})


def shown_affine(series: DicomSeries) -> np.ndarray:
    """(x, y, z, 1) -> RAS in mm, by which a series is sliced and shown.

    Of a series without one affine it is a made one, by which frames are the slices and are shown as they are stored:
    rows down, columns to the right. It is no place in the world.
    """
    if series.affine is not None:
        return _LPS_TO_RAS @ series.affine
    return _LPS_TO_RAS.copy()


def _in_file_order(series: DicomSeries) -> Iterator[tuple[int, np.ndarray]]:
    """Frames and their numbers in the series; those of one file in the order in which it stores them."""
    by_file: dict[object, dict[int, int]] = {}
    for z, frame in enumerate(series.frames):
        by_file.setdefault(frame.file, {})[frame.number] = z
    for numbers in by_file.values():
        with InstanceReader(series.frames[next(iter(numbers.values()))].file) as instance:
            if len(numbers) == 1:
                number, z = next(iter(numbers.items()))
                yield z, instance.frame(number)
                continue
            for number, values in enumerate(instance.frames(), 1):
                if number in numbers:
                    yield numbers[number], values


def _channels_first(values: np.ndarray, series: DicomSeries) -> np.ndarray:
    planes = np.moveaxis(values, 2, 0) if values.ndim == 3 else values[None]
    _check_shape(planes.shape, series)
    return planes.transpose(0, 2, 1)


def _check_shape(shape: tuple[int, ...], series: DicomSeries) -> None:
    columns, rows, _ = series.shape
    if shape != (series.channels, rows, columns):
        message = f"pixels decode to {shape}, not {(series.channels, rows, columns)} as the header says; fetch it again"
        raise DicomError(Finding(FindingCode.TRUNCATED, Severity.REFUSED, message))
