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
"""The header of one DICOM file, without its pixels: what the reading of a series needs, and no more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Literal

from monai_sa2va.dicom.files import file_label, not_dicom, open_file
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.kinds import not_wanted
from monai_sa2va.dicom.series import DicomFile
from monai_sa2va.dicom.streams import WithoutHoles
from monai_sa2va.dicom.values import as_texts, text, texts, uid_of, whole

__all__ = [
    "PIXEL_TAGS",
    "TIME_SEPARATORS",
    "VALUE_SEPARATORS",
    "Header",
    "PixelElement",
    "dataset_of",
    "pixel_element",
    "read_header",
]

PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
"""Elements that hold pixels."""

VALUE_SEPARATORS = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "ImageType", "InversionTime"),
    *(
        "DiffusionBValue",
        "DiffusionGradientOrientation",
        "NominalPercentageOfCardiacPhase",
        "FlipAngle",
        "SequenceName",
    ),
    *("ConvolutionKernel", "KVP", "ReconstructionDiameter", "StackID", "DataCollectionDiameter"),
)
"""Attributes of which one value is one volume, in the order in which they are tried."""
TIME_SEPARATORS = ("TriggerTime", "FrameReferenceTime", "AcquisitionDateTime", "AcquisitionTime", "ContentTime")
"""Attributes that tell the repetitions of a slice apart, likewise."""

_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("SeriesDescription", "ImageType", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope"),
    *("RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("NominalScannedPixelSpacing", "SliceThickness", "FrameTime", "FrameTimeVector", "SequenceOfUltrasoundRegions"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SpecificCharacterSet"),
    *("DetectorInformationSequence", "SliceVector", "TimeSlotVector", "SpacingBetweenSlices"),
    *VALUE_SEPARATORS,
    *TIME_SEPARATORS,
)
_SEQUENCES = ("Sequence", "Regions")
_PACKED = (b"PK\3\4", b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"Rar!")
"""What zips within zips, and archives of other kinds begin with."""
_UNDEFINED = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DEFLATED_RATIO = 1032
"""What a deflated byte can unfold to at most."""
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")


@dataclass(frozen=True)
class PixelElement:
    """The element that holds pixels.

    Attributes:
        keyword: which of `PIXEL_TAGS`.
        vr: its value representation.
        length: bytes, as stated; ``None`` where it is left open, as of compressed pixels; 0 where there is no element.
        left: bytes that follow in the file.
    """

    keyword: str
    vr: str
    length: int | None
    left: int


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of itself.

    Attributes:
        file: where it is.
        values: of the attributes that it has: keyword -> texts. Not pydicom's data set, of which a hundred thousand
            would fill the memory.
        transfer_syntax: its UID; of a file that doesn't say, the one that it is read by.
        pixel_bytes: length of the pixel data as the file has it; ``None`` where it isn't known from here, as of
            compressed ones; 0 without pixel data.
        cut: whether the file ends before its pixels do.
    """

    file: DicomFile
    values: Mapping[str, tuple[str, ...]]
    transfer_syntax: str
    pixel_bytes: int | None
    cut: bool

    @property
    def sop_class(self) -> str:
        """SOPClassUID, empty where it is missing."""
        return text(self.values, "SOPClassUID")

    @property
    def modality(self) -> str:
        """Modality, ``"OT"`` where it is missing."""
        return text(self.values, "Modality") or "OT"

    @property
    def image_type(self) -> tuple[str, ...]:
        """ImageType."""
        return texts(self.values, "ImageType")

    @property
    def frames(self) -> int:
        """NumberOfFrames, 1 where it is missing, and where the file is too short for what it says."""
        return 1 if self.cut else max(1, whole(self.values, "NumberOfFrames") or 1)


def read_header(file: DicomFile) -> tuple[Header, Any]:
    """Read one file up to its pixels.

    Returns:
        Its header, and pydicom's data set, for the sequences in it.

    Raises:
        DicomError: NOT_DICOM when it is no DICOM file; NOT_AN_IMAGE when it lacks the UIDs that name an instance.
    """
    with open_file(file) as stream:
        dataset = dataset_of(file, stream, _TAGS)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        # of deflated bytes nothing is told before all of them are unpacked
        deflated = syntax == _DEFLATED
        element = PixelElement("PixelData", "OW", None, 0) if deflated else pixel_element(stream, dataset)
        room = _DEFLATED_RATIO * stream.seek(0, os.SEEK_END) if deflated else element.left
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if uid_of(dataset, keyword) is None:
            raise _nameless(file, dataset, keyword)
    length = element.length if syntax in _NATIVE or element.length == 0 else None
    keywords = _keywords()
    values = {keywords[tag]: _same(_texts(dataset, tag)) for tag in dataset.keys() & keywords.keys()}
    short = element.length is not None and element.left < element.length
    # a number of frames that is garbage would be counted for hours
    cut = short or (element.length != 0 and _least_bytes(values, syntax in _NATIVE) > room)
    return Header(file, values, syntax, length, cut), dataset


