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

"""Masks as files on the source's own grid, one a label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from PIL import Image

from monai_sa2va.data.patients import header_texts
from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.writers.files import atomic_path, make_folder, unique_names

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmentation

__all__ = ["FORMATS", "RESERVED_NAMES", "check_formats", "write_masks"]

FORMATS = ("nifti", "png")
"""Formats of mask files."""

RESERVED_NAMES = ("overview", "report")
"""What no mask is called, as other files of its folder are."""

# what places a NIfTI in space; the rest of a header may name a patient
_PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Formats without doubles.

    Raises:
        ConfigError: when there is none, or one isn't among :data:`FORMATS`.
    """
    chosen = tuple(dict.fromkeys(formats))
    unknown = [item for item in chosen if item not in FORMATS]
    if unknown or not chosen:
        named = f"has {unknown[0]!r}" if unknown else "is empty"
        raise ConfigError(f"format {named}; allowed: {', '.join(FORMATS)}")
    return chosen


def write_masks(
    segmentation: Segmentation,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
    include_patient: bool = False,
) -> list[list[Path]]:
    """Write each object's mask.

    ``nifti`` writes ``<label>.nii.gz``, uint8 0 and 1, with exactly the shape, affine and orientation of a NIfTI or
    NRRD source; of a picture it is (width, height) with the identity. ``png`` writes ``<label>.png``, 8-bit 0 and 255,
    of sources with two axes; of volumes there is none.

    Args:
        segmentation: what to write.
        folder: made where it isn't there.
        formats: any of :data:`FORMATS`.
        overwrite: whether files may be replaced.
        include_patient: whether headers get the texts of a NIfTI source's own, which may name the patient.

    Returns:
        The files of each object.

    Raises:
        ConfigError: when a format is unknown.
        OutputError: when a file is there already or can't be written, or no format can hold a volume.
    """
    chosen = check_formats(formats)
    masks = segmentation.on_source_grid()
    volume = masks.ndim == 4
    if volume and "nifti" not in chosen:
        raise OutputError(f"{segmentation.source_name} is a volume, which png can't hold; add nifti to the formats")
    place = make_folder(folder)
    written: list[list[Path]] = []
    for name, mask in zip(unique_names(segmentation.labels, RESERVED_NAMES), masks, strict=True):
        files = []
        if "nifti" in chosen:
            files.append(place / f"{name}.nii.gz")
            with atomic_path(files[-1], overwrite) as path:
                nib.save(_nifti(mask, segmentation, include_patient), path)
        if "png" in chosen and not volume:
            files.append(place / f"{name}.png")
            with atomic_path(files[-1], overwrite) as path:
                Image.fromarray(mask.T.astype(np.uint8) * 255).save(path)
        written.append(files)
    return written


def _nifti(mask: np.ndarray, segmentation: Segmentation, include_patient: bool) -> Any:
    data = mask.astype(np.uint8)
    source = segmentation.source_header
    if isinstance(source, nib.Nifti1Header):  # Nifti2Header is one, too
        two = isinstance(source, nib.Nifti2Header)
        header = nib.Nifti2Header() if two else nib.Nifti1Header()
        for field in _PLACE:
            header[field] = source[field]
        for field in header_texts(source) if include_patient else ():
            header[field] = source[field]
        header.set_data_dtype(np.uint8)
        # affine None: the header's own fields stay as they are, to the bit
        image = (nib.Nifti2Image if two else nib.Nifti1Image)(data, None, header)
        return image
    affine = segmentation.source_grid.affine
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    if affine is not None:
        image.header.set_xyzt_units("mm")
    return image
