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


"""A DICOM SEG of a series: one binary segment an object, on the source's own frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_sa2va import __version__
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.dicom.values import quiet_pydicom, whole
from monai_sa2va.writers.coded_terms import code_phrase
from monai_sa2va.writers.colours import PALETTE
from monai_sa2va.writers.composite_context import EQUIPMENT, TYPE_2, composite_context, valid_texts
from monai_sa2va.writers.dicom_object import (
    DISCLAIMER,
    content_time,
    need_dicom,
    plain_text,
    read_header,
    required_series,
    stable_uid,
)
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.seg_frames import place_frames

if TYPE_CHECKING:
    from monai_sa2va.segmentation import Segmentation

__all__ = ["make_dicom_seg", "write_dicom_seg"]

_CT = "1.2.840.10008.5.1.4.1.1.2"
_NAME = "monai-sa2va"
_LONG_STRING, _SHORT_TEXT = 64, 1024
# what a SEG may copy: identification, patient, trial, relationship, study, procedure
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_SERIES_NUMBERS = 1000


def write_dicom_seg(
    segmentation: Segmentation,
    path: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    created: datetime | None = None,
    omit_empty_frames: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write :func:`make_dicom_seg` to a file.

    Raises:
        ConfigError: when the extra ``dicom`` isn't installed.
        OutputError: when the source is no DICOM series, or the file is there already or can't be written.
    """
    seg = make_dicom_seg(segmentation, checkpoint=checkpoint, created=created, omit_empty_frames=omit_empty_frames)
    target = Path(path)
    with atomic_path(target, overwrite) as temporary, quiet_pydicom():
        seg.save_as(temporary, enforce_file_format=True)
    return target


def make_dicom_seg(
    segmentation: Segmentation,
    *,
    checkpoint: str | None = None,
    created: datetime | None = None,
    omit_empty_frames: bool = True,
) -> Any:
    """A BINARY segmentation by highdicom: position, orientation and spacing of each frame are the source frame's own.

    The same segmentation by the same checkpoint gives the same bytes: UIDs are made from what the object holds, and
    its dates are the source's unless ``created`` is given.

    Args:
        segmentation: of a DICOM series.
        checkpoint: hash of the weights, which is recorded.
        created: date and time that are recorded.
        omit_empty_frames: whether frames of a segment without any voxel are left out. Where no object has a voxel, one
            empty frame each stays, as a SEG needs one.

    Returns:
        ``highdicom.seg.Segmentation``.

    Raises:
        ConfigError: when the extra ``dicom`` isn't installed.
        OutputError: when the source is no DICOM series, or isn't readable any more.
    """
    need_dicom()
    with quiet_pydicom():
        return _make(segmentation, required_series(segmentation, "dicom-seg"), checkpoint, created, omit_empty_frames)


def _make(
    segmentation: Segmentation,
    series: DicomSeries,
    checkpoint: str | None,
    created: datetime | None,
    omit_empty_frames: bool,
) -> Any:
    import highdicom

    masks = segmentation.on_source_grid().reshape(len(segmentation.masks), *series.shape)
    planes = list(range(series.shape[2]))
    if omit_empty_frames:
        planes = np.flatnonzero(masks.any(axis=(0, 1, 2))).tolist() or [0]
    pixels = np.ascontiguousarray(masks[..., planes].transpose(3, 2, 1, 0)).view(np.uint8)
    header = read_header(series.frames[0].file)
    date, time = content_time(header, created)
    uid = stable_uid("seg", date, time, *_identity(segmentation, series, checkpoint, masks))
    seg = highdicom.seg.Segmentation(
        source_images=_stand_ins(header, series, planes),
        pixel_array=pixels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(segmentation, uid, checkpoint),
        series_instance_uid=stable_uid(uid, "series"),
        series_number=_SERIES_NUMBERS + max(0, min(whole(header, "SeriesNumber") or 0, 10**8)),
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=_NAME,
        manufacturer_model_name="Sa2VA",
        software_versions=__version__,
        device_serial_number=(checkpoint or "unknown")[:_LONG_STRING],
        content_description=DISCLAIMER,
        content_label="SEGMENTATION",
        content_date=date,
        content_time=time,
        series_description=f"{_NAME} segmentation",
        specific_character_set="ISO_IR 192",
        # where all are empty they are as many as asked for
        omit_empty_frames=omit_empty_frames and bool(pixels.any()),
    )
    place_frames(seg, series, planes, uid)
    # here, not by highdicom, which refuses some values that DICOM allows, and logs names
    seg.update(composite_context(header).dataset)
    if series.frames[planes[0]].position is None:
        seg.PatientOrientation = list(valid_texts(header, "PatientOrientation") or ()) or None
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        delattr(seg, name)
    for equipment in seg.ContributingEquipmentSequence:
        # nobody knows when, and highdicom tells the clock's time
        equipment.pop("ContributionDateTime", None)
    return seg


