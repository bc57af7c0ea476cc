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

"""A folder of results: one folder an image, and tables over all of them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_sa2va.data.headers import image_suffix
from monai_sa2va.errors import DataError, OutputError, Sa2VAError
from monai_sa2va.writers.files import atomic_path, free_name, make_folder
from monai_sa2va.writers.masks import check_formats, write_masks
from monai_sa2va.writers.overview import write_overview
from monai_sa2va.writers.report import describe_objects, write_report

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmentation, Segmenter

__all__ = ["ResultWriter", "Written", "explain_failure", "folder_name", "write_table"]

_SUMMARY = ("image", "folder", "status", "objects", "found", "error")
_OBJECTS = ("image", "folder", "label", "prompt", "presence", "voxels", "area_mm2", "volume_mm3", "empty_because")
_REPORT, _OVERVIEW = "report.json", "overview.png"
_TABLES = ("summary.csv", "objects.csv")


@dataclass(frozen=True)
class Written:
    """What became of one image.

    Attributes:
        image: base name of its file.
        folder: where its results are; empty where it failed.
        files: names of the files in it.
        error: one line that says why it failed, else empty.
    """

    image: str
    folder: str = ""
    files: tuple[str, ...] = ()
    error: str = ""


def folder_name(image: str | os.PathLike[str]) -> str:
    """What the folder of an image's results is called: like its file, without the suffix; ``image`` for ``..png``."""
    base = Path(image).name
    # a folder can't be called ".."
    return base[: len(base) - len(image_suffix(base))].strip(". ") or "image"


