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

"""Series are found wherever their files are, and whatever else is there."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
from pydicom import Dataset
from pydicom.fileset import FileSet

from monai_sa2va.dicom.files import list_files, open_file
from monai_sa2va.dicom.findings import DicomError, FindingCode
from monai_sa2va.dicom.pixels import read_array
from monai_sa2va.dicom.scan import Scan, scan
from monai_sa2va.dicom.series import DicomFile
from monai_sa2va.errors import DataError


def shapes(found: Scan) -> list[tuple[int, int, int]]:
    return [series.shape for series in found.series]


def test_a_tree_of_mixed_files(tmp_path: Path) -> None:
    made.write(tmp_path / "a" / "b", made.series(3, name="one")[:2])
    made.write(tmp_path / "c", [*made.series(3, name="one")[2:], *made.series(2, 4, 4, name="two")])
    (tmp_path / "c" / "notes.txt").write_text("no image")
    (tmp_path / "empty").write_bytes(b"")
    found = scan(tmp_path)
    assert sorted(shapes(found)) == [(4, 4, 2), (8, 6, 3)]
    assert sorted(one.finding.message for one in found.files) == [
        "empty is no DICOM file",
        "notes.txt is no DICOM file",
    ]
    assert {one.finding.code for one in found.files} == {FindingCode.NOT_DICOM}


def test_the_order_of_files_changes_nothing(tmp_path: Path) -> None:
    images = [*made.series(4), made.document(name="series")]
    first = scan(made.write(tmp_path / "a", images)).series[0]
    second = scan(made.write(tmp_path / "b", images, [4, 2, 0, 3, 1])).series[0]
    assert [f.sop_instance_uid for f in first.frames] == [f.sop_instance_uid for f in second.frames]
    assert first.findings == second.findings


def test_a_zip_is_read_in_memory(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "in", made.series(3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"../../outside/{path.name}")
        archive.writestr("notes.txt", "no image")
    before = set(tmp_path.rglob("*"))
    found = scan(tmp_path / "a.zip")
    (series,) = found.series
    assert (read_array(series) == read_array(scan(folder).series[0])).all()
    assert set(tmp_path.rglob("*")) == before
    assert [one.finding.message for one in found.files] == ["notes.txt is no DICOM file"]
    assert series.frames[0].file == DicomFile(tmp_path / "a.zip", "../../outside/0000.dcm")


def test_a_zip_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4 and then nothing")
    (one,) = scan(tmp_path).files
    assert one.finding.message == "cut.zip is no zip that can be read"


def test_a_member_too_large_for_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_sa2va.dicom.files._LARGEST_MEMBER", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.dcm", bytes(2 << 20))
    (one,) = scan(tmp_path / "bomb.zip").files
    assert "large.dcm would take" in one.finding.message


def test_damaged_bytes_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.dcm", b"0123456789" * 100)
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[100] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    (one,) = scan(tmp_path / "a.zip").files
    assert one.finding.message == "one.dcm is damaged in its zip; unpack it and name the folder"


def test_a_dicomdir_names_its_files(tmp_path: Path) -> None:
    files = FileSet()
    for ds in made.series(3):
        files.add(ds)
    files.write(tmp_path / "disc")
    made.write(tmp_path / "disc", made.series(2, 4, 4, name="not named"))
    found = scan(tmp_path / "disc" / "DICOMDIR")
    assert shapes(found) == [(8, 6, 3)]
    next(path for path in (tmp_path / "disc").rglob("*") if path.is_file() and path.name != "DICOMDIR").unlink()
    gone = scan(tmp_path / "disc" / "DICOMDIR").files
    assert ["is named by the DICOMDIR but isn't there" in one.finding.message for one in gone] == [True] * len(gone)
    # of the whole folder everything is found, the index is no image
    (index,) = scan(tmp_path / "disc").files
    assert index.finding.code is FindingCode.NOT_AN_IMAGE


def test_a_dicomdir_reaches_nothing_outside(tmp_path: Path) -> None:
    made.write(tmp_path / "outside", made.series(1))
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "outside", "0000.dcm"]
    index = Dataset()
    index.DirectoryRecordSequence = [record]
    index.SOPClassUID, index.SOPInstanceUID = "1.2.840.10008.1.3.10", made.uid("index")
    (tmp_path / "disc").mkdir()
    made.with_meta(index).save_as(tmp_path / "disc" / "DICOMDIR", enforce_file_format=True)
    found = scan(tmp_path / "disc" / "DICOMDIR")
    assert (found.series, len(found.files)) == ((), 1)


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    made.write(tmp_path / "elsewhere", made.series(3))
    (tmp_path / "beside").mkdir()
    made.write(tmp_path / "beside", made.series(2, name="not asked for"))
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    for name, target in (("self", folder), ("root", tmp_path / "in"), ("above", tmp_path)):
        (folder / name).symlink_to(target)
    found = scan(tmp_path / "in")
    assert shapes(found) == [(8, 6, 3)]
    assert found.series[0].findings == ()
    assert found.files == ()


def test_names_that_no_table_takes(tmp_path: Path) -> None:
    (tmp_path / "line\nbreak\x1b[31m").write_bytes(b"")
    (tmp_path / os.fsdecode(b"latin\xe4")).write_bytes(b"")
    assert [one.finding.message for one in scan(tmp_path).files] == [
        "latin? is no DICOM file",
        "line?break?[31m is no DICOM file",
    ]


def test_what_is_packed_is_told(tmp_path: Path) -> None:
    made.write(tmp_path / "in", made.series(1))
    with zipfile.ZipFile(tmp_path / "inner.bin", "w") as archive:
        archive.write(tmp_path / "in" / "0000.dcm", "0000.dcm")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.bin", "inner.zip")
    (one,) = scan(tmp_path / "outer.zip").files
    assert one.finding.message == "inner.zip is packed; if it holds DICOM, unpack it"


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert [one.finding.message for one in scan(tmp_path).files] == [
        "nowhere is no plain file, or leads nowhere",
        "pipe is no plain file, or leads nowhere",
    ]


def test_a_missing_path_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder 'absent'") as caught:
        scan(tmp_path / "absent")
    assert str(tmp_path) not in str(caught.value)


def test_each_file_once(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "in", made.series(2))
    assert len(list(list_files([folder, folder, folder / "0000.dcm"]))) == 2
    assert shapes(scan([folder, folder / "0001.dcm"])) == [(8, 6, 2)]


def test_a_file_that_goes_while_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match=r"gone\.dcm can't be read: No such file"):
        open_file(DicomFile(tmp_path / "gone.dcm"))


def test_progress_counts_files(tmp_path: Path) -> None:
    counts: list[int] = []
    scan(made.write(tmp_path / "in", made.series(3)), counts.append)
    assert counts == [1, 2, 3]


def test_a_file_without_preamble(tmp_path: Path) -> None:
    ds = made.series(1)[0]
    del ds.file_meta
    for number, (implicit, little) in enumerate([(True, True), (False, True), (False, False)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        ds.save_as(folder / "a.dcm", implicit_vr=implicit, little_endian=little)
        (series,) = scan(folder).series
        assert series.shape == (8, 6, 1)
