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
"""Every series under some paths, found by its UID, from headers alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monai_sa2va.dicom.files import list_files
from monai_sa2va.dicom.findings import DicomError
from monai_sa2va.dicom.frames import Candidate, candidates
from monai_sa2va.dicom.headers import read_header
from monai_sa2va.dicom.parts import LeftOut, parts_of
from monai_sa2va.dicom.series import DicomFile, DicomSeries
from monai_sa2va.dicom.values import quiet_pydicom, text

__all__ = ["LeftOut", "Scan", "scan"]


@dataclass(frozen=True, eq=False)
class Scan:
    """What was found.

    Attributes:
        series: what can be segmented, by study, series and part.
        left_out: series and parts that were refused or skipped, likewise.
        files: files that belong to no series: no DICOM, or without the UIDs of an instance.
    """

    series: tuple[DicomSeries, ...]
    left_out: tuple[LeftOut, ...]
    files: tuple[LeftOut, ...]


def scan(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], progress: Callable[[int], None] | None = None
) -> Scan:
    """Find every series; of each file the header is read, and pixels only where frames at one position are compared.

    The result doesn't depend on the names and the order of files.

    Args:
        paths: a folder of any depth, a zip (read in memory, never unpacked), a DICOMDIR, a file, or several of these.
        progress: called with the number of files read so far.

    Raises:
        ConfigError: when pydicom is not installed.
        DataError: when a path is missing.
    """
    require_pydicom()
    grouped: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    strays: list[LeftOut] = []
    many = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    with quiet_pydicom():
        for count, found in enumerate(list_files(many), 1):
            try:
                if isinstance(found, DicomError):
                    raise found
                header, dataset = read_header(found)
                names = (text(header.values, "StudyInstanceUID"), text(header.values, "SeriesInstanceUID"))
                grouped[names] += candidates(header, dataset)
            except DicomError as error:
                strays.append(LeftOut(error.finding, (found,) if isinstance(found, DicomFile) else ()))
            if progress is not None:
                progress(count)
        parts = [part for names in sorted(grouped) for part in parts_of(grouped.pop(names))]
    return Scan(
        tuple(part for part in parts if isinstance(part, DicomSeries)),
        tuple(part for part in parts if isinstance(part, LeftOut)),
        tuple(strays),
    )


def require_pydicom() -> None:
    """Refuse to go on without pydicom.

    Raises:
        ConfigError: when it is not installed.
    """
    from importlib.util import find_spec

    from monai_sa2va.errors import ConfigError

    if find_spec("pydicom") is None:
        raise ConfigError("reading DICOM needs pydicom; install monai-sa2va[dicom]")
