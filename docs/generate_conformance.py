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
"""Writes docs/reference/dicom-conformance.md from what the tests run: ``python docs/generate_conformance.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from monai_sa2va.dicom.findings import Severity
from monai_sa2va.dicom.geometry import EVEN_SHARE, SAME_DIRECTION, SAME_PLACE_MM, TILT_DEGREES

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parent / "reference" / "dicom-conformance.md"

_TOLD = {
    None: "–",
    Severity.HANDLED: "handled exactly",
    Severity.WARNING: "handled, with a warning",
    Severity.SKIPPED: "skipped",
    Severity.REFUSED: "refused",
}

_HEAD = """# DICOM conformance

<!-- Made by `python docs/generate_conformance.py` from tests/dicom/irregularities.py; don't edit it here. -->

Each row is a series that the tests make, read and compare with this table. Its code stands in `summary.csv` and in the
findings of `report.json`; those of attributes (`MISSING_ATTRIBUTE`, `INVALID_ATTRIBUTE`), which are looked at when a
DICOM object is written, in `report.json` alone. What is skipped or refused is never written; everything else is.

| Irregularity | What happens | How | Code |
|---|---|---|---|
"""

_TAIL = f"""
Refused are only: no pixels, pixels cut short or damaged, no decoder, no place for a volume, different pixels at one
position that no attribute tells apart, and what is no image of DICOM.

## How frames are put in order

Positions and orientations alone decide. Frames of one orientation stand in the order of their positions along the
normal, row direction × column direction; frames of a film in the order of time. `InstanceNumber` gives single pictures
without a place their order, and decides nothing else.

| Tolerance | Value |
|---|---|
| Direction cosines of one orientation differ by at most | {SAME_DIRECTION:g} |
| Frames are at one position when they are nearer than | {SAME_PLACE_MM:g} mm |
| Steps are even when no frame is farther from its place than | {EVEN_SHARE:.0%} of the step |
| A gantry counts as tilted from | {TILT_DEGREES:g}° |

## Values

Pixels become modality values: signed or unsigned as stored, bits above `BitsStored` cut off, rescaled by the slice's
own `RescaleSlope` and `RescaleIntercept` or modality table, in `int16` where that is exact, else `float32`. 8-bit
values without a rescale stay `uint8`. `PixelPaddingValue` takes the smallest value of the slice that is no padding.

All transfer syntaxes are read that pydicom's plugins decode with pylibjpeg and GDCM: uncompressed, deflated, RLE, JPEG
(8 bits), JPEG lossless, JPEG-LS, JPEG 2000. Lossy JPEG of 12 bits needs `pylibjpeg-libjpeg`, which is GPL.
"""


def render() -> str:
    """The page."""
    rows = [
        f"| {row.irregularity} | {row.outcome} | {_TOLD[row.severity]} | {f'`{row.code.value}`' if row.code else '–'} |"
        for row in _rows()
    ]
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


def _rows() -> Any:
    folder = str(Path(__file__).parents[1] / "tests" / "dicom")
    sys.path.insert(0, folder)
    try:
        from irregularities import ROWS
    finally:
        sys.path.remove(folder)
    return ROWS


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
