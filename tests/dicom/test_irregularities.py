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

"""What becomes of each irregular series is what the conformance page says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import numpy as np
from irregularities import ROWS, Row

from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode
from monai_sa2va.dicom.pixels import read_array
from monai_sa2va.dicom.scan import Scan, scan
from monai_sa2va.dicom.values import quiet_pydicom
from monai_sa2va.writers.dicom_object import context_findings, read_header


def findings_of(found: Scan) -> list[Finding]:
    """Everything that is told of a folder, with what reading the pixels adds."""
    told = [left_out.finding for left_out in (*found.left_out, *found.files)]
    for series in found.series:
        told += [*series.findings, *context_findings(read_header(series.frames[0].file))]
    return told


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.irregularity)
def test_each_row(tmp_path: Path, row: Row) -> None:
    with quiet_pydicom():
        folder = row.write(tmp_path / "in")
    found = scan(folder)
    told, layouts = findings_of(found), []
    for series in found.series:
        try:
            array = read_array(series)
        except DicomError as error:
            told.append(error.finding)
            continue
        assert array.shape == (series.channels, *series.shape)
        assert np.isfinite(array).all()
        layouts.append(series.layout.value)
    assert tuple(sorted(layouts)) == tuple(sorted(row.layouts))
    if row.code is None:
        assert told == []
    else:
        assert (row.code, row.severity) in {(one.code, one.severity) for one in told}
    parts = [part.part for part in (*found.series, *found.left_out)]
    assert sorted(parts) == ([0] if len(parts) == 1 else list(range(1, len(parts) + 1)))
    for one in told:
        assert "\n" not in one.message
        assert "Made" not in one.message
        assert str(tmp_path) not in one.message


def test_every_code_has_a_row() -> None:
    assert {row.code for row in ROWS} - {None} == set(FindingCode)
