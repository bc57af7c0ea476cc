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
"""Whether training takes an image and its mask, told without torch before a datalist names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.data.headers import Grid, image_suffix, read_grid, read_label, read_values, same_grid
from monai_sa2va.errors import DataError

__all__ = ["check_image", "check_pair"]

# Window refuses them, too; this module is free of torch
_NO_BRIGHTNESS = ("P", "PA", "CMYK")


def check_image(image: str | Path, finite: bool = True) -> Grid:
    """Check an image for what ``train.json`` refuses.

    Of it the header is read, and all values only where the file stores floating point.

    Args:
        image: path of a picture or volume.
        finite: whether NaN and infinite values are refused, as windows do unless told otherwise.

    Raises:
        DataError: when it can't be read, is no picture or volume in space, or its numbers are no brightness or not
            finite; naming the file.
    """
    image = Path(image)
    grid = read_grid(image)
    stored = _stored(image)
    if stored in _NO_BRIGHTNESS:
        raise DataError(
            f"{image.name} is a picture of mode {stored}, whose numbers are no brightness: save it as greyscale or RGB"
        )
    if len(grid.shape) > 3:
        raise DataError(f"{image.name} has {len(grid.shape)} axes: an image is a picture or one volume")
    _check_place(image, grid)
    if stored == "float" and finite:
        _check_finite(image)
    return grid


def check_pair(image: str | Path, mask: str | Path, finite: bool = True) -> np.ndarray:
    """Check an image and its mask for what ``train.json`` refuses.

    Args:
        image: as for :func:`check_image`, like ``finite``.
        mask: path of a label.
        finite: whether NaN and infinite values are refused.

    Returns:
        The mask's values, of an integer dtype, x first.

    Raises:
        DataError: when one can't be read, they don't lie on one grid, a volume doesn't say its orientation, or the
            image's numbers are no brightness or not finite; naming the file.
    """
    image, mask = Path(image), Path(mask)
    grid = check_image(image, finite)
    values, other = read_label(mask)
    differs = same_grid(grid, other)
    if differs:
        raise DataError(f"mask {mask.name} doesn't fit: {differs}")
    _check_place(mask, other)
    if _axes(image, grid) != _axes(mask, other):
        raise DataError(
            f"mask {mask.name} doesn't fit: of it and its image one is a volume of one slice, the other a picture; "
            "save both alike"
        )
    return values


def _stored(path: Path) -> str:
    """What a pixel is stored as: a picture's mode, or of a volume and of a picture of floats ``"float"``."""
    suffix = image_suffix(path)
    if suffix in (".nii", ".nii.gz"):
        import nibabel

        image: Any = nibabel.load(path)
        return _kind(image.get_data_dtype(), path)
    if suffix == ".nrrd":
        import nrrd

        header = nrrd.read_header(str(path))
        directions = header.get("space directions")
        if directions is not None and any(row is None or np.isnan(row).any() for row in directions):
            raise DataError(f"{path.name} has axes that don't lie in space: write one value a voxel")
        return "float" if header["type"] in ("float", "double") else "integer"
    from PIL import Image

    with Image.open(path) as picture:
        return "float" if picture.mode == "F" else str(picture.mode)


def _axes(path: Path, grid: Grid) -> int:
    """Axes that the file is read with: a volume of one slice keeps its third, which `Grid` drops."""
    if image_suffix(path) in (".nii", ".nii.gz"):
        import nibabel

        image: Any = nibabel.load(path)
        return min(len(image.shape), 3)
    return len(grid.shape) if grid.affine is None else 3


def _kind(dtype: np.dtype, path: Path) -> str:
    if dtype.kind not in "biuf":
        raise DataError(f"{path.name} holds values of type {dtype}: an image holds one real number a voxel")
    return "float" if dtype.kind == "f" else "integer"


def _check_place(path: Path, grid: Grid) -> None:
    if len(grid.shape) == 3 and grid.affine is None:
        raise DataError(f"{path.name} is a volume that doesn't say its orientation: write its space and directions")


def _check_finite(image: Path) -> None:
    values = read_values(image)[1]
    # training computes in single precision
    with np.errstate(over="ignore"):
        bad = int(np.count_nonzero(~np.isfinite(values.astype(np.float32, copy=False))))
    if bad:
        raise DataError(f"{image.name} holds {bad} value(s) that are NaN or infinite: replace them by numbers")
