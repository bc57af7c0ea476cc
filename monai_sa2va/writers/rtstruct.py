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


"""An RTSTRUCT of a series: closed planar contours, in mm, on the source's own slices."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_sa2va import __version__
from monai_sa2va.dicom.series import DicomSeries, Layout
from monai_sa2va.dicom.values import quiet_pydicom, whole
from monai_sa2va.errors import ConfigError
from monai_sa2va.writers.colours import PALETTE
from monai_sa2va.writers.composite_context import composite_context, valid_texts
from monai_sa2va.writers.contours import mask_contours
from monai_sa2va.writers.dicom_object import (
    DISCLAIMER,
    need_dicom,
    plain_text,
    read_header,
    required_series,
    source_time,
    stable_uid,
    unique_instances,
)
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.runs import frame_matrix
from monai_sa2va.writers.seg_frames import is_placed

if TYPE_CHECKING:
    from monai_sa2va.segmentation import Segmentation

__all__ = ["can_hold", "make_rtstruct", "need_contours", "write_rtstruct"]

_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_LONG_STRING, _SHORT_STRING = 64, 16
_SERIES_NUMBERS = 2000


def need_contours() -> None:
    """Say in one line what to install where an RTSTRUCT can't be written.

    Raises:
        ConfigError: when the extra ``dicom`` isn't installed.
    """
    need_dicom()
    try:
        import contourpy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "rtstruct can't be written without contourpy; install it with 'pip install monai-sa2va[dicom]'"
        ) from error


def can_hold(series: DicomSeries) -> bool:
    """Whether contours in mm can be made: all frames have a place in a frame of reference, and none is in time."""
    return (
        series.frame_of_reference_uid is not None
        and series.layout is not Layout.CINE
        and all(map(is_placed, series.frames))
    )


def write_rtstruct(
    segmentation: Segmentation,
    path: str | os.PathLike[str],
    *,
    created: datetime | None = None,
    overwrite: bool = False,
) -> Path:
    """Write :func:`make_rtstruct` to a file.

    Raises:
        ConfigError: when the extra ``dicom`` isn't installed.
        OutputError: when the source is no DICOM series, or the file is there already or can't be written.
        ValueError: when the series :func:`can't be held <can_hold>`.
    """
    made = make_rtstruct(segmentation, created=created)
    target = Path(path)
    with atomic_path(target, overwrite) as temporary, quiet_pydicom():
        made.save_as(temporary, enforce_file_format=True)
    return target


def make_rtstruct(segmentation: Segmentation, *, created: datetime | None = None) -> Any:
    """One ROI an object, its contours half-way between the centres of pixels inside and outside.

    A reader that takes each pixel whose centre lies within finds the very mask. Holes are joined to their outline by a
    channel of no width. The same segmentation gives the same bytes, unless ``created`` is given.

    Returns:
        pydicom's ``Dataset``.

    Raises:
        ConfigError: when the extra ``dicom`` isn't installed.
        OutputError: when the source is no DICOM series, or isn't readable any more.
        ValueError: when the series :func:`can't be held <can_hold>`.
    """
    need_contours()
    series = required_series(segmentation, "rtstruct")
    if not can_hold(series):
        raise ValueError("the series has frames without a place, which an RTSTRUCT can't hold")
    with quiet_pydicom():
        return _make(segmentation, series, created)


def _make(segmentation: Segmentation, series: DicomSeries, created: datetime | None) -> Any:
    masks = segmentation.on_source_grid().reshape(len(segmentation.masks), *series.shape)
    rois = [_contours(mask, series) for mask in masks]
    header = read_header(series.frames[0].file)
    made_at = source_time(header) if created is None else (created.strftime("%Y%m%d"), created.strftime("%H%M%S"))
    made = _frame(header, series, made_at)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, (label, contours) in enumerate(zip(segmentation.labels, rois, strict=True), start=1):
        made.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=series.frame_of_reference_uid,
                ROIName=plain_text(label, _LONG_STRING),
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        roi = _item(ROIDisplayColor=list(PALETTE[(number - 1) % len(PALETTE)]), ReferencedROINumber=number)
        if contours:
            roi.ContourSequence = contours
        made.ROIContourSequence.append(roi)
        made.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        )
    drawn = [str(contour.ContourData) for contours in rois for contour in contours]
    uid = stable_uid("rtstruct", series.series_uid, str(series.part), __version__, repr(segmentation.labels), *drawn)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    made.SeriesInstanceUID = stable_uid(uid, "series")
    return made


def _contours(mask: np.ndarray, series: DicomSeries) -> list[Any]:
    items: list[Any] = []
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        frame = series.frames[int(z)]
        matrix = frame_matrix(frame)
        source = _item(ReferencedSOPClassUID=frame.sop_class_uid, ReferencedSOPInstanceUID=frame.sop_instance_uid)
        if frame.siblings > 1:
            source.ReferencedFrameNumber = frame.number
        for points in mask_contours(mask[..., z]):
            places = points @ matrix[:3, :2].T + matrix[:3, 3]
            items.append(
                _item(
                    ContourImageSequence=[source],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(places),
                    ContourData=[_decimal(value) for value in places.ravel()],
                )
            )
    return items


def _frame(header: Any, series: DicomSeries, made_at: tuple[str, str] | None) -> Any:
    """The object without its ROIs."""
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.TransferSyntaxUID = UID(_CLASS), ExplicitVRLittleEndian
    made.SpecificCharacterSet, made.SOPClassUID, made.Modality = "ISO_IR 192", _CLASS, "RTSTRUCT"
    made.update(composite_context(header).dataset)
    made.StudyInstanceUID = series.study_uid
    made.SeriesNumber = _SERIES_NUMBERS + max(0, min(whole(header, "SeriesNumber") or 0, 10**8))
    made.SeriesDescription, made.OperatorsName = "monai-sa2va structures", ""
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = "monai-sa2va", "Sa2VA", __version__
    made.InstanceNumber, made.ApprovalStatus = 1, "UNAPPROVED"
    made.StructureSetLabel, made.StructureSetDescription = "SEGMENTATION", DISCLAIMER
    made.StructureSetDate, made.StructureSetTime = made_at or (None, None)
    made.FrameOfReferenceUID = series.frame_of_reference_uid
    made.PositionReferenceIndicator = next(iter(valid_texts(header, "PositionReferenceIndicator") or ()), None)
    images = [
        _item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=instance)
        for kind, instance in unique_instances(series)
    ]
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=series.study_uid,
        RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series.series_uid, ContourImageSequence=images)],
    )
    made.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=series.frame_of_reference_uid, RTReferencedStudySequence=[study])
    ]
    return made


def _decimal(value: float) -> str:
    """To a millionth of a mm, or as many digits as 16 characters hold."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text[:_SHORT_STRING]


def _item(**values: Any) -> Any:
    from pydicom import Dataset

    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made
