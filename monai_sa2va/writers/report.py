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

import numpy as np

from monai_sa2va import __version__
from monai_sa2va.data.patients import header_texts
from monai_sa2va.writers.files import atomic_path

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmentation

__all__ = ["describe_objects", "write_report"]

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
        source doesn't say its spacing, ``empty_because`` (``None`` where something was found), and ``files``.
    """
    affine, volume = segmentation.source_grid.affine, segmentation.masks.ndim == 4
    unit: float | None = None
    if affine is not None:
        columns = affine[:3, :3]
        unit = float(abs(np.linalg.det(columns)) if volume else np.linalg.norm(np.cross(columns[:, 0], columns[:, 1])))
    objects: list[dict[str, Any]] = []
    for number, mask in enumerate(segmentation.masks):
        voxels, presence = int(mask.sum()), float(segmentation.scores[number])
        measure = None if unit is None else _rounded(voxels * unit)
        objects.append(
            {
                "label": segmentation.labels[number],
                "prompt": segmentation.prompts[number],
                "answer": segmentation.answers[number],
                "presence": round(presence, 4),
                "voxels": voxels,
                "area_mm2": None if volume else measure,
                "volume_mm3": measure if volume else None,
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

    The same input gives the same file: no time, no machine, no folder.

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
    affine = segmentation.source_grid.affine
    report = {
        "image": segmentation.source_name,
        "shape": list(segmentation.source_grid.shape),
        "affine_ras_mm": None if affine is None else affine.tolist(),
        "presence_threshold": segmentation.presence_threshold,
        "text": segmentation.text,
        "objects": list(objects),
        "versions": {"monai_sa2va": __version__, **{name: metadata.version(name) for name in _PACKAGES}},
    }
    if run is not None:
        report["run"] = dict(run)
    if include_patient:
        report["patient"], report["header"] = patient, header_texts(segmentation.source_header)
    target = Path(path)
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
