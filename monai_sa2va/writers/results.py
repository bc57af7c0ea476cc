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

"""The results of one image: its masks, its overview and its report, in a folder of its own."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_sa2va.data.headers import image_suffix
from monai_sa2va.dicom.values import shown_name
from monai_sa2va.errors import DataError, OutputError, Sa2VAError
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.masks import write_masks
from monai_sa2va.writers.overview import write_overview
from monai_sa2va.writers.report import describe_objects, write_report
from monai_sa2va.writers.whole_folder import REPORT, whole_folder

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmentation

__all__ = ["Written", "explain_failure", "folder_name", "sort_rows", "write_results", "write_table"]

_OVERVIEW = "overview.png"


@dataclass(frozen=True)
class Written:
    """What was written of one image.

    Attributes:
        files: names of the files in its folder, the report last.
        objects: as :func:`~monai_sa2va.writers.report.describe_objects` gives them.
    """

    files: tuple[str, ...]
    objects: tuple[dict[str, Any], ...]


def folder_name(image: str | os.PathLike[str]) -> str:
    """What the folder of an image's results is called: like its file, without the suffix; ``image`` for ``..png``."""
    base = shown_name(Path(image).name, "_")
    # a folder can't be called ".."
    return base[: len(base) - len(image_suffix(base))].strip(". ") or "image"


def write_results(
    segmentation: Segmentation,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = ("png", "nifti"),
    overwrite: bool = False,
    include_patient: bool = False,
    patient: str | None = None,
    run: Mapping[str, Any] | None = None,
    before_rename: Callable[[], None] | None = None,
) -> Written:
    """Write ``<label>.nii.gz``, ``<label>.png``, ``overview.png`` and ``report.json``: all of them, or none.

    Args:
        segmentation: of one image.
        folder: made where it isn't there; results of an earlier run in it give way.
        formats: of the masks, see :data:`~monai_sa2va.writers.masks.FORMATS`.
        overwrite: whether files may be replaced that are no results of an earlier run.
        include_patient: whether the report says whom the image shows and masks' headers have the texts of their
            source's; without it nothing of that is written.
        patient: whom the image shows, as for :func:`~monai_sa2va.writers.report.write_report`.
        run: what the report tells of the run that wrote it, such as the fingerprint that a later one knows it by;
            ``weights``, a hash, goes into DICOM objects, too.
        before_rename: called when all is written, before the folder is seen.

    Raises:
        ConfigError: when a format is unknown.
        OutputError: when something can't be written, or is there already.
    """
    with whole_folder(Path(folder), overwrite, before_rename) as part:
        weights = None if run is None else run.get("weights")
        masks = write_masks(segmentation, part, formats, include_patient=include_patient, checkpoint=weights)
        overview = write_overview(segmentation, part / _OVERVIEW)
        # some hold all objects
        files = tuple(dict.fromkeys(path.name for path in [*(path for paths in masks for path in paths), overview]))
        objects = describe_objects(segmentation, masks)
        told = {**(run or {}), "files": list(files)}
        write_report(segmentation, objects, part / REPORT, False, patient, include_patient, told)
    return Written((*files, REPORT), tuple(objects))


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


def sort_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of a table in their order, which doesn't depend on how many workers or shards there were.

    By image, folder, and where there is no folder by all that tells rows apart. Of one image's objects the order stays.

    Args:
        rows: with ``image`` and ``folder``, all values as they are or all as text.
    """

    def place(row: Mapping[str, Any]) -> tuple[str, ...]:
        texts = tuple("" if value is None else str(value) for value in row.values())
        named = (str(row.get("image") or ""), str(row.get("folder") or ""))
        return named if named[1] else (*named, *texts)

    return sorted(rows, key=place)


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
