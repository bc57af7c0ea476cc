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

"""Irregular series and what becomes of each: what the tests run and docs/reference/dicom-conformance.md shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made
import numpy as np
from pydicom import Dataset

from monai_sa2va.dicom.findings import FindingCode, Severity

__all__ = ["ROWS", "Row"]

_MPEG2 = "1.2.840.10008.1.2.4.100"


@dataclass(frozen=True)
class Row:
    """One irregularity.

    Attributes:
        irregularity: what is irregular.
        outcome: what happens, for the reader of the page.
        make: the instances; bytes are a file that is no DICOM.
        code: expected; ``None`` for nothing to tell.
        severity: expected with it.
        layouts: expected of the series and parts that are segmented.
    """

    irregularity: str
    outcome: str
    make: Callable[[], list[Dataset | bytes]]
    code: FindingCode | None
    severity: Severity | None
    layouts: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write its files, under names that say nothing, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(self.make()):
            path = folder / f"{number:04d}.dcm"
            if isinstance(one, bytes):
                path.write_bytes(one)
            else:
                one.save_as(path, enforce_file_format=True)
        return folder


def _twice(**second: Any) -> list[Dataset]:
    """A series, and other pixels at the same positions."""
    again = made.series(pixels=made.voxels(5, 6, 8, seed=1), **second)
    for number, ds in enumerate(again, 6):
        ds.SOPInstanceUID, ds.InstanceNumber = made.uid("again", number), number
        made.with_meta(ds)
    return [*made.series(AcquisitionNumber=1, EchoTime="10", TriggerTime="0"), *again]


def _same_pixels_again() -> list[Dataset]:
    again = made.series()
    for number, ds in enumerate(again):
        ds.SOPInstanceUID = made.uid("again", number)
        made.with_meta(ds)
    return [*made.series(), *again]


def _directions(*parts: tuple[int, tuple[float, ...]]) -> list[Dataset]:
    made_of = []
    for count, orientation in parts:
        for ds in made.series(count, orientation=orientation):
            number = len(made_of) + 1
            ds.InstanceNumber, ds.SOPInstanceUID = number, made.uid("direction", number)
            made_of.append(made.with_meta(ds))
    return made_of


def _with_localizer() -> list[Dataset]:
    scout = made.series(1, orientation=made.CORONAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[0]
    scout.SOPInstanceUID = made.uid("scout")
    return [*made.series(), made.with_meta(scout)]


def _two_matrices() -> list[Dataset]:
    small = made.series(3, 4, 4)
    for number, ds in enumerate(small):
        ds.SOPInstanceUID = made.uid("small", number)
        made.with_meta(ds)
    return [*made.series(), *small]


def _palette() -> Dataset:
    ds = made.image(np.arange(48, dtype=np.uint8).reshape(6, 8), made.US, "US", photometric="PALETTE COLOR")
    for colour, factor in (("Red", 1), ("Green", 2), ("Blue", 3)):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        table = bytes((factor * np.arange(256) % 256).astype(np.uint8))
        setattr(ds, f"{colour}PaletteColorLookupTableData", table)
    return ds


def _cut(ds: Dataset, end: int) -> Dataset:
    ds.PixelData = ds.PixelData[:end]
    return ds


def _compressed_and_cut(rows: int = 32, columns: int = 32) -> list[Dataset]:
    images = made.series(rows=rows, columns=columns, bits_stored=16)
    for ds in images:
        ds.compress(made.RLE, generate_instance_uid=False)
        ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]
    return images


def _film() -> list[Dataset]:
    images = made.series(pixels=made.voxels(5, 6, 8, high=256).astype(np.uint8), bits_stored=8)
    for ds in images:
        ds.file_meta.TransferSyntaxUID = _MPEG2
        ds.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00\x00\x00\x01\xb3"
        ds["PixelData"].is_undefined_length = True
    return images


def _colour(**more: Any) -> Dataset:
    return made.image(made.voxels(6, 8, 3, high=256).astype(np.uint8), made.US, "US", **more)


def _shuffled_numbers() -> list[Dataset]:
    return made.series(each=lambda z: {"InstanceNumber": (3, 1, 5, 2, 4)[z]})


_C, _S = FindingCode, Severity
_SLICES = "each slice is segmented and written where it lies, none is resampled or made up"

ROWS: tuple[Row, ...] = (
    Row("Parallel slices at even steps, in any order of files", "a volume", made.series, None, None, ("volume",)),
    Row(
        "InstanceNumber doesn't count along the slices",
        "a volume; positions alone decide",
        _shuffled_numbers,
        _C.INSTANCE_NUMBER_INCONSISTENT,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "The same instance in two files",
        "one is read",
        lambda: [*made.series(), *made.series()],
        _C.DUPLICATE_POSITION,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "The same instance in two files, one of which is cut or damaged",
        "the other one is read",
        lambda: [*made.series(), _cut(made.series()[0], 50), *_compressed_and_cut(6, 8)[1:2]],
        _C.DUPLICATE_POSITION,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "Two slices at one position with the same pixels",
        "one is read",
        _same_pixels_again,
        _C.DUPLICATE_POSITION,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "Volumes at the same positions, told apart by an attribute (echo, b-value, image type, …)",
        "each is segmented by itself, as a part",
        lambda: _twice(EchoTime="20"),
        _C.DUPLICATE_POSITION,
        _S.HANDLED,
        ("volume", "volume"),
    ),
    Row(
        "Volumes at the same positions, told apart by time (trigger, acquisition, content)",
        "each is segmented by itself, as a part",
        lambda: _twice(EchoTime="10", TriggerTime="50"),
        _C.DUPLICATE_POSITION,
        _S.HANDLED,
        ("volume", "volume"),
    ),
    Row(
        "Two acquisitions at the same positions",
        "each is segmented by itself, as a part",
        lambda: _twice(AcquisitionNumber=2),
        _C.TWO_ACQUISITIONS,
        _S.HANDLED,
        ("volume", "volume"),
    ),
    Row(
        "Two acquisitions whose slices don't make even steps together",
        "each is segmented by itself, as a part",
        lambda: made.series(
            8,
            places=made.positions(8, heights=[0, 5, 10, 15, 2, 7, 12, 17]),
            each=lambda z: {"AcquisitionNumber": 1 + z // 4},
        ),
        _C.TWO_ACQUISITIONS,
        _S.HANDLED,
        ("volume", "volume"),
    ),
    Row(
        "Two slices at one position with different pixels, and nothing tells them apart",
        "refused: no mask could say which it is of",
        lambda: _twice(EchoTime="10", TriggerTime="0"),
        _C.DUPLICATE_POSITION,
        _S.REFUSED,
    ),
    Row(
        "A slice is missing",
        _SLICES,
        lambda: made.series(places=made.positions(5, heights=[0, 5, 10, 20, 25])),
        _C.MISSING_SLICE,
        _S.WARNING,
        ("stack",),
    ),
    Row(
        "Gantry tilt",
        "a volume whose affine is sheared, exactly; nothing is straightened",
        lambda: made.series(places=made.positions(5, shear=(0.0, 0.3))),
        _C.GANTRY_TILT,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "Uneven steps",
        _SLICES,
        lambda: made.series(places=made.positions(5, heights=[0, 1, 4, 11, 12])),
        _C.NON_UNIFORM_SPACING,
        _S.WARNING,
        ("stack",),
    ),
    Row(
        "Gantry tilt and uneven steps",
        _SLICES,
        lambda: made.series(places=made.positions(5, shear=(0.0, 0.3), heights=[0, 1, 4, 11, 12])),
        _C.GANTRY_TILT,
        _S.HANDLED,
        ("stack",),
    ),
    Row(
        "Slices in several directions, several of each",
        "each direction is segmented by itself, as a part",
        lambda: _directions((5, made.AXIAL), (4, made.CORONAL)),
        _C.MIXED_ORIENTATION,
        _S.HANDLED,
        ("volume", "volume"),
    ),
    Row(
        "Every slice in its own direction (radial)",
        _SLICES,
        lambda: _directions(*((1, made.oblique(0, 0, 30 * k)) for k in range(4))),
        _C.MIXED_ORIENTATION,
        _S.WARNING,
        ("stack",),
    ),
    Row(
        "Images of different matrix, pixel spacing, colour or frame of reference",
        "each kind is segmented by itself, as a part",
        _two_matrices,
        _C.MIXED_MATRIX,
        _S.HANDLED,
        ("volume", "volume"),
    ),
    Row(
        "A localizer inside of a series, by its ImageType",
        "it is left out, the others are segmented",
        _with_localizer,
        _C.LOCALIZER,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "A series of localizers",
        "not segmented",
        lambda: made.series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        _C.LOCALIZER,
        _S.SKIPPED,
    ),
    Row(
        "Secondary captures of CT, MR, PT or NM; captures of screens and dose sheets; parametric maps",
        "not segmented",
        lambda: made.series(sop_class=made.SC),
        _C.DERIVED,
        _S.SKIPPED,
    ),
    Row(
        "Enhanced multi-frame CT or MR",
        "a volume; its functional groups say where each frame lies",
        lambda: [made.enhanced(shared=False)],
        _C.MULTI_FRAME,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "Several frames in a file whose SOP class allows one",
        "read like any other; what refers to a frame tells its number",
        lambda: [made.image(made.voxels(3, 6, 8), made.SC, "OT")],
        _C.MULTI_FRAME,
        _S.HANDLED,
        ("cine",),
    ),
    Row(
        "A film of ultrasound, X-ray, endoscopy",
        "a cine: frames in time",
        lambda: [made.cine()],
        _C.CINE,
        _S.HANDLED,
        ("cine",),
    ),
    Row(
        "One position again and again, told apart by time",
        "a cine: frames in time",
        lambda: made.series(modality="MR", places=np.zeros((5, 3)), each=lambda z: {"TriggerTime": str(40 * z)}),
        _C.CINE,
        _S.HANDLED,
        ("cine",),
    ),
    Row("One slice", "a picture with a place", lambda: made.series(1), _C.SINGLE_SLICE, _S.HANDLED, ("picture",)),
    Row(
        "A mosaic: all slices of a volume side by side in one image",
        "a picture without a place in the world, a cine where several follow each other",
        lambda: made.series(
            modality="MR",
            slices=3,
            places=np.zeros((3, 3)),
            each=lambda z: {"TriggerTime": str(40 * z)},
            ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        ),
        _C.MISSING_POSITION,
        _S.WARNING,
        ("cine",),
    ),
    Row("RGB", "8 bits a colour", lambda: [_colour()], _C.COLOUR, _S.HANDLED, ("picture",)),
    Row("YBR", "becomes RGB", lambda: [_colour(photometric="YBR_FULL")], _C.COLOUR, _S.HANDLED, ("picture",)),
    Row("A palette", "becomes RGB", lambda: [_palette()], _C.COLOUR, _S.HANDLED, ("picture",)),
    Row(
        "MONOCHROME1",
        "inverted within the range of its bits, as it is shown",
        lambda: [made.image(made.voxels(1, 6, 8)[0], made.DX, "DX", photometric="MONOCHROME1", bits_stored=12)],
        _C.MONOCHROME1,
        _S.HANDLED,
        ("picture",),
    ),
    Row(
        "Signed and unsigned pixels mixed",
        "each slice is read as it is stored",
        lambda: made.series(each=lambda z: {"signed": z % 2 == 1}),
        _C.SIGNED_UNSIGNED_MIX,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "A rescale for each slice",
        "each slice is rescaled by its own",
        lambda: made.series(each=lambda z: {"RescaleSlope": 1 + z}),
        _C.RESCALE_PER_SLICE,
        _S.HANDLED,
        ("volume",),
    ),
    Row(
        "Several CT, MR, PT or NM images without position, or CT, MR or PT frames of one file",
        "refused: nobody knows where they lie",
        lambda: made.series(each=lambda z: {} if z else {"position": None}),
        _C.MISSING_POSITION,
        _S.REFUSED,
    ),
    Row(
        "Several without orientation, or without PixelSpacing",
        "refused: nobody knows where their pixels lie",
        lambda: made.series(ImageOrientationPatient=None),
        _C.MISSING_POSITION,
        _S.REFUSED,
    ),
    Row(
        "Several frames of one file without position, of nuclear medicine, 3D ultrasound, OCT, …",
        "each frame is segmented by itself, in the order of the file, and written by its number, without a place",
        lambda: [made.image(made.voxels(5, 6, 8), made.ENHANCED_US, "US")],
        _C.MISSING_POSITION,
        _S.WARNING,
        ("stack",),
    ),
    Row(
        "A single image without position or orientation",
        "a picture without a place in the world",
        lambda: made.series(1, ImagePositionPatient=None),
        _C.MISSING_POSITION,
        _S.WARNING,
        ("picture",),
    ),
    Row(
        "A single image with a position, without PixelSpacing",
        "a picture without a place in the world",
        lambda: made.series(1, PixelSpacing=None),
        _C.NO_SPACING,
        _S.WARNING,
        ("picture",),
    ),
    Row(
        "Pixels cut short",
        "refused",
        lambda: [*made.series()[1:], _cut(made.series()[0], 50)],
        _C.TRUNCATED,
        _S.REFUSED,
    ),
    Row(
        "Compressed pixels cut short or damaged",
        "refused as they are read",
        _compressed_and_cut,
        _C.TRUNCATED,
        _S.REFUSED,
    ),
    Row(
        "A transfer syntax that nothing here decodes",
        "refused, with what to install where something does",
        _film,
        _C.CODEC_MISSING,
        _S.REFUSED,
    ),
    Row(
        "An image without pixels",
        "refused",
        lambda: made.series(PixelData=None),
        _C.NO_PIXELS,
        _S.REFUSED,
    ),
    *(
        Row(
            f"{name} in the folder",
            "not segmented",
            lambda sop_class=sop_class, modality=modality: [made.document(sop_class, modality)],
            _C.NOT_AN_IMAGE,
            _S.SKIPPED,
        )
        for name, sop_class, modality in (
            ("SEG", made.SEG, "SEG"),
            ("SR, also a dose report,", made.SR, "SR"),
            ("RTSTRUCT", made.RTSTRUCT, "RTSTRUCT"),
            ("PDF", made.PDF, "DOC"),
        )
    ),
    Row(
        "A whole-slide image in tiles",
        "not segmented",
        lambda: [_colour(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6", Modality="SM")],
        _C.NOT_AN_IMAGE,
        _S.SKIPPED,
    ),
    Row(
        "An image without the UIDs that name it, or with invalid ones",
        "refused: no result could refer to it",
        lambda: [made.image(made.voxels(1, 6, 8)[0], SeriesInstanceUID="../escaped")],
        _C.NOT_AN_IMAGE,
        _S.REFUSED,
    ),
    Row("A file that is no DICOM, or empty", "left out", lambda: [b"no DICOM", b""], _C.NOT_DICOM, _S.SKIPPED),
    Row(
        "Attributes of type 2 are absent (PatientBirthDate, StudyTime, …)",
        "written empty, never invented",
        lambda: made.series(PatientBirthDate=None),
        _C.MISSING_ATTRIBUTE,
        _S.WARNING,
        ("volume",),
    ),
    Row(
        "No date with its time: neither of content, acquisition, series nor study",
        "a SEG, which must have one, gets the day and the hour of writing; an RTSTRUCT's stays empty",
        lambda: made.series(**dict.fromkeys(("StudyTime", "SeriesTime", "ContentTime", "AcquisitionTime"), "")),
        _C.MISSING_ATTRIBUTE,
        _S.WARNING,
        ("volume",),
    ),
    Row(
        'Attributes of patient or study with values that DICOM doesn\'t allow (a birth date "unknown", an age "45", …)',
        "written empty where an attribute must be there, else left out; UIDs are kept, as references have to match",
        lambda: made.series(PatientBirthDate="unknown", PatientAge="45"),
        _C.INVALID_ATTRIBUTE,
        _S.WARNING,
        ("volume",),
    ),
)
"""Every irregularity that has a code, and the regular case first."""
