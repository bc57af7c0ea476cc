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

"""Which images and series there are under some paths, and what is to be asked of each."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai_sa2va.batch.job import Job, Status
from monai_sa2va.batch.rules import Rule, first_match, load_rules
from monai_sa2va.batch.where import Attributes, Where
from monai_sa2va.data.headers import SUFFIXES, image_suffix, read_grid
from monai_sa2va.dicom.findings import Finding, Severity
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.dicom.values import shown_name
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError, OutputError, PromptError
from monai_sa2va.inferers.image import check_prompts
from monai_sa2va.writers.files import free_name
from monai_sa2va.writers.results import folder_name

__all__ = ["jobs_of_entries", "plan_jobs"]

_LOG = logging.getLogger(__name__)
_NOT_ASKED, _NO_PROMPT = "NOT_ASKED", "NO_PROMPT"


def plan_jobs(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    prompts: str | Sequence[str] = (),
    *,
    where: Where | str | Sequence[str] | None = None,
    rules: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    pattern: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
) -> list[Job]:
    """A job for each picture and volume, and for each DICOM series, also those that are not to be segmented.

    Args:
        inputs: files, folders and zips. Of a folder the pictures and volumes (:data:`SUFFIXES
            <monai_sa2va.data.headers.SUFFIXES>`) that lie directly in it are taken, hidden ones left out, and DICOM
            of any depth.
        prompts: what is asked of all; none where ``rules`` say it for each.
        where: which DICOM attributes are asked for, as :meth:`Where.parse` takes them; the others, and what is no
            DICOM, are skipped.
        rules: as for :func:`~monai_sa2va.batch.rules.load_rules`: the first one that is for a series decides its
            prompts, window and plane.
        pattern: which files of a folder, as :meth:`pathlib.Path.glob` takes it; no DICOM is looked for then.
        output_dir: where results are to go.

    Raises:
        PromptError: when a prompt is empty, or there is none and no rules.
        ConfigError: when ``where`` or ``rules`` can't be used.
        DataError: when there is no image at all.
        OutputError: when ``output_dir`` lies in one of ``inputs``, whose next run would read the results.
    """
    places = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    if not places:
        raise DataError("there is no image; name a folder or files")
    if output_dir is not None:
        _refuse_inside(Path(output_dir), places)
    if rules is None and not prompts:
        raise PromptError("there is no prompt; write what to segment, or give rules")
    planner = _Planner(
        tuple(check_prompts(prompts)) if prompts else (),
        where if isinstance(where, Where) or where is None else Where.parse(where),
        [] if rules is None else load_rules(rules),
    )
    trees: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            for path in _images(place, pattern):
                planner.add_file(path)
            if pattern is None and _has_others(place):
                trees.append(place)
        elif image_suffix(place) or not place.exists():
            # what is missing fails as such
            planner.add_file(place)
        else:
            trees.append(place)
    if trees and planner.jobs and find_spec("pydicom") is None:
        _LOG.warning("DICOM was not looked for, as pydicom is not installed: pip install monai-sa2va[dicom]")
    elif trees:
        planner.add_trees(trees)
    if not planner.jobs:
        raise DataError(_nothing(Path(places[0]), pattern))
    return planner.jobs


def _refuse_inside(output_dir: Path, places: Sequence[str | os.PathLike[str]]) -> None:
    for place in map(Path, places):
        if place.is_dir() and output_dir.resolve().is_relative_to(place.resolve()):
            raise OutputError(
                f"the output folder {os.fspath(output_dir)!r} lies in the input folder {os.fspath(place)!r}; take one "
                "beside it"
            )


def _nothing(place: Path, pattern: str | None) -> str:
    kinds = ", ".join(SUFFIXES)
    if place.is_file():
        return f"{place.name} holds no DICOM, and is none of {kinds}"
    if pattern is None:
        return f"{os.fspath(place)} has no image: no DICOM at any depth, and directly in it none of {kinds}"
    return (
        f"{os.fspath(place)} has no image that matches {pattern!r}; name the folder they lie in, or a pattern such as "
        f"'images/*.png' (kinds: {kinds})"
    )


def jobs_of_entries(entries: Iterable[Any], prompts: Sequence[str]) -> Iterator[Job]:
    """Jobs of what a loader gives: jobs themselves, or ``{"image": path}`` with ``"prompts"`` and ``"patient"``.

    Args:
        entries: of a dataset without transforms.
        prompts: for entries without their own.

    Raises:
        DataError: when an entry has no path.
    """
    folders = _Folders()
    for number, entry in enumerate(entries):
        if isinstance(entry, Job):
            yield entry
            continue
        image = entry.get(Keys.IMAGE) if isinstance(entry, Mapping) else None
        if not isinstance(image, (str, os.PathLike)):
            raise DataError(
                "a batch has no path under 'image'; give the dataset entries {'image': path} and no transform"
            )
        own, path = entry.get(Keys.PROMPTS), Path(image)
        asked, verdict = tuple(prompts), None
        if own is not None:
            try:
                asked = tuple(check_prompts(own))
            except PromptError as error:
                verdict = (Status.FAILED, error.code, str(error).removeprefix(f"[{error.code}] "))
        yield Job(
            number,
            shown_name(path.name),
            folders.take(folder_name(path)),
            path,
            asked,
            patient=entry.get(Keys.PATIENT),
            slices=_slices(path),
            verdict=verdict,
        )


class _Folders:
    """Names of folders, no two alike, case making no difference."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        free = free_name(name, self._taken if name.casefold() in self._taken else ())
        self._taken.add(free.casefold())
        return free


