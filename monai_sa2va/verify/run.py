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
from monai_sa2va.verify.lone_seg import find_segs, verify_seg

__all__ = ["TOLERANCE_MM", "find_results", "verify_results"]


def find_results(output: Path) -> list[Path]:
    """Folders with a ``report.json``, sorted.

    Raises:
        DataError: when there is none.
    """
    if not output.is_dir():
        raise DataError(f"there is no folder {output.name!r} to verify; give the output folder of a run")
    reports = _reports(output)
    if not reports:
        raise DataError(f"the folder {output.name!r} has no report.json in it; give the output folder of a run")
    return reports


def verify_results(output: Path, sources: Sequence[Path] = (), tolerance_mm: float | None = None) -> Iterator[Verdict]:
    """Check every folder of a run, or DICOM SEGs that are without a report.

    Args:
        output: of the run; or a folder without any report, or a file: SEGs as a server hands them back.
        sources: folders, zips or files in which the sources are looked for by their UIDs; none compares the results
            with each other and with their reports only.
        tolerance_mm: how far corners may be from their place; ``None`` for :data:`TOLERANCE_MM`, and in NIfTI and
            NRRD a hundredth of a step where that is more.

    Yields:
        What was found in each.

    Raises:
        DataError: when there are no results, a source folder is missing, or there are SEGs alone and no sources.
        ConfigError: when pydicom isn't installed and sources are given, or a result is DICOM.
    """
    folders = _reports(output)
    segs = [] if folders else find_segs(output)
    if segs:
        if not sources:
            raise DataError(f"the folder {output.name!r} has a SEG and no report.json; give its series with --source")
        found, tolerance = _scan(sources), TOLERANCE_MM if tolerance_mm is None else tolerance_mm
        yield from (verify_seg(path, found, tolerance) for path in segs)
        return
    folders = folders or find_results(output)
    source_of = _finder(sources) if sources else None
    for folder in folders:
        name = folder.relative_to(output).as_posix()
        yield verify_folder(folder, name, tolerance_mm, source_of)


def _reports(output: Path) -> list[Path]:
    # whatever is hidden is half-written
    return [
        path.parent
        for path in sorted(output.rglob("report.json"))
        if not any(part.startswith(".") for part in path.relative_to(output).parts)
    ]


def _finder(sources: Sequence[Path]) -> Callable[[str, int], DicomSeries | None]:
    found = {(series.series_uid, series.part): series for series in _scan(sources)}

    def source_of(series_uid: str, part: int) -> DicomSeries | None:
        return found.get((series_uid, part))

    return source_of


def _scan(sources: Sequence[Path]) -> Sequence[DicomSeries]:
    from monai_sa2va.dicom.scan import scan

    return scan(list(sources)).series
