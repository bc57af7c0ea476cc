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


"""All folders of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import DataError
from monai_sa2va.verify.folder import TOLERANCE_MM, Verdict, verify_folder

__all__ = ["TOLERANCE_MM", "find_results", "verify_results"]


def find_results(output: Path) -> list[Path]:
    """Folders with a ``report.json``, sorted.

    Raises:
        DataError: when there is none.
    """
    if not output.is_dir():
        raise DataError(f"there is no folder {output.name!r} to verify; give the output folder of a run")
    # whatever is hidden is half-written
    reports = [
        path.parent
        for path in sorted(output.rglob("report.json"))
        if not any(part.startswith(".") for part in path.relative_to(output).parts)
    ]
    if not reports:
        raise DataError(f"the folder {output.name!r} has no report.json in it; give the output folder of a run")
    return reports


def verify_results(output: Path, sources: Sequence[Path] = (), tolerance_mm: float | None = None) -> Iterator[Verdict]:
    """Check every folder of a run.

    Args:
        output: of the run.
        sources: folders, zips or files in which the sources are looked for by their UIDs; none compares the results
            with each other and with their reports only.
        tolerance_mm: how far corners may be from their place; ``None`` for :data:`TOLERANCE_MM`, and in NIfTI and
            NRRD a hundredth of a step where that is more.

    Yields:
        What was found in each.

    Raises:
        DataError: when there are no results, or a source folder is missing.
        ConfigError: when pydicom isn't installed and sources are given, or a result is DICOM.
    """
    folders = find_results(output)
    source_of = _finder(sources) if sources else None
    for folder in folders:
        name = folder.relative_to(output).as_posix()
        yield verify_folder(folder, name, tolerance_mm, source_of)


def _finder(sources: Sequence[Path]) -> Callable[[str, int], DicomSeries | None]:
    from monai_sa2va.dicom.scan import scan

    found = {(series.series_uid, series.part): series for series in scan(list(sources)).series}

    def source_of(series_uid: str, part: int) -> DicomSeries | None:
        return found.get((series_uid, part))

    return source_of