def _least_bytes(values: Mapping[str, tuple[str, ...]], native: bool) -> int:
    """Bytes that the frames take at least; of a compressed one the 8 that begin it."""
    rows, columns, bits = (whole(values, keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated"))
    return (whole(values, "NumberOfFrames") or 1) * (rows * columns * bits // 8 if native else 8)


def _texts(dataset: Any, tag: int) -> tuple[str, ...]:
    # converting a garbage value raises whatever its type raises
    try:
        return as_texts(dataset[tag].value)
    except Exception:
        return ()


@lru_cache(maxsize=1)
def _keywords() -> dict[int, str]:
    """Attributes that hold values, by tag."""
    from pydicom.datadict import tag_for_keyword

    return {tag_for_keyword(keyword) or 0: keyword for keyword in _TAGS if not keyword.endswith(_SEQUENCES)}


@lru_cache(maxsize=4096)
def _same(values: tuple[str, ...]) -> tuple[str, ...]:
    """One object for equal values, as most are the same in all files of a series."""
    return values


def dataset_of(file: DicomFile, stream: BinaryIO, tags: tuple[str, ...] | None, pixels: bool = False) -> Any:
    """A file's data set, the stream left where its pixels begin; its meta has a transfer syntax.

    Args:
        file: what messages name.
        stream: its bytes.
        tags: keywords of the attributes that are wanted; ``None`` for all.
        pixels: whether the pixels are read with it.

    Raises:
        DicomError: NOT_DICOM when it is no DICOM file.
    """
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    wanted = None if tags is None else list(tags)
    begin = stream.read(132)
    stream.seek(0)
    marked = begin[128:] == b"DICM"
    # also without the 128 bytes that go before, from any element of the file's meta information
    meta = begin.startswith(b"\x02\0") and begin[4:6].isalpha() and begin[4:6].isupper()
    if not marked and not meta and not begin.startswith((b"\x02\0\0\0", b"\x08\0", b"\0\x08")):
        packed = begin.startswith(_PACKED)
        raise not_dicom(file, "is packed; if it holds DICOM, unpack it" if packed else "is no DICOM file")
    try:
        dataset = dcmread(WithoutHoles(stream), stop_before_pixels=not pixels, force=True, specific_tags=wanted)
        file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
        if not file_meta.get("TransferSyntaxUID"):
            implicit, little = dataset.original_encoding
            known = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            file_meta.TransferSyntaxUID = known
        dataset.file_meta = file_meta
        # read now, not when an attribute is asked for
        told = str(file_meta.get("MediaStorageSOPClassUID", "")) or text(dataset, "SOPClassUID")
    # damaged bytes raise nearly anything
    except Exception as error:
        raise not_dicom(file, f"is damaged DICOM, or none: {type(error).__name__}") from None
    if not told:
        raise not_dicom(file, "is no DICOM file" if not marked else "has no SOPClassUID, so nobody knows what it is")
    return dataset


def pixel_element(stream: BinaryIO, dataset: Any) -> PixelElement:
    """The pixel data that a stream stands before; it stands at the first of their bytes afterwards."""
    order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"
    begin = stream.read(8)
    group, number = int.from_bytes(begin[:2], order), int.from_bytes(begin[2:4], order)
    keyword = PIXEL_TAGS.get(group << 16 | number)
    if len(begin) < 8 or keyword is None:
        return PixelElement("PixelData", "OW", 0, 0)
    # some files have another encoding than they say, which pydicom finds out
    explicit = begin[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    length = int.from_bytes(stream.read(4) if explicit else begin[4:], order)
    at = stream.tell()
    left = stream.seek(0, os.SEEK_END) - at
    stream.seek(at)
    vr = begin[4:6].decode() if explicit and begin[4:6] != b"UN" else "OW"
    return PixelElement(keyword, vr, None if length == _UNDEFINED else length, left)


def _nameless(file: DicomFile, dataset: Any, keyword: str) -> DicomError:
    sop_class = text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    unwanted = not_wanted(sop_class, "", ())
    if unwanted is not None:
        return DicomError(unwanted)
    message = f"{file_label(file)} has no valid {keyword}, so no result could refer to it; it is no instance of DICOM"
    return DicomError(Finding(FindingCode.NOT_AN_IMAGE, Severity.REFUSED, message))
