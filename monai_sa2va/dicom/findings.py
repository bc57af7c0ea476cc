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
"""What may be irregular about a DICOM series: a stable code each, how grave it is, and one line that says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from monai_sa2va.errors import DataError

__all__ = ["DicomError", "Finding", "FindingCode", "Severity"]


class Severity(str, Enum):
    """What becomes of a series with a finding."""

    HANDLED = "handled"
    """Exactly handled; told because a user may want to know."""
    WARNING = "warning"
    """Handled, but what is written may differ from what is expected: read the message."""
    SKIPPED = "skipped"
    """Not segmented, as it was not meant to be: a localizer, a report, a segmentation."""
    REFUSED = "refused"
    """Not segmented, as no mask of it could be trusted."""


class FindingCode(str, Enum):
    """Stable names of irregularities, in summaries, reports and the conformance table."""

    COLOUR = "COLOUR"
    CINE = "CINE"
    DERIVED = "DERIVED"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    CODEC_MISSING = "CODEC_MISSING"
    GANTRY_TILT = "GANTRY_TILT"
    INSTANCE_NUMBER_INCONSISTENT = "INSTANCE_NUMBER_INCONSISTENT"
    INVALID_ATTRIBUTE = "INVALID_ATTRIBUTE"
    LOCALIZER = "LOCALIZER"
    MISSING_ATTRIBUTE = "MISSING_ATTRIBUTE"
    MISSING_POSITION = "MISSING_POSITION"
    MISSING_SLICE = "MISSING_SLICE"
    MIXED_MATRIX = "MIXED_MATRIX"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    MONOCHROME1 = "MONOCHROME1"
    MULTI_FRAME = "MULTI_FRAME"
    NON_UNIFORM_SPACING = "NON_UNIFORM_SPACING"
    NO_PIXELS = "NO_PIXELS"
    NO_SPACING = "NO_SPACING"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    NOT_DICOM = "NOT_DICOM"
    RESCALE_PER_SLICE = "RESCALE_PER_SLICE"
    SIGNED_UNSIGNED_MIX = "SIGNED_UNSIGNED_MIX"
    SINGLE_SLICE = "SINGLE_SLICE"
    TRUNCATED = "TRUNCATED"
    TWO_ACQUISITIONS = "TWO_ACQUISITIONS"


@dataclass(frozen=True)
class Finding:
    """One irregularity of a series.

    Attributes:
        code: what it is.
        severity: what becomes of the series.
        message: one line: what was found, where, and what to do; it names no patient.
    """

    code: FindingCode
    severity: Severity
    message: str


class DicomError(DataError):
    """A series that can't be segmented.

    Args:
        finding: why.

    Attributes:
        finding: why; its code is the error's.
    """

    code = "DICOM"

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding, self.code = finding, finding.code.value
