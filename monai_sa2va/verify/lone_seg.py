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

"""A DICOM SEG without a report, as a server hands it back, against the series that it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import DataError
from monai_sa2va.verify.folder import Verdict
from monai_sa2va.verify.planes import Planes, corner_error
from monai_sa2va.verify.read import read_seg
from monai_sa2va.writers.provenance import frame_name
from monai_sa2va.writers.runs import frame_matrix
from monai_sa2va.writers.seg_frames import is_placed

__all__ = ["find_segs", "verify_seg"]

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_PREAMBLE, _MARK = 128, b"DICM"
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


def find_segs(place: Path) -> list[Path]:
    """DICOM SEGs among the files of a folder, sorted; a file stands for itself.

    Raises:
        ConfigError: when pydicom isn't installed.
    """
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return [path for path in files if _is_seg(path)]


def verify_seg(path: Path, sources: Sequence[DicomSeries], tolerance_mm: float) -> Verdict:
    """Check that a SEG lies on the frames that it refers to, and has voxels in each segment.

    Args:
        path: of the SEG.
        sources: where its series is looked for by its UID.
        tolerance_mm: how far corners may be from their place.

    Returns:
        What was found; ``folder`` is the SEG's own UID, as the name of a file may be a patient's.
    """
    header = _header(path)
    verdict = Verdict(str(header.SOPInstanceUID))
    try:
        _check(path, header, sources, tolerance_mm, verdict)
    except DataError as error:
        # the reader's message begins with the file's name
        verdict.problems.append(str(error).removeprefix(f"[{error.code}] ").replace(path.name, "the SEG"))
    # a file that was changed by hand may break any reader
    except Exception as error:
        verdict.problems.append(f"the SEG can't be read: {type(error).__name__}")
    return verdict


def _check(path: Path, header: Any, sources: Sequence[DicomSeries], tolerance_mm: float, verdict: Verdict) -> None:
    if header.SegmentationType != "BINARY" or header.file_meta.TransferSyntaxUID not in _PLAIN:
        raise DataError("it is fractional or compressed; only binary, uncompressed SEGs can be verified")
    uid = str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
    parts = [series for series in sources if series.series_uid == uid]
    if not parts:
        raise DataError(f"its source, series {uid}, is not in the folders of --source")
    verdict.against_source = True
    source = parts[0]
    frames = [frame for part in parts for frame in part.frames]
    numbers = {frame_name(frame.sop_instance_uid, frame.number): z for z, frame in enumerate(frames)}
    places = {z: frame_matrix(frame) for z, frame in enumerate(frames) if is_placed(frame)}
    if header.StudyInstanceUID != source.study_uid:
        verdict.problems.append("it is in another study than its source")
    for segment, planes in zip(header.SegmentSequence, read_seg(path, numbers), strict=True):
        _check_segment(f"segment {segment.SegmentNumber}", planes, source, places, tolerance_mm, verdict)


def _check_segment(
    name: str,
    planes: Planes,
    source: DicomSeries,
    places: dict[int, np.ndarray],
    tolerance_mm: float,
    verdict: Verdict,
) -> None:
    shape = (source.shape[0], source.shape[1])
    if not planes.masks:
        verdict.problems.append(f"{name} has no voxels")
    if any(mask.shape != shape for mask in planes.masks.values()):
        verdict.problems.append(f"{name} has frames of another size than its source")
        return
    if places and planes.frame_of_reference != source.frame_of_reference_uid:
        verdict.problems.append(f"{name} is in another frame of reference than its source")
    if places and not planes.masks.keys() <= planes.places.keys():
        verdict.problems.append(f"{name} has no place, though its source has one")
    error = corner_error(planes.places, places, shape) if places else None
    if error is None:
        return
    verdict.corner_mm = max(error, verdict.corner_mm or 0.0)
    if error > tolerance_mm:
        verdict.problems.append(f"{name}: a corner is {error:.4g} mm off its place")


def _is_seg(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(_PREAMBLE + len(_MARK))[_PREAMBLE:] != _MARK:
            return False
    return str(_header(path).get("SOPClassUID")) == _SEGMENTATION


def _header(path: Path) -> Any:
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise DataError(f"a file can't be read as DICOM: {type(error).__name__}") from error
