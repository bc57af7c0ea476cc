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


"""Written files read back by other means than they were written with: pydicom, nibabel and pynrrd alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.dicom.scan import require_pydicom
from monai_sa2va.errors import DataError
from monai_sa2va.verify.planes import Planes, matrix_of
from monai_sa2va.writers.contours import fill_contours
from monai_sa2va.writers.provenance import frame_name

__all__ = ["read_nifti", "read_nrrd", "read_rtstruct", "read_seg"]

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_seg(path: Path, numbers: Mapping[str, int]) -> list[Planes]:
    """Each segment of a DICOM SEG.

    Args:
        path: of the SEG.
        numbers: of the source's frames by name, see :func:`~monai_sa2va.writers.provenance.frame_name`.

    Raises:
        DataError: when it is no SEG, or refers to a frame that the report doesn't name.
    """
    ds = _read(path)
    if "SegmentSequence" not in ds:
        raise DataError(f"{path.name} is no DICOM SEG")
    frames = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    size = int(ds.Rows) * int(ds.Columns)
    shared = ds.SharedFunctionalGroupsSequence[0]
    found = {
        int(segment.SegmentNumber): Planes("SEG", frame_of_reference=ds.get("FrameOfReferenceUID"))
        for segment in ds.SegmentSequence
    }
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        segment = _group(item, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber
        z = _number(item.DerivationImageSequence[0].SourceImageSequence[0], numbers, path)
        planes = found[int(segment)]
        mask = frames[number * size : (number + 1) * size].reshape(int(ds.Rows), int(ds.Columns)).T.astype(bool)
        planes.put(z, mask)
        position = _group(item, shared, "PlanePositionSequence")
        if position is not None:
            orientation = _group(item, shared, "PlaneOrientationSequence").ImageOrientationPatient
            spacing = _group(item, shared, "PixelMeasuresSequence").PixelSpacing
            planes.places[z] = matrix_of(position.ImagePositionPatient, orientation, spacing)
    return [found[number] for number in sorted(found)]


def read_rtstruct(path: Path, numbers: Mapping[str, int], places: Mapping[int, np.ndarray], shape: Any) -> list[Planes]:
    """Each ROI of an RTSTRUCT, as the pixels whose centres lie within its contours.

    Args:
        path: of the RTSTRUCT.
        numbers: of the source's frames by name.
        places: (4, 4) index -> LPS in mm by number of the frame, which contours are drawn with.
        shape: pixels of a frame along x and y.

    Raises:
        DataError: when it is no RTSTRUCT, refers to a frame that the report doesn't name, or one without a place.
    """
    ds = _read(path)
    if "ROIContourSequence" not in ds:
        raise DataError(f"{path.name} is no RTSTRUCT")
    of = {int(roi.ROINumber): roi.ReferencedFrameOfReferenceUID for roi in ds.StructureSetROISequence}
    found: list[Planes] = []
    for roi in ds.ROIContourSequence:
        planes = Planes("RTSTRUCT", frame_of_reference=of[int(roi.ReferencedROINumber)])
        drawn: dict[int, list[np.ndarray]] = {}
        for contour in roi.get("ContourSequence") or []:
            z = _number(contour.ContourImageSequence[0], numbers, path)
            if z not in places:
                raise DataError(f"{path.name} has contours on a frame without a place; give --source")
            points = np.asarray(contour.ContourData, dtype=np.float64).reshape(-1, 3)
            index = np.c_[points, np.ones(len(points))] @ np.linalg.inv(places[z]).T
            # what is left across the plane is an error of place: the plane moves with the contours
            shift = np.eye(4)
            shift[2, 3] = float(index[np.abs(index[:, 2]).argmax(), 2])
            worst = planes.places.get(z)
            moved = places[z] @ shift
            if worst is None or abs(shift[2, 3]) > np.linalg.norm(worst[:3, 3] - places[z][:3, 3]):
                planes.places[z] = moved
            drawn.setdefault(z, []).append(index[:, :2])
        for z, outlines in drawn.items():
            planes.put(z, fill_contours(outlines, shape))
        found.append(planes)
    return found


def read_nifti(paths: Sequence[Path]) -> Planes:
    """One object of NIfTI files that follow each other: the runs of a series."""
    import nibabel as nib

    parts = []
    for path in paths:
        image: Any = nib.load(path)
        values = np.asanyarray(image.dataobj)
        placed = int(image.header["sform_code"]) > 0
        affine = _RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64)
        in_time = values.ndim == 4
        parts.append((values[:, :, 0] if in_time else values, affine if placed else None, in_time))
    return _join("NIfTI", parts)


def read_nrrd(paths: Sequence[Path]) -> Planes:
    """One object of NRRD files that follow each other: the runs of a series."""
    import nrrd

    parts = []
    for path in paths:
        values, header = nrrd.read(str(path))
        affine = None
        if "space origin" in header:
            affine = np.eye(4)
            affine[:3, :3], affine[:3, 3] = np.asarray(header["space directions"]).T, header["space origin"]
        parts.append((values, affine, False))
    return _join("NRRD", parts)


def _join(kind: str, parts: Sequence[tuple[np.ndarray, np.ndarray | None, bool]]) -> Planes:
    planes, start = Planes(kind), 0
    for values, affine, in_time in parts:
        volume = values.reshape(*values.shape, *[1] * (3 - values.ndim)) != 0
        for z in range(volume.shape[2]):
            planes.put(start + z, volume[:, :, z])
            if affine is not None:
                place = affine.copy()
                place[:3, 3] += 0 if in_time else z * affine[:3, 2]
                planes.places[start + z] = place
        start += volume.shape[2]
    return planes


def _read(path: Path) -> Any:
    require_pydicom()
    import pydicom

    try:
        return pydicom.dcmread(path)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise DataError(f"{path.name} can't be read as DICOM: {type(error).__name__}") from error


def _group(item: Any, shared: Any, name: str) -> Any:
    found = item.get(name) or shared.get(name)
    return found[0] if found else None


def _number(source: Any, numbers: Mapping[str, int], path: Path) -> int:
    name = frame_name(source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber") or 1))
    if name not in numbers:
        raise DataError(f"{path.name} refers to the frame {name}, which report.json doesn't name")
    return numbers[name]
