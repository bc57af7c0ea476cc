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
"""Which instances are images to segment, by their SOP class and image type."""

from __future__ import annotations

from collections.abc import Sequence

from monai_sa2va.dicom.findings import Finding, FindingCode, Severity

__all__ = [
    "CINE_CLASSES",
    "SINGLE_FRAME_CLASSES",
    "SLICE_MODALITIES",
    "VOLUME_MODALITIES",
    "not_wanted",
    "sop_class_name",
]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = (
    *("4.2", "9", "11", "66", "67", "68", "78", "79", "80", "81", "82", "88", "90", "91", "104", "131"),
    *("200", "201", "481", "501", "601"),
)
"""What SOP classes of no image begin with, after `_STORAGE`: spectra, waveforms, presentation states, segmentations,
registrations, measurements, reports, annotations, documents, plans and doses."""
_RT_IMAGE = _STORAGE + "481.1"
_WHOLE_SLIDE = _STORAGE + "77.1.6"
_PARAMETRIC_MAP = _STORAGE + "30"
_SECONDARY_CAPTURES = tuple(_STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4"))

CINE_CLASSES = tuple(
    _STORAGE + end
    for end in (
        *("3", "3.1", "6", "6.1", "12.1", "12.1.1", "12.2", "12.2.1", "7", "7.1", "7.2", "7.3", "7.4"),
        *("77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.4", "77.1.4.1", "77.1.5.1", "77.1.5.2"),
    )
)
"""SOP classes whose frames follow each other in time: ultrasound, X-ray angiography and fluoroscopy, screens, videos,
ophthalmic photographs."""

SINGLE_FRAME_CLASSES = tuple(
    _STORAGE + end
    for end in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "4", "6", "6.1", "7", "128"),
        *("77.1.1", "77.1.2", "77.1.4", "77.1.5.1", "77.1.5.2"),
    )
)
"""SOP classes whose instances have one frame by the standard, though files with more are met."""

VOLUME_MODALITIES = ("CT", "MR", "PT", "NM")
"""Modalities whose images are slices, so that several of them without a place can't be put together."""

SLICE_MODALITIES = ("CT", "MR", "PT")
"""Modalities whose every frame is a slice, so that several frames of one file without a place can't be put together."""

_CAPTURES = ("SCREEN SAVE", "SCREEN_SAVE", "DOSE_INFO", "DOSE REPORT", "CT_SOM5 PROT", "CSA REPORT", "REPORT")


def sop_class_name(sop_class: str) -> str:
    """The standard's name of a SOP class, else its UID."""
    from pydicom.uid import UID

    return str(UID(sop_class).name)


def not_wanted(sop_class: str, modality: str, image_type: Sequence[str]) -> Finding | None:
    """Why an instance, or a frame of one, was not meant to be segmented; ``None`` where it was.

    Args:
        sop_class: SOPClassUID.
        modality: Modality.
        image_type: ImageType, or a frame's FrameType.
    """
    end = sop_class.removeprefix(_STORAGE)
    if sop_class == _WHOLE_SLIDE:
        return _skipped(FindingCode.NOT_AN_IMAGE, "a whole-slide image in tiles, which are no frames; export a picture")
    if sop_class == _PARAMETRIC_MAP:
        return _skipped(FindingCode.DERIVED, "a parametric map; segment the images that it was derived from")
    named = end.startswith(tuple(f"{begin}." for begin in _NO_IMAGES)) or end in _NO_IMAGES
    elsewhere = sop_class.startswith("1.2.840.10008.") and not sop_class.startswith(_STORAGE)
    if elsewhere or (named and sop_class != _RT_IMAGE):
        return _skipped(FindingCode.NOT_AN_IMAGE, f"{sop_class_name(sop_class)} is no image")
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return _skipped(FindingCode.LOCALIZER, "a localizer, by its ImageType")
    if set(_CAPTURES) & set(image_type):
        return _skipped(FindingCode.DERIVED, "a capture of a screen or a report, by its ImageType")
    if sop_class in _SECONDARY_CAPTURES and modality in VOLUME_MODALITIES:
        return _skipped(FindingCode.DERIVED, f"a secondary capture of {modality}; segment the images it was made of")
    return None


def _skipped(code: FindingCode, message: str) -> Finding:
    return Finding(code, Severity.SKIPPED, message)