def _identity(
    segmentation: Segmentation, series: DicomSeries, checkpoint: str | None, masks: np.ndarray
) -> Sequence[str]:
    """What makes one SEG another than the next."""
    digest = hashlib.sha256()
    for z in range(masks.shape[3]):
        digest.update(np.packbits(masks[..., z]).tobytes())
    scores = [f"{float(score):.6g}" for score in segmentation.scores]
    return (
        series.series_uid,
        str(series.part),
        __version__,
        checkpoint or "",
        digest.hexdigest(),
        repr(segmentation.labels),
        repr(segmentation.prompts),
        repr(scores),
    )


def _stand_ins(header: Any, series: DicomSeries, planes: Sequence[int]) -> list[Any]:
    """Sources as highdicom takes them all: single frames of one direction, whose position is their number, negated.

    It would refuse several directions, frames in time, and pictures without a place, and expects attributes that
    sources may lack. :func:`place_frames` puts the places in.
    """
    from pydicom import Dataset

    made: list[Any] = []
    passed_on = {name: found for name in (*EQUIPMENT, *_LOSSY) if (found := valid_texts(header, name))}
    indicator = next(iter(valid_texts(header, "PositionReferenceIndicator") or ()), None)
    for z in planes:
        image = Dataset()
        for name in TYPE_2:
            setattr(image, name, None)
        for name, found in passed_on.items():
            setattr(image, name, found if len(found) > 1 else found[0])
        image.SOPClassUID, image.SOPInstanceUID = _CT, f"2.25.{z + 1}"
        image.StudyInstanceUID, image.SeriesInstanceUID = series.study_uid, series.series_uid
        # highdicom asks for one; that of a source without any is taken out again
        image.FrameOfReferenceUID = series.frame_of_reference_uid or series.series_uid
        image.PositionReferenceIndicator = indicator
        image.Modality, image.Rows, image.Columns = "CT", series.shape[1], series.shape[0]
        # highdicom writes frames from the head down
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, -z], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [1, 1], 1
        made.append(image)
    return made


def _descriptions(segmentation: Segmentation, uid: str, checkpoint: str | None) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    items: list[Any] = []
    for number, label in enumerate(segmentation.labels, start=1):
        prompt, presence = segmentation.prompts[number - 1], float(segmentation.scores[number - 1])
        term = code_phrase(label)
        parameters = {"prompt": plain_text(prompt, _SHORT_TEXT), "presence": f"{presence:.4f}"}
        if segmentation.presence_threshold is not None:
            parameters["presence_threshold"] = f"{segmentation.presence_threshold:.4f}"
        if checkpoint is not None:
            parameters["checkpoint"] = checkpoint
        item = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=plain_text(label, _LONG_STRING),
            segmented_property_category=term.category,
            segmented_property_type=term.type,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=_NAME,
                family=codes.DCM.ArtificialIntelligence,
                version=__version__,
                parameters=parameters,
            ),
            tracking_id=plain_text(label, _LONG_STRING),
            tracking_uid=stable_uid(uid, "segment", str(number)),
            anatomic_regions=None if term.anatomy is None else [term.anatomy],
            display_color=highdicom.color.CIELabColor.from_rgb(*PALETTE[(number - 1) % len(PALETTE)]),
        )
        told = f"Presence {presence:.4f}. {DISCLAIMER} Prompt: {prompt}"
        item.SegmentDescription = plain_text(told, _SHORT_TEXT)
        if term.side is not None:
            side = [highdicom.sr.CodedConcept(term.side.value, term.side.scheme_designator, term.side.meaning)]
            if term.anatomy is None:
                item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = side
            else:
                item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = side
        items.append(item)
    return items
