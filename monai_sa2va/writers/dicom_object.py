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


"""What all DICOM objects made from a series share: its patient and study, UIDs, dates and texts that are allowed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from monai_sa2va.dicom.files import open_file
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.headers import dataset_of
from monai_sa2va.dicom.series import DicomFile, DicomSeries
from monai_sa2va.dicom.values import quiet_pydicom
from monai_sa2va.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from monai_sa2va.segmentation import Segmentation

__all__ = [
    "DISCLAIMER",
    "TYPE_2",
    "content_time",
    "missing_attributes",
    "need_dicom",
    "plain_text",
    "read_header",
    "required_series",
    "stable_uid",
    "unique_instances",
]

DISCLAIMER = "Research use only. Not for diagnosis."
"""Stands in what describes a written object."""

TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes of patient and study that a DICOM object has to have, though they may be empty."""

_DATES = ("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate")
_UNKNOWN_DATE = "19000101"


def need_dicom() -> None:
    """Say in one line what to install where DICOM can't be written.

    Raises:
        ConfigError: when the extra ``dicom`` isn't installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "DICOM can't be written without pydicom and highdicom; install them with 'pip install monai-sa2va[dicom]'"
        ) from error


def required_series(segmentation: Segmentation, what: str) -> DicomSeries:
    """The series that was segmented.

    Raises:
        OutputError: when the source was none, so that ``what`` has nothing to refer to.
    """
    if segmentation.series is None:
        raise OutputError(
            f"{segmentation.source_name} is no DICOM series, to which a {what} has to refer; leave {what} out of the "
            "formats"
        )
    return segmentation.series


def read_header(file: DicomFile) -> Any:
    """An instance as pydicom's ``Dataset``, its texts decoded, without pixels.

    Raises:
        OutputError: when the file can't be read any more.
    """
    try:
        with open_file(file) as stream, quiet_pydicom():
            header = dataset_of(file, stream, None)
    except DicomError as error:
        raise OutputError(
            f"the source, which the result refers to, can't be read any more: {error.finding.message}"
        ) from error
    header.decode()
    return header


def missing_attributes(header: Any) -> tuple[Finding, ...]:
    """What the source lacks and a DICOM object has to have; it is written empty, not invented.

    Args:
        header: of the source's first instance.
    """
    missing = [name for name in TYPE_2 if name not in header]
    if not missing:
        return ()
    message = f"the source lacks {', '.join(missing)}; left empty in what is written, where DICOM allows that"
    return (Finding(FindingCode.MISSING_ATTRIBUTE, Severity.WARNING, message),)


def content_time(header: Any, created: datetime | None) -> tuple[str, str]:
    """DICOM date and time of a written object.

    Args:
        header: of the source.
        created: what is written; ``None`` takes the source's own, so that the same input gives the same file.
    """
    if created is not None:
        return created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    for name in _DATES:
        date = str(header.get(name) or "")
        if len(date) == 8 and date.isdigit():
            time = str(header.get(name.replace("Date", "Time")) or "").partition(".")[0]
            return date, time if len(time) == 6 and time.isdigit() else "000000"
    return _UNKNOWN_DATE, "000000"


def stable_uid(*parts: str) -> str:
    """A UID that is the same for the same parts."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["monai-sa2va", *parts]))


def plain_text(text: str, longest: int, default: str = "object") -> str:
    """Text as DICOM takes it in one value: no control character or backslash, at most ``longest`` characters."""
    kept = "".join(" " if character == "\\" or not character.isprintable() else character for character in text)
    plain = " ".join(kept.split()) or default
    return plain if len(plain) <= longest else plain[: longest - 3].rstrip() + "..."


def unique_instances(series: DicomSeries) -> Iterable[tuple[str, str]]:
    """SOP class and instance UID of each instance of a series, in order."""
    return dict.fromkeys((frame.sop_class_uid, frame.sop_instance_uid) for frame in series.frames)
