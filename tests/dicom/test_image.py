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

"""DICOM is an image like any other: a series, a file, a folder, a zip."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
import numpy as np

from monai_sa2va.data.read_image import read_image
from monai_sa2va.dicom.scan import scan
from monai_sa2va.errors import ConfigError, DataError


def test_each_way_gives_the_same(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "Doe^Jane", made.series(1))
    (tmp_path / "Doe^Jane" / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(folder / "0000.dcm", "0000")
    (folder / "0000.dcm").rename(folder / "IM0")
    series = scan(folder).series[0]
    for image in (series, folder, str(folder / "IM0"), tmp_path / "a.zip"):
        source = read_image(image)
        assert source.name == "ct_series"
        assert source.series.series_uid == series.series_uid
        np.testing.assert_array_equal(source.grid.affine, np.diag([-1, -1, 1, 1]) @ series.affine)
        assert source.grid.shape == tuple(source.pixels.shape[1:]) == (8, 6, 1)
        assert "Jane" not in str(source.pixels.meta)


@pytest.mark.parametrize(
    "images",
    [
        lambda: [made.cine()],
        lambda: made.series(places=made.positions(5, heights=[0, 1, 4, 11, 12])),
        lambda: made.series(1, ImagePositionPatient=None),
    ],
    ids=["cine", "stack", "picture"],
)
def test_without_one_affine_frames_are_shown_as_they_are_stored(tmp_path: Path, images) -> None:
    source = read_image(made.write(tmp_path / "in", images()))
    assert source.grid.affine is None
    # LPS identity: rows go down, columns to the right, frames are the slices
    np.testing.assert_array_equal(source.pixels.affine.numpy(), np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_several_series_are_not_one_image(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "Doe^Jane", [*made.series(2), *made.series(2, name="other")])
    with pytest.raises(DataError, match=r"\[DATA\] the folder holds 2 series.*monai-sa2va segment") as caught:
        read_image(folder)
    assert "Jane" not in str(caught.value)


def test_a_refused_series_says_why(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "in", made.series(3, ImagePositionPatient=None))
    with pytest.raises(DataError, match=r"\[MISSING_POSITION\] no valid ImagePositionPatient \(slices: 3\)"):
        read_image(folder)


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[NOT_DICOM\] the folder holds no DICOM image; check the path"):
        read_image(tmp_path)


def test_without_pydicom_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"reading DICOM needs pydicom; install monai-sa2va\[dicom\]"):
        scan(tmp_path)


def test_pydicom_is_imported_by_nobody_who_has_no_dicom() -> None:
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "import monai_sa2va.data.read_image\n"
        "from monai_sa2va.dicom import files, findings, frames, parts, pixels, scan, series, windows\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
