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


"""What a report says of where a result comes from, and what proves that it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai_sa2va.dicom.findings import Finding
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.writers.dicom_object import context_findings, read_header

__all__ = ["file_hash", "file_hashes", "frame_name", "report_of_series"]

_CHUNK = 1 << 20


def report_of_series(series: DicomSeries, files: Iterable[str]) -> dict[str, Any]:
    """Keys of a report on a DICOM series: ``series``, its UIDs and layout, and ``findings``.

    No name, description or ID is told, which may be the patient's.

    Args:
        series: that was segmented.
        files: names of what was written.
    """
    findings: Sequence[Finding] = series.findings
    if any(name.endswith(".dcm") for name in files):
        known = {finding.code for finding in findings}
        found = context_findings(read_header(series.frames[0].file))
        findings = (*findings, *(finding for finding in found if finding.code not in known))
    return {
        "series": {
            "study_uid": series.study_uid,
            "series_uid": series.series_uid,
            "part": series.part,
            "modality": series.modality,
            "layout": series.layout.value,
            "frame_of_reference_uid": series.frame_of_reference_uid,
            "shape": list(series.shape),
            "frames": [frame_name(frame.sop_instance_uid, frame.number) for frame in series.frames],
        },
        "findings": [
            {"code": finding.code.value, "severity": finding.severity.value, "message": finding.message}
            for finding in findings
        ],
    }


def frame_name(sop_instance_uid: str, number: int) -> str:
    """A frame's UID, and behind ``#`` its number where it is not the first of its instance."""
    return sop_instance_uid if number == 1 else f"{sop_instance_uid}#{number}"


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files by name, each once and in their order.

    Raises:
        OSError: when one can't be read.
    """
    return {name: file_hash(folder / name) for name in dict.fromkeys(names)}


def file_hash(path: Path) -> str:
    """SHA-256 of a file in 64 hexadecimal digits.

    Raises:
        OSError: when it can't be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
