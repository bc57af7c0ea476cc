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
"""What the pixels of a series are like, as its headers say: what is unusual, and what can't be read."""

from __future__ import annotations

from collections.abc import Sequence

from monai_sa2va.dicom.findings import Finding, FindingCode, Severity
from monai_sa2va.dicom.frames import Candidate
from monai_sa2va.dicom.headers import Header
from monai_sa2va.dicom.kinds import SINGLE_FRAME_CLASSES, VOLUME_MODALITIES
from monai_sa2va.dicom.series import Layout
from monai_sa2va.dicom.values import text, whole

__all__ = ["channels", "look_findings", "pixel_fault", "raster"]


def channels(header: Header) -> int:
    """1 for grey, 3 for colour."""
    many = whole(header.values, "SamplesPerPixel") or 1
    return 3 if many > 1 or text(header.values, "PhotometricInterpretation") == "PALETTE COLOR" else 1


def raster(header: Header) -> tuple[int, int] | None:
    """Rows and columns, ``None`` where the file doesn't say."""
    rows, columns = whole(header.values, "Rows"), whole(header.values, "Columns")
    return (rows, columns) if rows and columns and rows > 0 and columns > 0 else None


def pixel_fault(headers: Sequence[Header]) -> Finding | None:
    """Why the pixels of a series can't all be read, as far as headers tell."""
    empty = sum(header.pixel_bytes == 0 for header in headers)
    if empty:
        return _refused(FindingCode.NO_PIXELS, f"files without pixels: {empty} of {len(headers)}; fetch them again")
    if any(raster(header) is None or not whole(header.values, "BitsAllocated") for header in headers):
        message = "files don't say how their pixels are stored (Rows, Columns, BitsAllocated); fetch them again"
        return _refused(FindingCode.NO_PIXELS, message)
    cut = sum(
        header.cut or (header.pixel_bytes is not None and header.pixel_bytes < _needed(header)) for header in headers
    )
    if cut:
        return _refused(FindingCode.TRUNCATED, f"files cut short: {cut} of {len(headers)}; fetch them again")
    return None


def look_findings(frames: Sequence[Candidate], layout: Layout) -> list[Finding]:
    """What is unusual about the pixels, and the order, of frames that are segmented together."""
    headers = [one.header for one in frames]
    found = []
    if len(headers) > 1 and any(header.frames > 1 for header in headers) and layout is not Layout.CINE:
        found.append(_handled(FindingCode.MULTI_FRAME, "several slices in one file"))
    if any(header.frames > 1 and header.sop_class in SINGLE_FRAME_CLASSES for header in headers):
        message = "several frames in a file whose SOP class allows one; what refers to a frame tells its number"
        found.append(_handled(FindingCode.MULTI_FRAME, message))
    if layout is Layout.CINE:
        timed = "" if frames[0].frame.seconds is not None else "; their times are not known"
        found.append(_handled(FindingCode.CINE, f"{len(frames)} frames of one view in time{timed}"))
    if layout is Layout.PICTURE and headers[0].modality in VOLUME_MODALITIES:
        found.append(_handled(FindingCode.SINGLE_SLICE, "a single slice"))
    if channels(headers[0]) == 3:
        found.append(_handled(FindingCode.COLOUR, "colours, as 8-bit red, green and blue"))
    if any(text(header.values, "PhotometricInterpretation") == "MONOCHROME1" for header in headers):
        found.append(_handled(FindingCode.MONOCHROME1, "darker is more: inverted, as it is shown"))
    if len({whole(header.values, "PixelRepresentation") for header in headers}) > 1:
        found.append(_handled(FindingCode.SIGNED_UNSIGNED_MIX, "signed and unsigned pixels, each read as it is stored"))
    if len({one.rescale for one in frames}) > 1:
        found.append(_handled(FindingCode.RESCALE_PER_SLICE, "slices have each their own rescale, which is applied"))
    if layout in (Layout.VOLUME, Layout.STACK) and not _counts_along(headers):
        message = "InstanceNumber doesn't count along the slices; positions alone decide"
        found.append(_handled(FindingCode.INSTANCE_NUMBER_INCONSISTENT, message))
    return found


def _counts_along(headers: Sequence[Header]) -> bool:
    if len({id(header) for header in headers}) < len(headers):
        return True
    counted = [whole(header.values, "InstanceNumber") for header in headers]
    numbers = [number for number in counted if number is not None]
    distinct = len(set(numbers)) == len(counted)
    return distinct and sorted(numbers) in (numbers, numbers[::-1])


def _needed(header: Header) -> int:
    """Bytes that the pixels take as they are."""
    rows, columns = raster(header) or (0, 0)
    samples = whole(header.values, "SamplesPerPixel") or 1
    pixels = rows * columns * header.frames
    # two of three colours are there for every second pixel only
    halved = text(header.values, "PhotometricInterpretation") == "YBR_FULL_422" and samples == 3
    return (pixels * (2 if halved else samples) * (whole(header.values, "BitsAllocated") or 0) + 7) // 8


def _handled(code: FindingCode, message: str) -> Finding:
    return Finding(code, Severity.HANDLED, message)


def _refused(code: FindingCode, message: str) -> Finding:
    return Finding(code, Severity.REFUSED, message)
