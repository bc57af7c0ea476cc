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

"""A folder of results that appears whole or not at all, and what of a killed run is mended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_sa2va.errors import OutputError
from monai_sa2va.writers.files import free_name
from monai_sa2va.writers.provenance import file_hash

__all__ = ["REPORT", "changed_results", "earlier_report", "mend_folder", "remove_results", "whole_folder"]

REPORT = "report.json"
"""The file that tells what else of its folder is a result: its ``run`` lists them as ``files``."""


@contextmanager
def whole_folder(
    folder: Path, overwrite: bool = False, before_rename: Callable[[], None] | None = None
) -> Iterator[Path]:
    """A hidden folder beside ``folder`` that takes its place when the block ends well, and vanishes when it doesn't.

    Results of an earlier run, which its report lists, give way; what a person put beside them is kept, and so is what a
    person made of them, under another name: ``liver.changed.nii.gz``.

    Args:
        folder: where results go; those above it are made.
        overwrite: whether what is no result of an earlier run may be replaced where a result has its name.
        before_rename: called when all is written, before the folder is seen.

    Yields:
        The hidden folder, empty.

    Raises:
        OutputError: when the folder can't be written, or something is in the way; it names no folder above
            ``folder``, as those may name a patient.
    """
    part, old = _hidden(folder)
    try:
        mend_folder(folder)
        earlier = earlier_report(folder)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            _keep(folder, part, earlier, overwrite)
        _sync(part)
        if before_rename is not None:
            before_rename()
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        _sync_entry(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"the folder {folder.name!r} can't be made: {error.strerror or type(error).__name__}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def mend_folder(folder: Path) -> None:
    """Remove what a killed run left beside a folder; where it was about to replace results, these are back.

    Raises:
        OSError: when that can't be done.
    """
    part, old = _hidden(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for left in (old, part):
        if left.exists():
            shutil.rmtree(left)


def earlier_report(folder: Path) -> dict[str, Any] | None:
    """What the report of an earlier run says; ``None`` where there is none.

    Raises:
        OutputError: when there is a file in the folder's place, or a report that says nothing of its files.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"the folder {folder.name!r} can't be made: a file has its name; move that")
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _listed(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"'{folder.name}/{REPORT}' of an earlier run can't be read or doesn't list its files, so its masks can't "
            "be replaced; remove the folder"
        ) from error
    return report


def changed_results(folder: Path, report: Mapping[str, Any]) -> list[str]:
    """Names of results that are missing or are not as they were written, sorted.

    Args:
        folder: of the results.
        report: as :func:`earlier_report` gives it.

    Raises:
        OSError: when one can't be read.
    """
    hashes = report.get("sha256")
    known: dict[str, Any] = hashes if isinstance(hashes, dict) else {}
    return sorted(
        name
        for name in _listed(report) - {REPORT}
        if not (folder / name).is_file() or file_hash(folder / name) != known.get(name)
    )


def remove_results(folder: Path) -> None:
    """Remove the results that a folder's report lists, then the report, and nothing else.

    Raises:
        OutputError: when that can't be done.
    """
    report = earlier_report(folder)
    if report is None:
        return
    try:
        # the report last: as long as a mask is there, it is listed
        for name in sorted(_listed(report), key=lambda name: name == REPORT):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"the results in {folder.name!r} can't be removed: {reason}; remove the folder") from error


def _hidden(folder: Path) -> tuple[Path, Path]:
    """Where a folder is made, and where the one that it replaces is kept meanwhile: known to the next run, too."""
    # a hash, as the name with something more may be too long for a file system
    token = hashlib.sha256(folder.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return folder.with_name(f".{token}.part"), folder.with_name(f".{token}.old")


def _listed(report: Mapping[str, Any] | None) -> set[str]:
    # base names only: a report that was changed must not reach other folders
    return set() if report is None else {*(Path(name).name for name in report["run"]["files"]), REPORT}


def _keep(folder: Path, part: Path, earlier: Mapping[str, Any] | None, overwrite: bool) -> None:
    """Copy what is no result; moved, it would be lost where the run is killed now."""
    listed = _listed(earlier)
    hashed = {} if earlier is None or overwrite else earlier.get("sha256", {})
    changed = {name for name in changed_results(folder, earlier) if name in hashed} if earlier and hashed else set()
    for entry in folder.iterdir():
        target = part / entry.name
        if entry.name in listed:
            # an empty one was cut off: there is nothing to lose
            if entry.name not in changed or not entry.is_file() or not entry.stat().st_size:
                continue
            target = part / _aside(entry.name, folder)
        if target.exists():
            if not overwrite:
                raise OutputError(
                    f"'{folder.name}/{entry.name}' is there already; give overwrite, or another output folder"
                )
        elif entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True)
        else:
            shutil.copy2(entry, target, follow_symlinks=False)


def _aside(name: str, folder: Path) -> str:
    """Where a person's work goes whose name is needed: readers know it by the same suffixes."""
    stem, dot, suffixes = name.partition(".")
    taken = [entry.name.partition(".changed")[0] for entry in folder.glob("*.changed*")]
    return f"{free_name(stem, taken)}.changed{dot}{suffixes}"


def _sync(folder: Path) -> None:
    """Bring files to the disk before the folder gets its name: else a power cut could leave them empty."""
    for entry in folder.iterdir():
        if entry.is_file():
            _sync_entry(entry)
    _sync_entry(folder)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
