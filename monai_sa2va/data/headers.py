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
"""What an image file says of itself, read without torch: kind of file, shape, grid and label values."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.data.patients import hide_folders
from monai_sa2va.errors import DataError

__all__ = ["SUFFIXES", "Grid", "image_suffix", "label_values", "read_grid", "read_label", "read_values", "same_grid"]

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_NIFTI = (".nii", ".nii.gz")
_NRRD = (".nrrd",)
SUFFIXES: tuple[str, ...] = (*_PICTURES, *_NIFTI, *_NRRD)
"""Kinds of file that datalists are made of, in lower case."""

_TO_RAS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}


# bytes that one byte of gzip can stand for at most, by its format
_MOST_DEFLATED = 1032

# NIfTI's codes of length -> mm; what names none, or another, counts as mm
_MM_OF_UNIT = {1: 1000.0, 3: 0.001}


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and place of an image.

    Attributes:
        shape: voxels along x, y (and z, and whatever follows), colour left out and trailing ones dropped;
            a picture's is (width, height).
        affine: (4, 4) float64, index -> RAS in mm; ``None`` where the file doesn't say (pictures, unknown spaces).
    """

    shape: tuple[int, ...]
    affine: np.ndarray | None = None


def image_suffix(path: str | Path) -> str:
    """The suffix by which a file is read, in lower case, e.g. ``".nii.gz"``; empty where it is none of `SUFFIXES`."""
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def read_grid(path: str | Path) -> Grid:
    """Shape and grid of an image; of a volume only the header is read, a picture is decoded to find truncated ones.

    A NIfTI header in meters or microns is converted to mm; one that names no unit counts as mm.

    Raises:
        DataError: when the file can't be read, naming it.
    """
    return _read(Path(path), values=False)[0]


def read_values(path: str | Path) -> tuple[Grid, np.ndarray]:
    """Grid and values of an image without colour, values x first and as the file stores them.

    Raises:
        DataError: when the file can't be read or has axes outside space, naming it.
    """
    return _read(Path(path), values=True)


