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
"""DICOM as an image to segment: a series, a file, or a folder that holds exactly one series."""

from __future__ import annotations

from pathlib import Path

from monai_sa2va.data.headers import Grid
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.pixels import read_pixels, shown_affine
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.dicom.windows import series_window
from monai_sa2va.errors import DataError

__all__ = ["looks_like_dicom", "one_series", "read_dicom", "read_series"]

_OTHER = (".nii", ".gz", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def looks_like_dicom(path: Path) -> bool:
    """Whether a path is to be read as DICOM: a folder, a zip, or a file that begins as DICOM does."""
    if path.is_dir():
        return True
    if not path.is_file() or path.suffix.lower() in _OTHER:
        return False
    if path.suffix.lower() in (".dcm", ".dicom", ".ima", ".zip") or path.name.upper() == "DICOMDIR":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def one_series(path: Path) -> DicomSeries:
    """The only series that a path holds.

    Raises:
        ConfigError: when pydicom is not installed.
        DicomError: when the path holds one series, which is refused, or no DICOM.
        DataError: when it holds several series.
    """
    found = scan(path)
    if len(found.series) == 1:
        return found.series[0]
    if found.series:
        raise DataError(
            f"{_called(path)} holds {len(found.series)} series or parts of one; segment them by `monai-sa2va segment`, "
            "or pass one of monai_sa2va.dicom.scan.scan"
        )
    left_out = [*found.left_out, *found.files]
    if len(left_out) == 1 or found.left_out:
        raise DicomError(left_out[0].finding)
    message = f"{_called(path)} holds no DICOM image; check the path"
    raise DicomError(Finding(FindingCode.NOT_DICOM, Severity.SKIPPED, message))


def read_series(series: DicomSeries) -> SourceImage:
    """A series with its pixels, named by its modality alone, as descriptions and files may name a patient.

    Raises:
        DicomError: when its pixels can't be read.
    """
    from monai.utils import ImageMetaKey

    pixels, name = read_pixels(series), f"{series.modality.lower()}_series"
    pixels.meta[ImageMetaKey.FILENAME_OR_OBJ] = name
    placed = None if series.affine is None else shown_affine(series)
    return SourceImage(pixels, name, Grid(series.shape, placed), None, series, series_window(series))


def read_dicom(path: Path) -> SourceImage:
    """The only series that a path holds, with its pixels.

    Raises:
        ConfigError: when pydicom is not installed.
        DataError: when the path doesn't hold exactly one series that can be read.
    """
    return read_series(one_series(path))


def _called(path: Path) -> str:
    """A folder may name a patient."""
    return "the folder" if path.is_dir() else path.name
