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

"""Slices of a nuclear medicine tomography in one file: its detector says where the first lies, its spacing the others.

By PS3.3 C.8.4.15 a positive SpacingBetweenSlices counts along row direction x column direction, a negative one against
it. Planar images and projections are no slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_sa2va.dicom.headers import Header
from monai_sa2va.dicom.values import first_item, number, numbers

__all__ = ["ReconstructedSlice", "reconstructed_slices"]

_NM_CLASS = "1.2.840.10008.5.1.4.1.1.20"
_RECONSTRUCTED = ("RECON TOMO", "RECON GATED TOMO")


@dataclass(frozen=True, eq=False)
class ReconstructedSlice:
    """Where a frame lies.

    Attributes:
        position: (3,) float64, LPS in mm, of the first pixel's centre.
        orientation: as ImageOrientationPatient.
        tags: what tells it from another at the same place, of a gated one its time slot.
    """

    position: np.ndarray
    orientation: tuple[float, ...]
    tags: dict[str, tuple[str, ...]]


def reconstructed_slices(header: Header, dataset: Any) -> list[ReconstructedSlice]:
    """The place of each frame of a reconstructed tomography.

    Args:
        header: of the instance.
        dataset: with its sequences.

    Returns:
        One a frame; none where the instance is no such, or doesn't say all of it.
    """
    if header.sop_class != _NM_CLASS or not set(_RECONSTRUCTED) & set(header.image_type):
        return []
    detector = first_item(dataset, "DetectorInformationSequence")
    origin, orientation = numbers(detector, "ImagePositionPatient", 3), numbers(detector, "ImageOrientationPatient", 6)
    step = number(header.values, "SpacingBetweenSlices")
    counted = numbers(header.values, "SliceVector", header.frames)
    if origin is None or orientation is None or not step or counted is None:
        return []
    slots = numbers(header.values, "TimeSlotVector", header.frames)
    along = step * np.cross(orientation[:3], orientation[3:])
    return [
        ReconstructedSlice(
            np.array(origin) + (count - 1) * along,
            orientation,
            {} if slots is None else {"TemporalPositionIdentifier": (f"{slots[index]:g}",)},
        )
        for index, count in enumerate(counted)
    ]
