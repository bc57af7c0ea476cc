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


"""What a DICOM object takes over from its source: patient and study, as far as its values are DICOM.

The standard calls it the composite context. Everything that isn't named here stays behind: other names and IDs,
addresses, comments, institutions, descriptions of series.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from monai_sa2va.dicom.findings import Finding, FindingCode, Severity
from monai_sa2va.dicom.values import items, quiet_pydicom, texts

__all__ = ["EQUIPMENT", "TYPE_2", "TYPE_3", "Context", "composite_context", "valid_texts"]

TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes of patient and study that a DICOM object has to have, though they may be empty."""

_METHOD, _METHODS = "DeidentificationMethod", "DeidentificationMethodCodeSequence"
TYPE_3 = (
    *("IssuerOfPatientID", _METHOD, _METHODS, "PatientIdentityRemoved", "LongitudinalTemporalInformationModified"),
    *("PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
)
"""Attributes that are taken over where the source has them: who gave the ID, what was done to hide the patient, the
patient's state at the time of the study, and what the study is called."""

EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions")
"""What made the source: of it no institution, address, station or serial number is passed on."""

_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_TERMS: Mapping[str, tuple[str, ...]] = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "LongitudinalTemporalInformationModified": ("UNMODIFIED", "MODIFIED", "REMOVED"),
    "LossyImageCompression": ("00", "01"),
}
"""Enumerated values."""
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_COMPONENTS = 5
"""Of a person's name."""


@dataclass(frozen=True)
class Context:
    """What is taken over.

    Attributes:
        dataset: pydicom's: every attribute of `TYPE_2`, empty where the source has no value that DICOM allows, and of
            `TYPE_3` those with one.
        findings: what was left empty or out, and why; no value is repeated.
    """

    dataset: Any
    findings: tuple[Finding, ...]


def composite_context(header: Any) -> Context:
    """Patient and study of a source.

    Args:
        header: the data set of its first instance, texts decoded.
    """
    from pydicom import Dataset

    made, missing, invalid = Dataset(), [], []
    # what is refused here must not be told with its value
    with quiet_pydicom():
        for name in (*TYPE_2, *TYPE_3):
            found = _methods(header) if name == _METHODS else valid_texts(header, name)
            if found is None:
                invalid.append(name)
            if found:
                setattr(made, name, found if len(found) > 1 or name == _METHODS else found[0])
            elif name in TYPE_2:
                setattr(made, name, None)
                if name not in header:
                    missing.append(name)
        if made.get("PatientIdentityRemoved") == "YES" and _METHOD not in made and _METHODS not in made:
            # DICOM allows it only beside the method
            del made.PatientIdentityRemoved
            invalid.append("PatientIdentityRemoved")
        # not of patient or study, but taken over likewise
        invalid += [name for name in ("PositionReferenceIndicator",) if valid_texts(header, name) is None]
        named = [name for name in _UIDS if valid_texts(header, name) is None]
    findings = []
    if missing:
        message = f"the source lacks {', '.join(missing)}; left empty in what is written, where DICOM allows that"
        findings.append(Finding(FindingCode.MISSING_ATTRIBUTE, Severity.WARNING, message))
    if invalid:
        message = f"the source's {', '.join(invalid)}: no value that DICOM allows; left empty or out in what is written"
        findings.append(Finding(FindingCode.INVALID_ATTRIBUTE, Severity.WARNING, message))
    if named:
        message = f"the source's {', '.join(named)}: no valid UID; written as it is, as what refers to it has to match"
        findings.append(Finding(FindingCode.INVALID_ATTRIBUTE, Severity.WARNING, message))
    return Context(made, tuple(findings))


def valid_texts(header: Any, keyword: str) -> tuple[str, ...] | None:
    """The values of an attribute that DICOM allows.

    Returns:
        None of them where it is absent or empty; ``None`` where one breaks the rules of its value representation or
        multiplicity, or is no term of those that DICOM enumerates.
    """
    from pydicom import config
    from pydicom.datadict import dictionary_VM, dictionary_VR
    from pydicom.valuerep import validate_value

    if keyword not in header:
        return ()
    values = texts(header, keyword)
    if not any(values):
        return () if _is_empty(header, keyword) or values else None
    vr, multiplicity = dictionary_VR(keyword), dictionary_VM(keyword)
    if multiplicity.isdigit() and len(values) != int(multiplicity):
        return None
    if any(value not in _TERMS.get(keyword, (value,)) or not _is_text(value, vr) for value in values):
        return None
    try:
        for value in values:
            validate_value(vr, value, config.RAISE)
    except ValueError:
        return None
    return values


def _is_empty(header: Any, keyword: str) -> bool:
    try:
        return bool(header[keyword].is_empty)
    # converting a garbage value raises whatever its type raises
    except Exception:
        return False


def _is_text(value: str, vr: str) -> bool:
    """What pydicom doesn't look at: characters that no text has, days of no calendar, names of too many parts."""
    if vr == "DA":
        try:
            return len(value) == 8 and value.isascii() and bool(datetime.strptime(value, "%Y%m%d"))
        except ValueError:
            return False
    if vr == "TM":
        return _TIME.fullmatch(value) is not None
    if vr == "PN" and any(group.count("^") >= _COMPONENTS for group in value.split("=")):
        return False
    return value.isprintable() and "\\" not in value


def _methods(header: Any) -> Sequence[Any] | None:
    """Codes of how the patient was hidden, without anything that stands beside them."""
    from pydicom import Dataset

    if _METHODS not in header:
        return ()
    made = []
    for item in items(header, _METHODS):
        code = Dataset()
        for name in (*_CODE, "CodingSchemeVersion"):
            found = valid_texts(item, name)
            if found is None or (not found and name in _CODE):
                return None
            if found:
                setattr(code, name, found[0])
        made.append(code)
    return made
