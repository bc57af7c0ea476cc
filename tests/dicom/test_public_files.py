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

"""Public DICOM files: each series is read, or refused with a code that may refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.pixels import read_array
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries, Layout

MAY_REFUSE = {
    FindingCode.CODEC_MISSING,
    FindingCode.DUPLICATE_POSITION,
    FindingCode.MISSING_POSITION,
    FindingCode.NOT_AN_IMAGE,
    FindingCode.NO_PIXELS,
    FindingCode.TRUNCATED,
}
MAY_SKIP = {FindingCode.DERIVED, FindingCode.LOCALIZER, FindingCode.NOT_AN_IMAGE, FindingCode.NOT_DICOM}


def read_or_refused(series: DicomSeries) -> np.ndarray | Finding:
    """Its pixels, or why there are none."""
    try:
        return read_array(series)
    except DicomError as error:
        return error.finding


@pytest.fixture(scope="module")
def dicom_dir(data_dir: Path) -> Path:
    """The folder of DICOM files."""
    folder = data_dir / "dicom"
    if not folder.is_dir():
        pytest.skip("SA2VA_DATA_DIR has no folder dicom")
    return folder


def test_everything_is_read_or_refused_with_a_code(dicom_dir: Path) -> None:
    folders = [dicom_dir, *sorted(folder for folder in dicom_dir.rglob("*") if folder.is_dir())]
    for folder in folders:
        found = scan(folder)
        assert found.series or found.left_out or found.files or not any(folder.iterdir())
        for one in (*found.left_out, *found.files):
            finding = one.finding
            allowed = MAY_REFUSE if finding.severity is Severity.REFUSED else MAY_SKIP
            assert finding.code in allowed, (folder.name, finding)
        for series in found.series:
            assert {finding.severity for finding in series.findings} <= {Severity.HANDLED, Severity.WARNING}
            array = read_or_refused(series)
            if isinstance(array, Finding):
                assert array.code in MAY_REFUSE, (folder.name, array)
            else:
                assert array.shape == (series.channels, *series.shape)
                assert np.isfinite(array).all()


def test_the_tilted_and_uneven_head(dicom_dir: Path) -> None:
    (series,) = scan(dicom_dir / "series" / "ct_head_ge_tilt18_varspacing").series
    assert (series.layout, series.shape) == (Layout.STACK, (512, 512, 28))
    assert [finding.code.value for finding in series.findings] == ["GANTRY_TILT", "NON_UNIFORM_SPACING"]
    heights = [float(np.cross(f.orientation[:3], f.orientation[3:]) @ f.position) for f in series.frames]
    gaps = np.diff(heights)
    assert (gaps.min().round(2), gaps.max().round(2)) == (1.08, 7.0)
    assert read_array(series).dtype == np.int16


def test_three_compressed_copies_of_one_series_are_the_same(dicom_dir: Path) -> None:
    arrays = []
    for kind in ("rle", "jpeg", "j2k"):
        (series,) = scan(dicom_dir / "dicom2nifti" / "generic" / f"compressed_{kind}").series
        assert (series.layout, series.findings) == (Layout.VOLUME, ())
        arrays.append(read_array(series))
    np.testing.assert_array_equal(arrays[0], arrays[1])
    np.testing.assert_array_equal(arrays[0], arrays[2])


def test_one_slice_in_all_lossless_transfer_syntaxes(dicom_dir: Path) -> None:
    folder = dicom_dir / "cornerstone_transfer_syntaxes"
    endings = ("1.2.2", "2.1.99", "4.90", "4.80", "4.70", "4.57", "1.2.5")
    paths = [path for path in sorted(folder.iterdir()) if path.stem.endswith(endings)]
    arrays = [read_array(scan(path).series[0]) for path in paths]
    assert len(arrays) == 7
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])
