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
"""Files and members of zips that hold gigabytes of nothing are told from images at once, and in little memory."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
import numpy as np

from monai_sa2va.dicom.findings import FindingCode
from monai_sa2va.dicom.pixels import read_array
from monai_sa2va.dicom.scan import scan


@pytest.mark.parametrize(
    "begin",
    [
        bytes(128) + b"DICM",
        b"\x08\0",
        # a sequence of no stated length, whose items were never written
        bytes(128) + b"DICM\x08\0\x05\0CS\x0a\0ISO_IR 100\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff",
    ],
)
def test_a_file_whose_rest_was_never_written(tmp_path: Path, begin: bytes) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.write(begin)
        stream.truncate(1 << 30)
    (one,) = scan(tmp_path).files
    assert one.finding.code is FindingCode.NOT_DICOM


@pytest.mark.parametrize("begin", [b"", bytes(128) + b"DICM"])
def test_a_zip_of_zeros_takes_no_memory(tmp_path: Path, begin: bytes) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("one.dcm", "w") as member,
    ):
        member.write(begin)
        for _ in range(100):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        (one,) = scan(tmp_path / "bomb.zip").files
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one.finding.code is FindingCode.NOT_DICOM
    assert peak < 30 << 20


def test_a_large_member_is_read_as_it_is_unfolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = made.write(tmp_path / "in", [made.enhanced(4)])
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain / "0000.dcm", "one.dcm")
    monkeypatch.setattr("monai_sa2va.dicom.files._IN_MEMORY", 100)
    (series,) = scan(tmp_path / "a.zip").series
    assert np.array_equal(read_array(series), read_array(scan(plain).series[0]))


@pytest.mark.parametrize("at", [0.02, 0.5, 0.9])
def test_a_damaged_large_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: float) -> None:
    plain = made.write(tmp_path / "in", made.series(1, 64, 64))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain / "0000.dcm", "one.dcm")
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[int(at * len(raw))] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    monkeypatch.setattr("monai_sa2va.dicom.files._IN_MEMORY", 100)
    found = scan(tmp_path / "a.zip")
    codes = [one.finding.code for one in (*found.left_out, *found.files)]
    if not codes:
        (series,) = found.series
        with pytest.raises(Exception, match=r"\[(TRUNCATED|NOT_DICOM)\]"):
            read_array(series)