def read_label(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Values and grid of a label.

    Returns:
        Array of an integer dtype with the grid's shape, that is x first, and the grid.

    Raises:
        DataError: when the file can't be read, is coloured, or holds values that are no integers.
    """
    path = Path(path)
    grid, values = read_values(path)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind == "f":
        whole = values.astype(np.int64) if np.isfinite(values).all() else None
        if whole is None or not np.array_equal(whole, values):
            raise DataError(f"{path.name} holds values that are no integers: a label names objects by integers")
        values = whole
    elif values.dtype.kind not in "iu":
        raise DataError(f"{path.name} holds values of type {values.dtype}: a label names objects by integers")
    return values.reshape(grid.shape), grid


def label_values(values: np.ndarray) -> list[int]:
    """Values that occur in a label of an integer dtype, ascending, 0 (background) left out."""
    found = np.flatnonzero(np.bincount(values.ravel(order="K"))) if values.dtype == np.uint8 else np.unique(values)
    return [int(value) for value in found if value != 0]


def same_grid(first: Grid, second: Grid) -> str | None:
    """Why two grids differ, or ``None`` where they agree.

    Shapes have to be equal. Where both files say where they lie, no corner may be off by half a voxel or more:
    less is the rounding of headers.
    """
    if first.shape != second.shape:
        shapes = [" x ".join(map(str, grid.shape)) for grid in (first, second)]
        return f"shape {shapes[0]} of the image is not {shapes[1]} of its label"
    if first.affine is None or second.affine is None:
        return None
    shape = (*first.shape, 1, 1)[:3]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    off = float(np.linalg.norm(((first.affine - second.affine) @ corners.T)[:3], axis=0).max())
    voxel = float(np.linalg.norm(first.affine[:3, :3], axis=0).min())
    return None if off < voxel / 2 else f"image and label have one shape but lie up to {_millimetres(off)} mm apart"


def _millimetres(length: float) -> str:
    """Of a volume in microns, one decimal would show nothing."""
    return f"{length:.1f}" if length >= 0.1 else f"{length:.2g}"


def _read(path: Path, values: bool) -> tuple[Grid, np.ndarray]:
    suffix = image_suffix(path)
    reader = {**dict.fromkeys(_NIFTI, _read_nifti), **dict.fromkeys(_NRRD, _read_nrrd)}.get(suffix, _read_picture)
    if not suffix:
        raise DataError(f"{path.name} is none of {', '.join(SUFFIXES)}")
    try:
        return reader(path, values)
    except DataError:
        raise
    # each reader has its own errors for a broken file, and damaged headers raise nearly anything
    except Exception as error:
        # "from None": a traceback would show what the reader said, folders and header lines among it
        raise DataError(f"{path.name} can't be read: {_reason(error, path)}") from None


def _reason(error: Exception, path: Path) -> str:
    # of an error of the system, its text without the path
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = hide_folders(" ".join(told.split()), path) or type(error).__name__
    if image_suffix(path) not in _NRRD or isinstance(error, OSError):
        return text
    # a header of text lines, which its reader quotes behind a colon, others anywhere
    return text.partition(":")[0] if type(error).__name__ == "NRRDError" else "its header or its data are damaged"


def _read_picture(path: Path, values: bool) -> tuple[Grid, np.ndarray]:
    from PIL import Image

    with Image.open(path) as picture:
        pages = getattr(picture, "n_frames", 1)
        # a camera's JPEG may carry a preview as a second page, a TIFF with pages is a volume
        if picture.format == "TIFF" and pages > 1:
            raise DataError(f"{path.name} has {pages} pages: write volumes as NIfTI or NRRD")
        picture.load()
        pixels = np.asarray(picture) if values else np.empty(0)
        if values and pixels.ndim == 3:
            colours = pixels[..., :-1] if picture.mode in ("RGBA", "LA") else pixels
            if (colours != colours[..., :1]).any():
                raise DataError(f"{path.name} is coloured: a label map holds one integer a pixel")
            pixels = colours[..., 0]
        return Grid(picture.size), pixels.T


def _read_nifti(path: Path, values: bool) -> tuple[Grid, np.ndarray]:
    import nibabel

    image: Any = nibabel.load(path)
    _check_size(path, image)
    affine = np.array(image.affine, dtype=np.float64)
    # its lower three bits; the next are the unit of time
    affine[:3] *= _MM_OF_UNIT.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return (
        Grid(_spatial(image.shape), affine),
        np.asanyarray(image.dataobj) if values else np.empty(0),
    )


def _check_size(path: Path, image: Any) -> None:
    """Refuse a header that promises more than its file can hold: memory for all of it would be taken first."""
    promised = math.prod(int(n) for n in image.shape) * image.get_data_dtype().itemsize
    packed = image_suffix(path) == ".nii.gz"
    if promised > path.stat().st_size * (_MOST_DEFLATED if packed else 1):
        raise DataError(f"{path.name} can't be read: its header says {promised} bytes of values, which it can't hold")


def _read_nrrd(path: Path, values: bool) -> tuple[Grid, np.ndarray]:
    import nrrd

    header = nrrd.read_header(str(path))
    # any file of the machine would be opened, whoever wrote the header
    if "data file" in header or "datafile" in header:
        raise DataError(f"{path.name} keeps its values in another file; write one .nrrd that holds them")
    # index_order F, nrrd's default, is x first
    data = nrrd.read(str(path))[0] if values else np.empty(0)
    sizes = tuple(int(size) for size in header["sizes"])
    directions = header.get("space directions")
    if directions is None:
        return Grid(_spatial(sizes)), data
    width = max(len(row) for row in directions if row is not None)
    vectors = np.array([np.full(width, np.nan) if row is None else row for row in directions], dtype=np.float64)
    spatial = [not bool(np.isnan(row).any()) for row in vectors]
    if values and not all(spatial):
        raise DataError(
            f"{path.name} has {len(sizes)} axes, of which {sum(spatial)} lie in space: write one without colour or time"
        )
    shape = _spatial(tuple(itertools.compress(sizes, spatial)))
    signs = _TO_RAS.get(str(header.get("space", "")).lower())
    if signs is None or width != 3 or sum(spatial) != 3:
        return Grid(shape), data
    affine = np.eye(4)
    affine[:3, :3] = vectors[spatial].T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    affine[:3] *= np.array(signs)[:, None]
    return Grid(shape, affine), data


def _spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
