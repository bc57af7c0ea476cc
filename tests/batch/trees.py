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

"""Made DICOM trees of many small series, of which some can't be segmented, and what a batch made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
from pydicom import Dataset
from pydicom.encaps import encapsulate


def small(number: int, slices: int = 2, **more: Any) -> list[Dataset]:
    """A series unlike any of another number."""
    pixels = made.voxels(slices, 16, 20, seed=number)
    modality = "MR" if number % 4 == 3 else "CT"
    return made.series(slices, 16, 20, modality, f"series {number}", pixels=pixels, **more)


def _cut(folder: Path) -> None:
    file = next(folder.glob("*.dcm"))
    file.write_bytes(file.read_bytes()[:-200])


def _stored_as(syntax: str, content: bytes) -> Callable[[list[Dataset]], None]:
    def change(series: list[Dataset]) -> None:
        for ds in series:
            ds.PixelData = encapsulate([content])
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
            ds.file_meta.TransferSyntaxUID = syntax

    return change


def _set(**values: Any) -> Callable[[list[Dataset]], None]:
    def change(series: list[Dataset]) -> None:
        for ds in series:
            for keyword, value in values.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)

    return change


def _same_place(series: list[Dataset]) -> None:
    for ds in series:
        ds.ImagePositionPatient = series[0].ImagePositionPatient


_CHANGES: dict[str, Callable[[list[Dataset]], None]] = {
    "no pixels": _set(PixelData=None),
    "localizer": _set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "capture": _set(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    "dose report": _set(ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"]),
    "no position": _set(ImagePositionPatient=None),
    "one position": _same_place,
    "torn JPEG 2000": _stored_as("1.2.840.10008.1.2.4.90", b"no codestream" * 9),
    "torn RLE": _stored_as("1.2.840.10008.1.2.5", b"no segments at all" * 9),
    "torn JPEG": _stored_as("1.2.840.10008.1.2.4.70", b"no scan" * 20),
    "a codec that nobody has": _stored_as("1.2.840.10008.1.2.4.100", b"a video" * 20),
    "lossy JPEG of 12 bits": _stored_as("1.2.840.10008.1.2.4.51", b"no scan" * 20),
    "no rows": _set(Rows=0),
    "no columns": _set(Columns=None),
}
_DOCUMENTS = {"report": made.SR, "structures": made.RTSTRUCT, "PDF": made.PDF, "segmentation": made.SEG}
_BYTES = {"text.dcm": b"no DICOM" * 40, "empty.dcm": b"", "torn.zip": b"PK\3\4 no archive"}
BROKEN = (*_CHANGES, *_DOCUMENTS, *_BYTES)
"""Twenty ways in which a series, or a file, can't be segmented."""


def tree(folder: Path, sound: int, broken: bool = True) -> Path:
    """A DICOM tree of so many small series, and one of each kind that is broken."""
    for number in range(sound):
        made.write(folder / f"{number % 7}" / f"series {number}", small(number))
    for number, name in enumerate(BROKEN if broken else (), 1000):
        place = folder / name
        place.mkdir()
        if name in _BYTES:
            (place / name).write_bytes(_BYTES[name])
        elif name in _DOCUMENTS:
            made.write(place, [made.document(_DOCUMENTS[name], name=name)])
        else:
            series = small(number)
            _CHANGES[name](series)
            made.write(place, series)
    return folder


def results(out: Path) -> dict[str, Any]:
    """Every result by its path: bytes, and reports without the times that they tell."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.parent != out:
            name = path.relative_to(out).as_posix()
            found[name] = path.read_bytes()
            if path.name == "report.json":
                report = json.loads(found[name])
                assert set(report["run"].pop("seconds")) == {"read", "segment"}
                found[name] = report
    return found
