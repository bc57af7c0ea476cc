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

"""Whatever is in a header, a series is read or refused with a code: no traceback, no made-up place, no name."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword

from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.pixels import read_array
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries, Layout
from monai_sa2va.dicom.windows import series_window

REFUSE = ("CODEC_MISSING", "DUPLICATE_POSITION", "MISSING_POSITION", "NOT_AN_IMAGE", "NO_PIXELS", "TRUNCATED")
SKIP = ("DERIVED", "LOCALIZER", "NOT_AN_IMAGE", "NOT_DICOM")
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("ImageType", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"),
    *("PhotometricInterpretation", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "AcquisitionNumber"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "SpecificCharacterSet"),
    *("ContentTime", "TriggerTime", "PlanarConfiguration", "VOILUTFunction"),
)
GARBAGE = (
    *(b"", b" ", b"\0\0", b"\xff\xff", b"0 ", b"-1", b"nan ", b"inf ", b"1e99", b"abc ", b"\\\\\\ ", b"1\\2 "),
    *(b"0\\0\\0 ", b"0\\0\\0\\0\\0\\0 ", b"1\\0\\0\\1\\0\\0 ", b"../x", b"\xe4\xf6\xfc "),
    *(b"ISO 2022 IR 999 ", b"99999999", b"Made^Patient"),
)
KINDS = {"ct": lambda: made.series(3), "cine": lambda: [made.cine()], "enhanced": lambda: [made.enhanced(3)]}


def outcome(folder: Path) -> list[DicomSeries]:
    """Check what becomes of a folder, and return what was read."""
    found = scan(folder)
    told: list[Finding] = [left_out.finding for left_out in (*found.left_out, *found.files)]
    read = []
    for series in found.series:
        told += series.findings
        array = pixels(series)
        if isinstance(array, Finding):
            told.append(array)
        else:
            read.append(series)
            assert array.shape == (series.channels, *series.shape)
            assert (series.affine is not None) >= (series.layout is Layout.VOLUME)
            assert series.affine is None or np.isfinite(series.affine).all()
            series_window(series)
    for finding in told:
        if finding.severity in (Severity.REFUSED, Severity.SKIPPED):
            assert finding.code.value in (REFUSE if finding.severity is Severity.REFUSED else SKIP), finding
        assert "Made^" not in finding.message
        assert "\n" not in finding.message
    assert told or read
    return read


def pixels(series: DicomSeries) -> np.ndarray | Finding:
    try:
        return read_array(series)
    except DicomError as error:
        return error.finding


def spoil(raw: bytes, keyword: str, value: bytes | None) -> bytes:
    """A file whose attribute is gone, or holds bytes that nobody looked at."""
    tag = tag_for_keyword(keyword)
    vr = dictionary_VR(tag).partition(" ")[0].encode()
    begin = raw.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr)
    if begin < 0:
        return raw
    end = begin + 8 + int.from_bytes(raw[begin + 6 : begin + 8], "little")
    if value is None:
        return raw[:begin] + raw[end:]
    padded = value + b" " * (len(value) % 2)
    return raw[: begin + 6] + struct.pack("<H", len(padded)) + padded + raw[end:]


spoiled = st.tuples(st.sampled_from(KEYWORDS), st.sampled_from((None, *GARBAGE)), st.booleans())


@settings(max_examples=50)
@given(st.sampled_from(sorted(KINDS)), st.lists(spoiled, min_size=1, max_size=3))
def test_any_value_in_any_attribute(kind: str, changes: list[tuple[str, bytes | None, bool]]) -> None:
    images = {"ct": lambda: made.series(3), "cine": lambda: [made.cine()], "enhanced": lambda: [made.enhanced(3)]}[
        kind
    ]()
    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder), images)
        paths = sorted(Path(folder).iterdir())
        for keyword, value, everywhere in changes:
            for path in paths if everywhere else paths[-1:]:
                path.write_bytes(spoil(path.read_bytes(), keyword, value))
        outcome(Path(folder))


@settings(max_examples=50)
@given(st.sampled_from(["ct", "enhanced", "rle"]), st.data())
def test_any_damage_to_the_bytes(kind: str, data: Any) -> None:
    images = [made.enhanced(3)] if kind == "enhanced" else made.series(2, 16, 16)
    if kind == "rle":
        for ds in images:
            ds.compress(made.RLE, generate_instance_uid=False)
    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder), images)
        path = Path(folder) / "0000.dcm"
        raw = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            raw = raw[: data.draw(st.integers(0, len(raw)))]
        else:
            for _ in range(data.draw(st.integers(1, 5))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(raw)
        outcome(Path(folder))


@pytest.mark.parametrize("syntax", [None, made.RLE])
def test_frames_that_can_not_be_there_are_not_counted(tmp_path: Path, syntax: str | None) -> None:
    film = made.cine(rows=16, columns=16)
    if syntax is not None:
        film.compress(syntax, generate_instance_uid=False)
    film.NumberOfFrames = 99999999
    assert outcome(made.write(tmp_path, [film])) == []
    assert scan(tmp_path).left_out[0].finding.code is FindingCode.TRUNCATED


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0 "),
        ("ImagePositionPatient", b"nan\\0\\0 "),
        ("PixelSpacing", b"0\\0 "),
    ],
)
def test_a_place_that_is_none_places_nothing(tmp_path: Path, keyword: str, value: bytes) -> None:
    for path in made.write(tmp_path, made.series(3)).iterdir():
        path.write_bytes(spoil(path.read_bytes(), keyword, value))
    assert outcome(tmp_path) == []
    assert [one.finding.code for one in scan(tmp_path).left_out] == [FindingCode.MISSING_POSITION]
