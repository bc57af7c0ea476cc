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


"""Where the frames of a DICOM SEG are: copied from the frames that were segmented, each from its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_sa2va.dicom.series import DicomSeries, Frame, Layout
from monai_sa2va.writers.dicom_object import stable_uid, unique_instances

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["is_placed", "place_frames", "same_orientation"]

_SAME = 1e-6
_SEGMENT = ("ReferencedSegmentNumber", "SegmentIdentificationSequence")
_POSITION = ("ImagePositionPatient", "PlanePositionSequence")
_STACK = [("StackID", "FrameContentSequence"), ("InStackPositionNumber", "FrameContentSequence")]
_TIME = ("TemporalPositionIndex", "FrameContentSequence")


def is_placed(frame: Frame) -> bool:
    """Whether a frame says where it is."""
    return frame.position is not None and frame.orientation is not None and frame.spacing is not None


def same_orientation(frames: Sequence[Frame]) -> bool:
    """Whether frames are parallel to a millionth: a corner at 500 mm is off by less than a thousandth of a mm."""
    first = frames[0].orientation
    return first is not None and all(
        frame.orientation is not None and np.abs(frame.orientation - first).max() <= _SAME for frame in frames
    )


def place_frames(seg: Dataset, series: DicomSeries, planes: Sequence[int], uid: str) -> None:
    """Give each frame of a SEG the place of the source's frame, and refer it to that one.

    Args:
        seg: as highdicom made it, with minus the number of each plane as the z of its position; changed in place.
        series: the source.
        planes: numbers of the source's frames that highdicom was given, ascending.
        uid: of the SEG; that of its dimensions is made from it.
    """
    frames = [series.frames[z] for z in planes]
    in_time = series.layout is Layout.CINE
    placed = all(map(is_placed, frames))
    parallel = placed and same_orientation(frames)
    measures = [_measures(frame, series) for frame in frames]
    one_measure = all(item == measures[0] for item in measures)

    shared = seg.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name in shared:
            delattr(shared, name)
    if parallel:
        shared.PlaneOrientationSequence = [_orientation(frames[0])]
    if one_measure and measures[0] is not None:
        shared.PixelMeasuresSequence = [measures[0]]

    # frames without a place or a time are told apart by their number alone
    counted = not placed and not in_time and len(series.frames) > 1
    rank = {z: number for number, z in enumerate(planes)}
    for item in seg.PerFrameFunctionalGroupsSequence:
        number = rank[-round(float(item.PlanePositionSequence[0].ImagePositionPatient[2]))]
        frame = frames[number]
        del item.PlanePositionSequence
        if placed:
            item.PlanePositionSequence = [_dataset(ImagePositionPatient=_decimals(frame.position))]
            if not parallel:
                item.PlaneOrientationSequence = [_orientation(frame)]
        if not one_measure and measures[number] is not None:
            item.PixelMeasuresSequence = [measures[number]]
        content = item.FrameContentSequence[0]
        segment = int(content.DimensionIndexValues if _single(content) else content.DimensionIndexValues[0])
        if in_time:
            content.TemporalPositionIndex = planes[number] + 1
            content.DimensionIndexValues = [segment, planes[number] + 1]
        elif counted:
            content.StackID, content.InStackPositionNumber = "1", planes[number] + 1
            content.DimensionIndexValues = [segment, 1, planes[number] + 1]
        else:
            content.DimensionIndexValues = [segment, number + 1] if placed else [segment]
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPClassUID = frame.sop_class_uid
        source.ReferencedSOPInstanceUID = frame.sop_instance_uid
        if frame.siblings > 1:
            source.ReferencedFrameNumber = frame.number
    others = [_TIME] if in_time else [_POSITION] if placed else _STACK if counted else []
    _index(seg, [_SEGMENT, *others], uid)
    _refer(seg, series)
    if series.frame_of_reference_uid is None or not placed:
        for name in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
            if name in seg:
                delattr(seg, name)


def _single(content: Any) -> bool:
    return isinstance(content.DimensionIndexValues, int)


def _index(seg: Any, pointers: Sequence[tuple[str, str]], uid: str) -> None:
    """What the frames are counted by: highdicom gives the dimensions a random UID, and knows no time."""
    from pydicom.datadict import tag_for_keyword

    organization = stable_uid(uid, "dimensions")
    seg.DimensionOrganizationSequence = [_dataset(DimensionOrganizationUID=organization)]
    if "DimensionOrganizationType" in seg:
        # of the numbers that stood for places
        del seg.DimensionOrganizationType
    seg.DimensionIndexSequence = [
        _dataset(
            DimensionIndexPointer=tag_for_keyword(pointer),
            FunctionalGroupPointer=tag_for_keyword(group),
            DimensionOrganizationUID=organization,
            DimensionDescriptionLabel=pointer,
        )
        for pointer, group in pointers
    ]


def _refer(seg: Any, series: DicomSeries) -> None:
    """All instances that were segmented, also those in which nothing was found."""
    references = [
        _dataset(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=instance)
        for kind, instance in unique_instances(series)
    ]
    numbers = defaultdict(list)
    for frame in series.frames:
        numbers[frame.sop_instance_uid].append(frame)
    seg.SourceImageSequence = [_source(frames) for frames in numbers.values()]
    seg.ReferencedSeriesSequence = [
        _dataset(SeriesInstanceUID=series.series_uid, ReferencedInstanceSequence=references)
    ]


def _source(frames: Sequence[Frame]) -> Any:
    """An instance, or those frames of it that were segmented."""
    first = frames[0]
    source = _dataset(ReferencedSOPClassUID=first.sop_class_uid, ReferencedSOPInstanceUID=first.sop_instance_uid)
    if len(frames) < first.siblings:
        source.ReferencedFrameNumber = sorted(frame.number for frame in frames)
    return source


def _measures(frame: Frame, series: DicomSeries) -> Any:
    """Pixel measures; ``None`` where the frame doesn't say its spacing."""
    if frame.spacing is None:
        return None
    values: dict[str, Any] = {"PixelSpacing": _decimals(frame.spacing)}
    if frame.thickness is not None:
        values["SliceThickness"] = _decimals([frame.thickness])[0]
    if series.layout is Layout.VOLUME and series.affine is not None and len(series.frames) > 1:
        across = np.cross(series.affine[:3, 0], series.affine[:3, 1])
        step = abs(float(series.affine[:3, 2] @ across)) / float(np.linalg.norm(across))
        values["SpacingBetweenSlices"] = _decimals([step])[0]
    return _dataset(**values)


def _orientation(frame: Frame) -> Any:
    return _dataset(ImageOrientationPatient=_decimals(frame.orientation))


def _decimals(values: Any) -> list[Any]:
    """Numbers as decimal strings of at most 16 characters."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(value), auto_format=True) for value in values]


def _dataset(**values: Any) -> Any:
    from pydicom import Dataset

    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made