class ResultWriter:
    """Writes ``<output>/<name>/{<label>.nii.gz, <label>.png, overview.png, report.json}``, ``summary.csv`` and
    ``objects.csv``.

    Args:
        output_dir: made where it isn't there.
        formats: of the masks, see :data:`~monai_sa2va.writers.masks.FORMATS`.
        overwrite: whether results of an earlier run may be replaced.
        include_patient: whether reports say whom an image shows and masks' headers have the texts of their source's;
            without it nothing of that is written.

    Raises:
        ConfigError: when a format is unknown.
        OutputError: when the folder can't be written to, or holds the tables of an earlier run and ``overwrite`` is
            off: they'd say nothing of that run any more.
    """  # noqa: D205 - the layout doesn't fit one line

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        formats: Sequence[str] = ("png", "nifti"),
        overwrite: bool = False,
        include_patient: bool = False,
    ) -> None:
        self.formats, self.overwrite, self.include_patient = check_formats(formats), overwrite, include_patient
        table = next((name for name in _TABLES if (Path(output_dir) / name).exists()), None)
        if table is not None and not overwrite:
            raise OutputError(
                f"the folder {os.fspath(output_dir)!r} holds results already ({table}); "
                "give overwrite, or another output folder"
            )
        self.output_dir = make_folder(output_dir)
        self.results: list[Written] = []
        self._folders: list[str] = []
        self._summary: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []

    @property
    def failed(self) -> list[Written]:
        """Images that failed, in their order."""
        return [result for result in self.results if result.error]

    def process(
        self,
        segmenter: Segmenter,
        image: str | os.PathLike[str],
        prompts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        patient: str | None = None,
        mode: str = "segment",
        context: str | None = None,
    ) -> Written:
        """Segment one file and write its results.

        What this package refuses, and want of memory or of disk space, is noted instead of raised.

        Args:
            segmenter: does the work.
            image: path of the file.
            prompts: sentences.
            progress: as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
            patient: whom the image shows, as for :func:`~monai_sa2va.writers.report.write_report`.
            mode: how answers come about, as for :meth:`~monai_sa2va.predictor.Segmenter.segment`, like the next.
            context: what the language model sees of a cine.
        """
        try:
            folder = self.reserve(image)
            found = segmenter.segment(image, prompts, progress, mode=mode, context=context)
            return self.write(found, folder, patient)
        except Sa2VAError as error:
            return self.fail(image, error)
        except (MemoryError, OSError, RuntimeError) as error:
            explained = explain_failure(error, Path(image).name)
            if explained is None:
                raise
            return self.fail(image, explained)

    def reserve(self, image: str | os.PathLike[str]) -> Path:
        """The folder that an image's results will go to, told before the work is done.

        Two images of one name get ``name`` and ``name_2``. With ``overwrite``, what an earlier run wrote there is
        removed at once, so that it can't be taken for a result of this run where the image fails.

        Raises:
            OutputError: when an earlier run's results are there and ``overwrite`` is off, or they can't be removed.
        """
        name = free_name(folder_name(image), [*self._folders, *_TABLES])
        self._folders.append(name)
        folder = self.output_dir / name
        if (folder / _REPORT).exists():
            if not self.overwrite:
                raise OutputError(f"{name!r} holds results already; give overwrite, or another output folder")
            _remove_earlier(folder)
        return folder

    def write(self, segmentation: Segmentation, folder: Path, patient: str | None = None) -> Written:
        """Write the results of one image into its folder from :meth:`reserve`; ``patient`` as for :meth:`process`.

        Raises:
            OutputError: when a file can't be written.
        """
        make_folder(folder, folder.name)
        masks = write_masks(segmentation, folder, self.formats, self.overwrite, self.include_patient)
        overview = write_overview(segmentation, folder / _OVERVIEW, self.overwrite)
        objects = describe_objects(segmentation, masks)
        report = write_report(segmentation, objects, folder / _REPORT, self.overwrite, patient, self.include_patient)
        files = tuple(path.name for path in [*(path for paths in masks for path in paths), overview, report])
        result = Written(segmentation.source_name, folder.name, files)
        self.results.append(result)
        place = {"image": result.image, "folder": result.folder}
        self._objects += [{**place, **{k: v for k, v in item.items() if k in _OBJECTS}} for item in objects]
        found = sum(item["voxels"] > 0 for item in objects)
        self._summary.append({**place, "status": "done", "objects": len(objects), "found": found})
        return result

    def fail(self, image: str | os.PathLike[str], error: Sa2VAError) -> Written:
        """Note that an image failed, and why."""
        result = Written(Path(image).name, error=" ".join(str(error).split()))
        self.results.append(result)
        self._summary.append({"image": result.image, "status": "failed", "error": result.error})
        return result

    def close(self) -> None:
        """Write the tables of what was done so far; those of an earlier run in the same folder are replaced.

        Raises:
            OutputError: when they can't be written.
        """
        for name, columns, rows in zip(_TABLES, (_SUMMARY, _OBJECTS), (self._summary, self._objects), strict=True):
            write_table(self.output_dir / name, columns, rows)


def _remove_earlier(folder: Path) -> None:
    """Remove the masks that an earlier report lists, its overview and itself, and nothing else."""
    report = folder / _REPORT
    try:
        listed = [name for item in json.loads(report.read_text(encoding="utf-8"))["objects"] for name in item["files"]]
        # the report last: as long as a mask is there, it is listed
        for name in (*listed, _OVERVIEW, _REPORT):
            (folder / Path(name).name).unlink(missing_ok=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"'{folder.name}/{_REPORT}' of an earlier run can't be read, or its files can't be removed, so its masks "
            "can't be replaced; remove the folder"
        ) from error


def explain_failure(error: Exception, name: str) -> Sa2VAError | None:
    """What to tell of an error that isn't this package's; ``None`` where it is a fault of the program."""
    # on the CPU, torch has no class of its own for it
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
        return DataError(f"{name} needs more memory than is free; give a smaller image, or another device")
    if isinstance(error, OSError):
        # its text may hold the path
        reason = error.strerror or type(error).__name__
        return OutputError(f"{name} can't be segmented or its results be written: {reason}; mend that and run again")
    return None


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV with a head line; a file of that name is replaced.

    Args:
        path: to be written.
        columns: in their order.
        rows: values by column; what a row lacks stays empty.

    Raises:
        OutputError: when the file can't be written.
        ValueError: when a row has a value for no column.
    """
    with (
        atomic_path(path, overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
