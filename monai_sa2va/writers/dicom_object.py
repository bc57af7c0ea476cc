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

import logging
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from monai_sa2va.dicom.files import open_file
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.headers import dataset_of
from monai_sa2va.dicom.series import DicomFile, DicomSeries
from monai_sa2va.dicom.values import quiet_pydicom
from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.writers.composite_context import composite_context, valid_texts

if TYPE_CHECKING:
    from monai_sa2va.segmentation import Segmentation

__all__ = [
    "DISCLAIMER",
    "content_time",
    "context_findings",
    "need_dicom",
    "plain_text",
    "read_header",
    "required_series",
    "source_time",
    "stable_uid",
    "unique_instances",
]

DISCLAIMER = "Research use only. Not for diagnosis."
"""Stands in what describes a written object."""

_HIGHDICOM = logging.getLogger("highdicom")
_DATES = ("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate")


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
    if _HIGHDICOM.level == logging.NOTSET:
        # it tells of every module that it copies, and nobody asked for that
        _HIGHDICOM.setLevel(logging.ERROR)


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
            header.decode()
    except DicomError as error:
        raise OutputError(
            f"the source, which the result refers to, can't be read any more: {error.finding.message}"
        ) from error
    return header


def context_findings(header: Any) -> tuple[Finding, ...]:
    """What of the source could not be taken over into what is written.

    Args:
        header: of the source's first instance.
    """
    findings = composite_context(header).findings
    if source_time(header) is not None:
        return findings
    message = (
        f"the source has none of {', '.join(_DATES)} with its time; a SEG's ContentDate and ContentTime are the day "
        "and the hour of writing, and what may be empty is empty"
    )
    return (*findings, Finding(FindingCode.MISSING_ATTRIBUTE, Severity.WARNING, message))


def source_time(header: Any) -> tuple[str, str] | None:
    """DICOM date and time of a source, to the second: the first of content, acquisition, series and study with both.

    Args:
        header: of the source.
    """
    for name in _DATES:
        date, time = valid_texts(header, name), valid_texts(header, name.replace("Date", "Time"))
        if date and time:
            return date[0], time[0].partition(".")[0]
    return None


def content_time(header: Any, created: datetime | None) -> tuple[str, str]:
    """DICOM date and time of an object that must have them.

    Args:
        header: of the source.
        created: what is written; ``None`` takes the source's own, so that the same input gives the same file. Where it
            has none, nothing is invented: it is the day and the hour of writing, or of ``SOURCE_DATE_EPOCH`` (UTC).

    Raises:
        ConfigError: when ``SOURCE_DATE_EPOCH`` is asked and is no time.
    """
    if created is not None:
        return created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    known = source_time(header)
    if known is not None:
        return known
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now()
    except (ValueError, OverflowError, OSError) as error:
        message = f"SOURCE_DATE_EPOCH is {epoch!r}; give whole seconds since 1970, or unset it"
        raise ConfigError(message) from error
    return now.strftime("%Y%m%d"), now.strftime("%H")


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
