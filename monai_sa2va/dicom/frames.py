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
"""The frames of one instance: where each lies, by the file's attributes or its functional groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from monai_sa2va.dicom.headers import TIME_SEPARATORS, VALUE_SEPARATORS, Header
from monai_sa2va.dicom.kinds import CINE_CLASSES
from monai_sa2va.dicom.nuclear import reconstructed_slices
from monai_sa2va.dicom.series import Frame
from monai_sa2va.dicom.values import first_item, items, number, numbers, text, texts, uid_of, whole

__all__ = ["Candidate", "candidates", "frame_of_reference"]

_POSITION = ("PlanePositionSequence", "ImagePositionPatient")
_ORIENTATION = ("PlaneOrientationSequence", "ImageOrientationPatient")
_ORTHOGONAL = 1e-3
_UNIT = 1e-2
"""How far a direction's length may be from 1, and the product of both from 0, to be the rounding of a file."""

_CENTIMETRES = 3
"""PhysicalUnits of an ultrasound region."""

_GROUPS = {
    "EffectiveEchoTime": ("MREchoSequence", "EchoTime"),
    "NominalPercentageOfCardiacPhase": ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence", "TriggerTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIndex": ("FrameContentSequence", "TemporalPositionIdentifier"),
    "FrameAcquisitionNumber": ("FrameContentSequence", "AcquisitionNumber"),
    "StackID": ("FrameContentSequence", "StackID"),
    "FrameReferenceDateTime": ("FrameContentSequence", "FrameReferenceTime"),
    "FrameAcquisitionDateTime": ("FrameContentSequence", "AcquisitionDateTime"),
    "KVP": ("CTXRayDetailsSequence", "KVP"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
}
"""Attributes of functional groups: keyword -> its group, and the separator that it stands for."""

_FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XAXRFFrameTypeSequence",
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame, and what decides which frames it goes with.

    Attributes:
        frame: the frame.
        header: of its instance.
        image_type: ImageType, of a multi-frame image its FrameType where there is one.
        rescale: slope and intercept.
        tags: values of separators by keyword, those that are there.
    """

    frame: Frame
    header: Header
    image_type: tuple[str, ...]
    rescale: tuple[float, float]
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def placed(self) -> bool:
        """Whether the file says where each pixel lies."""
        return self.frame.position is not None and self.frame.orientation is not None and self.frame.spacing is not None


def candidates(header: Header, dataset: Any) -> list[Candidate]:
    """The frames of an instance, as stored.

    Args:
        header: of the instance.
        dataset: with its sequences, as :func:`~monai_sa2va.dicom.headers.read_header` gives it.
    """
    ds = header.values
    tags = {key: value for key in (*VALUE_SEPARATORS, *TIME_SEPARATORS) if any(value := texts(ds, key))}
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    each = items(dataset, "PerFrameFunctionalGroupsSequence")
    regions = items(dataset, "SequenceOfUltrasoundRegions")
    seconds, slices = _seconds(header), reconstructed_slices(header, dataset)
    made = []
    for index in range(header.frames):
        groups = [group for group in (each[index] if index < len(each) else None, shared) if group is not None]
        frame_type = next((t for name in _FRAME_TYPES if (t := texts(_macro(groups, name), "FrameType"))), None)
        rescaled = _macro(groups, "PixelValueTransformationSequence")
        source = ds if rescaled is None else rescaled
        slope, intercept = number(source, "RescaleSlope"), number(source, "RescaleIntercept")
        frame = Frame(
            header.file,
            header.sop_class,
            text(ds, "SOPInstanceUID"),
            index + 1,
            slices[index].position if slices else _array(_first(groups, ds, *_POSITION, 3)),
            _orientation(slices[index].orientation if slices else _first(groups, ds, *_ORIENTATION, 6)),
            _spacing(groups, ds, regions),
            _thickness(groups, ds),
            seconds[index] if seconds else None,
            header.frames,
        )
        made.append(
            Candidate(
                frame,
                header,
                frame_type or header.image_type,
                (1.0 if slope is None else slope, 0.0 if intercept is None else intercept),
                {**tags, **_group_tags(groups, frame_type), **(slices[index].tags if slices else {})},
            )
        )
    return made


def _macro(groups: list[Any], name: str) -> Any:
    """A functional group's item: the frame's own goes before the shared one."""
    return next((item for group in groups if (item := first_item(group, name)) is not None), None)


def _first(groups: list[Any], ds: Any, name: str, keyword: str, count: int) -> tuple[float, ...] | None:
    item = _macro(groups, name)
    return numbers(ds if item is None else item, keyword, count)


def _array(values: tuple[float, ...] | None) -> np.ndarray | None:
    return None if values is None else np.array(values)


@lru_cache(maxsize=1024)
def _orientation(values: tuple[float, ...] | None) -> np.ndarray | None:
    """``None`` also for what is no two directions at right angles, as rows of zeros; one object for equal ones."""
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if (abs(lengths - 1) > _UNIT).any() or abs(float(row @ column)) > _ORTHOGONAL:
        return None
    return np.array(values)


def _spacing(groups: list[Any], ds: Any, regions: list[Any]) -> tuple[float, float] | None:
    measures = _macro(groups, "PixelMeasuresSequence")
    found = None if measures is None else numbers(measures, "PixelSpacing", 2)
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = found or numbers(ds, keyword, 2)
    if found is None and len(regions) == 1:
        region = regions[0]
        deltas = number(region, "PhysicalDeltaY"), number(region, "PhysicalDeltaX")
        units = {whole(region, "PhysicalUnitsXDirection"), whole(region, "PhysicalUnitsYDirection")}
        if units == {_CENTIMETRES} and deltas[0] and deltas[1]:
            found = (abs(deltas[0]) * 10, abs(deltas[1]) * 10)
    return (found[0], found[1]) if found and min(found) > 0 else None


def _thickness(groups: list[Any], ds: Any) -> float | None:
    measures = _macro(groups, "PixelMeasuresSequence")
    found = None if measures is None else number(measures, "SliceThickness")
    found = number(ds, "SliceThickness") if found is None else found
    return found if found and found > 0 else None


def _group_tags(groups: list[Any], frame_type: tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    found = {"ImageType": frame_type} if frame_type else {}
    for keyword, (name, separator) in _GROUPS.items():
        value = texts(_macro(groups, name), keyword)
        if any(value):
            found[separator] = value
    directions = first_item(_macro(groups, "MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
    gradient = texts(directions, "DiffusionGradientOrientation")
    return {**found, "DiffusionGradientOrientation": gradient} if gradient else found


def _seconds(header: Header) -> list[float] | None:
    """When each frame of a cine was taken, from the first; ``None`` where it isn't said."""
    if header.sop_class not in CINE_CLASSES or header.frames < 2:
        return None
    steps = numbers(header.values, "FrameTimeVector", header.frames)
    if steps is not None and min(steps[1:]) >= 0:
        return [float(s) / 1000 for s in np.cumsum((0.0, *steps[1:]))]
    step = number(header.values, "FrameTime")
    return [index * step / 1000 for index in range(header.frames)] if step and step > 0 else None


def frame_of_reference(header: Header) -> str | None:
    """FrameOfReferenceUID."""
    return uid_of(header.values, "FrameOfReferenceUID")
