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

"""Whatever a user hands over as an image (file, picture, array, tensor), as one kind of thing with a known grid."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader, PILReader
from monai.transforms import LoadImage
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, convert_to_tensor
from PIL import Image

from monai_sa2va.data.headers import SUFFIXES, Grid, image_suffix, read_grid, read_values
from monai_sa2va.data.patients import hide_folders, without_texts
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.source import file_name, grid_of

__all__ = ["list_images", "read_image"]

_ARRAY_DTYPES = ("bool", "uint8", "uint16", "int16")


def read_image(image: Any) -> SourceImage:
    """Read a file, or take what is in memory.

    Args:
        image: path of a picture (PNG, JPEG, TIFF, BMP) or volume (NIfTI, NRRD), or of a DICOM file, folder or zip that
            holds exactly one series; a series that :func:`~monai_sa2va.dicom.scan.scan` found; picture of Pillow; array
            (H, W) or (H, W, 3) of bool, uint8, uint16 or int16; or ``MetaTensor`` (C, X, Y) or (C, X, Y, Z), as MONAI's
            ``LoadImage(ensure_channel_first=True)`` gives; its affine is taken as mm, a NIfTI file's by its unit. What
            was read already is given back.

    Raises:
        ConfigError: when it is DICOM, and pydicom is not installed.
        DataError: when it is none of these, is missing, damaged, or has no orientation though it is a volume.
    """
    if isinstance(image, SourceImage):
        return image
    if isinstance(image, (str, os.PathLike)):
        from monai_sa2va.dicom.image import looks_like_dicom, read_dicom

        return read_dicom(Path(image)) if looks_like_dicom(Path(image)) else _read_file(Path(image))
    if isinstance(image, DicomSeries):
        from monai_sa2va.dicom.image import read_series

        return read_series(image)
    if isinstance(image, MetaTensor):
        if image.ndim not in (3, 4) or 0 in image.shape:
            raise DataError(f"image has shape {tuple(image.shape)}; expected (C, X, Y) or (C, X, Y, Z), none empty")
        return SourceImage(image, file_name(image) or "image", grid_of(image))
    if isinstance(image, Image.Image):
        return _in_memory(np.asarray(image), {"mode": image.mode})
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
            raise DataError(
                f"image is an array of shape {image.shape}; expected (H, W) or (H, W, 3). "
                "A volume needs its orientation: pass a MetaTensor or a file"
            )
        if image.dtype.name not in _ARRAY_DTYPES:
            raise DataError(f"image is an array of {image.dtype}; expected {', '.join(_ARRAY_DTYPES)}")
        return _in_memory(image, {})
    raise DataError(f"image is a {type(image).__name__}; expected a path, picture, array, MetaTensor or series")


def list_images(
    where: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], pattern: str | None = None
) -> list[dict[str, str]]:
    """Entries of a dataset for inference.

    Args:
        where: a folder, a file, or several of them. Of a folder the files with one of
            :data:`~monai_sa2va.data.headers.SUFFIXES` are taken, sorted, hidden ones left out.
        pattern: which files of a folder, as :meth:`pathlib.Path.glob` takes it, e.g. ``"images/*.png"``; all that lie
            directly in it by default.

    Returns:
        ``{"image": path}`` for each file.

    Raises:
        DataError: when a folder or file is missing, a file is of another kind, or a folder holds no image.
    """
    places = [where] if isinstance(where, (str, os.PathLike)) else list(where)
    if not places:
        raise DataError("there is no image; name a folder or files")
    found: list[dict[str, str]] = []
    for place in map(Path, places):
        if place.is_dir():
            files = sorted(path for path in place.glob(pattern or "*") if _is_image(path))
            if not files:
                raise DataError(
                    f"{os.fspath(place)} has no image that matches {pattern or '*'!r}; "
                    f"name the folder they lie in, or a pattern such as 'images/*.png' (kinds: {', '.join(SUFFIXES)})"
                )
            found += [{"image": str(path)} for path in files]
        else:
            _check_file(place)
            found.append({"image": str(place)})
    return found


def _is_image(path: Path) -> bool:
    return path.is_file() and bool(image_suffix(path)) and not path.name.startswith(".")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"there is no file {path.name!r} in its folder; check the path")
    if not image_suffix(path):
        raise DataError(f"{path.name} is none of {', '.join(SUFFIXES)}")


def _read_file(path: Path) -> SourceImage:
    _check_file(path)
    grid = read_grid(path)
    if len(grid.shape) > 3:
        axes = " x ".join(map(str, grid.shape))
        raise DataError(f"{path.name} has {len(grid.shape)} axes ({axes}); segment one picture or volume of it")
    if len(grid.shape) == 3 and grid.affine is None:
        raise DataError(f"{path.name} is a volume that doesn't say its orientation; write its space and directions")
    suffix = image_suffix(path)
    try:
        pixels = _read_nrrd(path, grid) if suffix == ".nrrd" else _read_by_monai(path, suffix)
    except DataError:
        raise
    # damaged data raises nearly anything; "from None": a traceback would show the reader's message with the folder
    except Exception as error:
        reason = hide_folders(" ".join(str(error).split()), path) or type(error).__name__
        raise DataError(f"{path.name} can't be read: {reason}") from None
    without_texts(pixels.meta)
    if tuple(n for n in pixels.shape[1:] if n != 1) != tuple(n for n in grid.shape if n != 1):
        raise DataError(f"{path.name} has shape {grid.shape} by its header and {tuple(pixels.shape[1:])} as read")
    if grid.affine is not None:
        # one reading of the header decides, whatever a reader's conventions are
        pixels.affine = torch.as_tensor(grid.affine, dtype=torch.float64)
        pixels.meta[MetaKeys.ORIGINAL_AFFINE] = grid.affine
        pixels.meta[MetaKeys.SPACE] = SpaceKeys.RAS
    header = nib.load(path).header if suffix in (".nii", ".nii.gz") else None
    return SourceImage(pixels, path.name, Grid(tuple(pixels.shape[1:]), grid.affine), header)


def _read_by_monai(path: Path, suffix: str) -> MetaTensor:
    # a mapped file could not be written to, of which torch warns
    reader = NibabelReader(mmap=False) if suffix in (".nii", ".nii.gz") else PILReader()
    with warnings.catch_warnings():
        # of a picture one pixel wide, whose values nothing here writes to
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        pixels: MetaTensor = LoadImage(reader=reader, image_only=True, ensure_channel_first=True, dtype=None)(path)
    return pixels


def _read_nrrd(path: Path, grid: Grid) -> MetaTensor:
    """MONAI's reader makes all values float32, takes no space but LPS and RAS, and needs directions."""
    values = read_values(path)[1]
    shape = grid.shape if grid.affine is None else values.shape
    native = values.astype(values.dtype.newbyteorder("="), copy=False).reshape(shape)
    return MetaTensor(convert_to_tensor(native[None]), meta={ImageMetaKey.FILENAME_OR_OBJ: str(path)})


def _in_memory(array: np.ndarray, meta: dict[str, Any]) -> SourceImage:
    """A picture with rows first, as pixels with x first."""
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    pixels = MetaTensor(torch.from_numpy(np.array(planes.swapaxes(1, 2))), meta=meta)
    return SourceImage(pixels, "image", Grid(tuple(pixels.shape[1:])))
