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

"""What a SEG and an RTSTRUCT take over from their source, and what stays behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")
pytest.importorskip("contourpy", reason="contourpy is not installed")

import made
import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.valuerep import validate_value
from segmented import find, segmentation, some_masks

from monai_sa2va.dicom.findings import Finding, FindingCode, Severity
from monai_sa2va.dicom.values import quiet_pydicom
from monai_sa2va.writers.composite_context import TYPE_2
from monai_sa2va.writers.dicom_object import context_findings, read_header
from monai_sa2va.writers.dicom_seg import write_dicom_seg
from monai_sa2va.writers.rtstruct import write_rtstruct

TEXTS = ("LO", "SH", "PN", "LT", "ST", "UT", "UC", "AE")
NO_DICOM = {
    "PatientAge": "45",
    "PatientBirthDate": "unknown",
    "PatientSex": "W",
    "PatientSize": "1.8000000000000000",
    "PatientIdentityRemoved": "perhaps",
    "LongitudinalTemporalInformationModified": "SHIFTED",
    "PatientName": "a^b^c^d^e^f",
    "PatientID": "x" * 65,
    "IssuerOfPatientID": "two\nlines",
    "ReferringPhysicianName": "y" * 65,
    "StudyDate": "2020-01-01",
    "StudyTime": "noon",
    "StudyID": "z" * 17,
    "AccessionNumber": "1\\2",
    "StudyDescription": "d" * 65,
    "DeidentificationMethod": "m" * 65,
    "PositionReferenceIndicator": "p" * 65,
}


def written(folder: Path, **attributes: Any) -> tuple[list[Path], tuple[Finding, ...]]:
    """A SEG and an RTSTRUCT of a source with some attributes, and what is told of them."""
    with quiet_pydicom():
        series = find(folder / "in", made.series(2, **attributes))
    found = segmentation(series, some_masks(series), ["liver", "cyst"])
    files = [write_dicom_seg(found, folder / "seg.dcm"), write_rtstruct(found, folder / "rt.dcm")]
    return files, context_findings(read_header(series.frames[0].file))


def check_values(dataset: pydicom.Dataset) -> None:
    """Every value is one of its value representation."""
    for element in dataset.iterall():
        if element.VR in ("AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI") and not element.is_empty:
            for value in element.value if element.VM > 1 else [element.value]:
                validate_value(element.VR, str(value), pydicom.config.RAISE)


def check_file(path: Path) -> None:
    """pydicom and, where it is installed, dciodvfy find no error."""
    check_values(pydicom.dcmread(path))
    if shutil.which("dciodvfy") is not None:
        told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("keyword", NO_DICOM)
def test_values_that_are_no_dicom_are_not_passed_on(tmp_path: Path, keyword: str) -> None:
    files, findings = written(tmp_path, **{keyword: NO_DICOM[keyword]})
    for path in files:
        check_file(path)
        ds = pydicom.dcmread(path)
        assert ds.get(keyword) in (None, "")
        assert (keyword in ds) == (keyword in (*TYPE_2, "PositionReferenceIndicator"))
    (finding,) = findings
    assert (finding.code, finding.severity) == (FindingCode.INVALID_ATTRIBUTE, Severity.WARNING)
    assert finding.message == (
        f"the source's {keyword}: no value that DICOM allows; left empty or out in what is written"
    )


def test_all_of_them_at_once(tmp_path: Path) -> None:
    files, (finding,) = written(tmp_path, **NO_DICOM)
    for path in files:
        check_file(path)
    assert all(keyword in finding.message for keyword in NO_DICOM)
    assert not any(value in finding.message for value in ("unknown", "1.80", "noon", "SHIFTED", "x" * 65))


def test_an_invalid_uid_is_kept_and_told(tmp_path: Path) -> None:
    files, (finding,) = written(tmp_path, StudyInstanceUID="1.02.3")
    with quiet_pydicom():
        kept = [pydicom.dcmread(path).StudyInstanceUID for path in files]
    assert kept == ["1.02.3", "1.02.3"]
    assert (finding.code, "StudyInstanceUID: no valid UID" in finding.message) == (FindingCode.INVALID_ATTRIBUTE, True)


def test_a_series_number_that_is_none(tmp_path: Path) -> None:
    files, _ = written(tmp_path, SeriesNumber=None)
    assert [pydicom.dcmread(path).SeriesNumber for path in files] == [1000, 2000]


def _code(**attributes: str) -> pydicom.Dataset:
    code = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(code, keyword, value)
    return code


def test_how_the_patient_was_hidden_is_passed_on(tmp_path: Path) -> None:
    profile = {"CodeValue": "113100", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Basic Profile"}
    files, findings = written(
        tmp_path,
        PatientIdentityRemoved="YES",
        DeidentificationMethod=["by hand", "and by eye"],
        DeidentificationMethodCodeSequence=[_code(**profile, ContextUID="1.2.3"), _code(**profile)],
        LongitudinalTemporalInformationModified="MODIFIED",
    )
    assert findings == ()
    for path in files:
        check_file(path)
        ds = pydicom.dcmread(path)
        assert (ds.PatientIdentityRemoved, ds.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
        assert list(ds.DeidentificationMethod) == ["by hand", "and by eye"]
        assert [item.CodeValue for item in ds.DeidentificationMethodCodeSequence] == ["113100", "113100"]
        assert "ContextUID" not in ds.DeidentificationMethodCodeSequence[0]


def test_hidden_without_a_method_or_with_half_a_code(tmp_path: Path) -> None:
    half = [_code(CodeValue="113100")]
    files, (finding,) = written(tmp_path, PatientIdentityRemoved="YES", DeidentificationMethodCodeSequence=half)
    for path in files:
        check_file(path)
        ds = pydicom.dcmread(path)
        assert "PatientIdentityRemoved" not in ds
        assert "DeidentificationMethodCodeSequence" not in ds
    assert "DeidentificationMethodCodeSequence, PatientIdentityRemoved" in finding.message


def test_only_what_is_named_is_passed_on(tmp_path: Path) -> None:
    """A word of its own in every text attribute of the groups that describe patient, study, series and equipment."""
    words = {
        f"S{tag:08x}": keyword
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if vr in TEXTS and keyword and tag >> 16 in (0x08, 0x10, 0x12, 0x18, 0x20, 0x28, 0x32, 0x38, 0x40, 0x88)
    }
    assert len(words) > 300
    files, findings = written(tmp_path / "FOLDER_DOE_JANE", **{keyword: word for word, keyword in words.items()})
    assert findings == ()
    seg, rtstruct = (path.read_bytes() for path in files)
    common = [
        *("AccessionNumber", "DeidentificationMethod", "IssuerOfPatientID", "PatientID", "PatientName"),
        *("PositionReferenceIndicator", "ReferringPhysicianName", "StudyDescription", "StudyID"),
    ]
    assert sorted(keyword for word, keyword in words.items() if word.encode() in rtstruct) == common
    equipment = ["Manufacturer", "ManufacturerModelName", "SoftwareVersions"]
    assert sorted(keyword for word, keyword in words.items() if word.encode() in seg) == sorted([*common, *equipment])
    assert b"FOLDER" not in seg + rtstruct
