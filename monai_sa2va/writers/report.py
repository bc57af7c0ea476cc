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

"""What was asked, answered and measured, as plain values for JSON and CSV."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_sa2va import __version__
from monai_sa2va.data.patients import header_texts
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.measures import extent_mm, voxel_sizes
from monai_sa2va.writers.provenance import file_hashes, report_of_series

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmentation

__all__ = ["OVERVIEW", "describe_objects", "write_report"]

OVERVIEW = "overview.png"
"""The picture beside a report, see :mod:`~monai_sa2va.writers.overview`."""

_MOST_DIGITS = 8
_PACKAGES = ("torch", "monai", "transformers", "sam2")


def describe_objects(segmentation: Segmentation, files: Sequence[Sequence[Path]]) -> list[dict[str, Any]]:
    """Each object in numbers.

    Args:
        segmentation: of one image.
        files: of each object, as :func:`~monai_sa2va.writers.masks.write_masks` gives them.

    Returns:
        For each object ``label``, ``prompt``, ``answer``, ``presence`` (0 to 1), ``voxels`` (pixels of a picture),
        ``area_mm2`` (of a picture) and ``volume_mm3`` (of a volume), both ``None`` where they don't apply or the
        source doesn't say its spacing, ``extent_mm`` likewise (sides of the box along the source's x, y and z),
        ``empty_because`` (``None`` where something was found), and ``files``. How they are measured:
        :mod:`~monai_sa2va.writers.measures`.
    """
    grid, series, volume = segmentation.source_grid, segmentation.series, segmentation.masks.ndim == 4
    sizes = voxel_sizes(grid, series)
    objects: list[dict[str, Any]] = []
    for number, mask in enumerate(segmentation.on_source_grid()):
        voxels, presence = int(mask.sum()), float(segmentation.scores[number])
        slices = mask.reshape(*mask.shape[:2], -1).sum(axis=(0, 1))
        measure = None if sizes is None else _rounded(float(slices @ sizes))
        extent = extent_mm(mask, grid, series)
        objects.append(
            {
                "label": segmentation.labels[number],
                "prompt": segmentation.prompts[number],
                "answer": segmentation.answers[number],
                "presence": round(presence, 4),
                "voxels": voxels,
                "area_mm2": None if volume else measure,
                "volume_mm3": measure if volume else None,
                "extent_mm": None if extent is None else [_rounded(side) for side in extent],
                "empty_because": None
                if voxels
                else _reason(segmentation.labels[number], presence, segmentation.presence_threshold),
                "files": [path.name for path in files[number]],
            }
        )
    return objects


def write_report(
    segmentation: Segmentation,
    objects: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    overwrite: bool = False,
    patient: str | None = None,
    include_patient: bool = False,
    run: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``report.json``: the image's base name and grid, the answers, its objects, the versions that made it.

    Of a DICOM series it names UIDs and findings. The same input gives the same file: no time, no machine, no folder.
    The files of the objects have to be there, as their hashes are told.

    Args:
        segmentation: of one image.
        objects: as :func:`describe_objects` gives them.
        path: of the file.
        overwrite: whether a file of that name may be replaced.
        patient: whom the image shows by its datalist.
        include_patient: whether that is written, and what a NIfTI source's header says in words; otherwise neither is.
        run: what the run that writes it knows it by, as :func:`~monai_sa2va.writers.results.write_results` gives it.

    Raises:
        OutputError: when the file is there already or can't be written.
    """
    affine, target = segmentation.source_grid.affine, Path(path)
    names = [name for item in objects for name in item["files"]]
    if (target.parent / OVERVIEW).is_file():
        names.append(OVERVIEW)
    origin = {} if segmentation.series is None else report_of_series(segmentation.series, names)
    report = {
        "image": segmentation.source_name,
        "shape": list(segmentation.source_grid.shape),
        "affine_ras_mm": None if affine is None else affine.tolist(),
        "presence_threshold": segmentation.presence_threshold,
        "text": segmentation.text,
        "objects": list(objects),
        **origin,
        "sha256": file_hashes(target.parent, names),
        "versions": {"monai_sa2va": __version__, **{name: metadata.version(name) for name in _PACKAGES}},
    }
    if run is not None:
        report["run"] = dict(run)
    if include_patient:
        report["patient"], report["header"] = patient, header_texts(segmentation.source_header)
    with atomic_path(target, overwrite) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _rounded(measure: float) -> float:
    """To 3 decimals, or to 6 digits where that is finer: a volume in microns measures millionths of a mm3."""
    return round(measure, 3) if measure >= 1000 or measure == 0 else round(measure, 5 - math.floor(math.log10(measure)))


def _reason(label: str, presence: float, threshold: float | None) -> str:
    if threshold is not None and presence < threshold:
        digits = 2
        # as many as show that one is the smaller
        while digits < _MOST_DIGITS and f"{presence:.{digits}f}" == f"{threshold:.{digits}f}":
            digits += 1
        return (
            f"the model says that {label} is not in this image "
            f"(presence {presence:.{digits}f}, below {threshold:.{digits}f})"
        )
    return "no pixel was more likely inside than outside"