class _Planner:
    """Collects jobs.

    Args:
        prompts: what is asked of all.
        where: which attributes are asked for.
        rules: what is asked of which.
    """

    def __init__(self, prompts: tuple[str, ...], where: Where | None, rules: Sequence[Rule]) -> None:
        self.prompts, self.where, self.rules = prompts, where, rules
        self.jobs: list[Job] = []
        self._folders = _Folders()

    def add_file(self, path: Path) -> None:
        """A picture or a volume in a file of its own."""
        name = shown_name(path.name)
        self._add(name, folder_name(path), path, None, {"slices": _slices(path)})

    def add_trees(self, places: Sequence[Path]) -> None:
        """All DICOM below some folders, and in some files."""
        from monai_sa2va.dicom.files import file_label
        from monai_sa2va.dicom.scan import LeftOut, scan

        found = scan(places)
        entries: list[DicomSeries | LeftOut] = [*found.series, *found.left_out]
        for entry in entries:
            name = f"{entry.series_uid}_part{entry.part}" if entry.part > 1 else str(entry.series_uid)
            folder = f"{entry.study_uid}/{name}"
            if isinstance(entry, DicomSeries):
                more = {"slices": len(entry.frames), "modality": entry.modality}
                self._add(name, folder, entry, Attributes(entry), more)
            else:
                self._leave_out(name, folder, entry.finding, entry.modality)
        strays = [file for stray in found.files for file in stray.files[:1]]
        taken = {job.source for job in self.jobs}
        below = sum(bool(image_suffix(file_label(file))) and file.path not in taken for file in strays)
        if below > 0:
            _LOG.warning("%d pictures or volumes lie in deeper folders and are left out; name their folders", below)
        # beside pictures alone, a note or a table is nothing to tell of
        for stray in found.files if found.series or found.left_out else ():
            file = stray.files[0] if stray.files else None
            name = "?" if file is None else file_label(file)
            if not image_suffix(name) and name[0] != ".":
                self._leave_out(name, name, stray.finding, "")

    def _leave_out(self, name: str, folder: str, finding: Finding, modality: str) -> None:
        status = Status.SKIPPED if finding.severity is Severity.SKIPPED else Status.REFUSED
        verdict = (status, finding.code.value, " ".join(finding.message.split()))
        place = self._folders.take(folder)
        self.jobs.append(Job(len(self.jobs), name, place, None, modality=modality, verdict=verdict))

    def _add(
        self, name: str, folder: str, source: Path | DicomSeries, attributes: Attributes | None, more: dict[str, Any]
    ) -> None:
        number, place = len(self.jobs), self._folders.take(folder)
        rule = first_match(self.rules, attributes, name)
        prompts = self.prompts if rule is None or rule.prompts is None else rule.prompts
        missed = None if self.where is None else self.where.missed(attributes)
        verdict = None
        if missed is not None:
            verdict = (Status.SKIPPED, _NOT_ASKED, f"its {missed} is not what where asks for")
        elif not prompts:
            verdict = (Status.SKIPPED, _NO_PROMPT, "no rule is for it, and there is no prompt for all")
        window, axis = (None, None) if rule is None else (rule.window, rule.plane)
        self.jobs.append(Job(number, name, place, source, prompts, window, axis, verdict=verdict, **more))


def _images(folder: Path, pattern: str | None) -> list[Path]:
    return sorted(p for p in folder.glob(pattern or "*") if image_suffix(p) and p.is_file() and p.name[0] != ".")


def _has_others(folder: Path) -> bool:
    """Whether something below a folder is none of the images that lie directly in it."""
    return any(entry.is_dir() or not image_suffix(entry) for entry in folder.iterdir() if entry.name[0] != ".")


def _slices(path: Path) -> int:
    """As its header says: slices of a volume where it is sliced along its last axis; 1 where it can't be read."""
    try:
        shape = read_grid(path).shape
    except DataError:
        return 1
    return shape[2] if len(shape) > 2 else 1
