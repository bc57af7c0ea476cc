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

"""Masks as files on the source's own grid: one a label, or one a series where a format holds all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from monai_sa2va.dicom.series import Layout
from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.writers.dicom_object import need_dicom
from monai_sa2va.writers.dicom_seg import write_dicom_seg
from monai_sa2va.writers.files import atomic_path, make_folder, unique_names
from monai_sa2va.writers.nifti import write_nifti
from monai_sa2va.writers.nrrd import write_nrrd
from monai_sa2va.writers.rtstruct import can_hold, need_contours, write_rtstruct

if TYPE_CHECKING:
    from monai_sa2va.segmentation import Segmentation

__all__ = ["DEFAULT_FORMATS", "FORMATS", "RESERVED_NAMES", "check_formats", "write_masks"]

FORMATS = ("nifti", "png", "nrrd", "dicom-seg", "rtstruct")
"""Formats of mask files. The DICOM ones are of DICOM series only, and need the extra ``dicom``."""

DEFAULT_FORMATS = ("nifti", "png")
"""What is written where nothing is chosen."""

RESERVED_NAMES = ("overview", "report", "seg", "rtstruct")
"""What no mask is called, as other files of its folder are."""


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Formats without doubles.

    Raises:
        ConfigError: when there is none, one isn't among :data:`FORMATS`, or what writes it isn't installed.
    """
    chosen = tuple(dict.fromkeys(formats))
    unknown = [item for item in chosen if item not in FORMATS]
    if unknown or not chosen:
        named = f"has {unknown[0]!r}" if unknown else "is empty"
        raise ConfigError(f"format {named}; allowed: {', '.join(FORMATS)}")
    if "dicom-seg" in chosen:
        need_dicom()
    if "rtstruct" in chosen:
        need_contours()
    return chosen


def write_masks(
    segmentation: Segmentation,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = DEFAULT_FORMATS,
    overwrite: bool = False,
    include_patient: bool = False,
    checkpoint: str | None = None,
) -> list[list[Path]]:
    """Write each object's mask.

    ``nifti`` writes ``<label>.nii.gz``, uint8 0 and 1, see :func:`~monai_sa2va.writers.nifti.write_nifti`; ``nrrd``
    ``<label>.seg.nrrd``, which 3D Slicer opens as a segmentation. Of a series of uneven steps both write one file an
    even run, ``<label>_part1`` and so on. ``png`` writes ``<label>.png``, 8-bit 0 and 255. ``dicom-seg`` writes
    ``seg.dcm`` and ``rtstruct`` ``rtstruct.dcm``, with all objects. Parts of a series that is segmented in several have
    the same names: each needs a folder of its own.

    A format that can't hold the source is left out, as long as another one can: png holds no volumes, dicom-seg needs
    a DICOM series, and rtstruct one whose frames have a place in space.

    Args:
        segmentation: what to write.
        folder: made where it isn't there.
        formats: any of :data:`FORMATS`.
        overwrite: whether files may be replaced.
        include_patient: whether headers get the texts of a NIfTI source's own, which may name the patient. DICOM
            objects always belong to their source's patient.
        checkpoint: hash of the weights, which DICOM objects record.

    Returns:
        The files of each object; those that hold all objects are named for each.

    Raises:
        ConfigError: when a format is unknown, or what writes it isn't installed.
        OutputError: when a file is there already or can't be written, or no format can hold the source.
    """
    masks = segmentation.on_source_grid()
    series = segmentation.series
    volume = masks.ndim == 4 and (series is None or series.layout is not Layout.PICTURE)
    chosen = _possible(check_formats(formats), segmentation, volume)
    place = make_folder(folder)
    shared: list[Path] = []
    if "dicom-seg" in chosen:
        shared.append(write_dicom_seg(segmentation, place / "seg.dcm", checkpoint=checkpoint, overwrite=overwrite))
    if "rtstruct" in chosen:
        shared.append(write_rtstruct(segmentation, place / "rtstruct.dcm", overwrite=overwrite))
    written: list[list[Path]] = []
    for number, name in enumerate(unique_names(segmentation.labels, RESERVED_NAMES)):
        stem, files = place / name, []
        if "nifti" in chosen:
            files += write_nifti(segmentation, masks[number], stem, overwrite, include_patient)
        if "nrrd" in chosen:
            files += write_nrrd(segmentation, masks[number], number, stem, overwrite)
        if "png" in chosen:
            files.append(stem.with_name(f"{stem.name}.png"))
            with atomic_path(files[-1], overwrite) as path:
                Image.fromarray(masks[number].reshape(masks.shape[1:3]).T.astype(np.uint8) * 255).save(path)
        written.append(files + shared)
    return written


def _possible(formats: Sequence[str], segmentation: Segmentation, volume: bool) -> list[str]:
    """The formats that can hold a source.

    Raises:
        OutputError: when there is none.
    """
    series = segmentation.series
    lacking = {
        "png": "is a volume" if volume else "",
        "dicom-seg": "is no DICOM series" if series is None else "",
        "rtstruct": "is no DICOM series" if series is None else "" if can_hold(series) else "has no place in space",
    }
    possible = [item for item in formats if not lacking.get(item)]
    if not possible:
        reasons = ", ".join(f"{lacking[item]}, which {item} can't hold" for item in formats)
        raise OutputError(f"{segmentation.source_name} {reasons}; add nifti to the formats")
    return possible
