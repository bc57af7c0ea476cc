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

"""Submitted label maps as DICOM SEG by this package's own writer, in the place of MONAI Label's conversion."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_sa2va.data.headers import label_values, read_label
from monai_sa2va.data.read_image import SourceImage, read_image
from monai_sa2va.errors import DataError
from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.label.submitted import names_of
from monai_sa2va.pictures import PictureReader
from monai_sa2va.segmentation import Segmentation, join_results
from monai_sa2va.transforms.intensity import as_window
from monai_sa2va.transforms.stacks import StackPlanes
from monai_sa2va.writers.dicom_seg import write_dicom_seg

__all__ = ["label_to_dicom_seg", "on_grid", "raw_label"]

# of a voxel: what the rounding of headers may move one by
_ROUNDING = 0.1


def label_to_dicom_seg(
    series_dir: str, label: str, label_info: Sequence[Mapping[str, Any]] | None = None, **_: Any
) -> str:
    """Write a label map as DICOM SEG of its series; takes what MONAI Label's own function takes.

    Args:
        series_dir: folder of the series.
        label: file of the label map, on the series' grid in any order of its axes.
        label_info: ``name`` and ``idx`` of each segment; what has no name is called ``object``.

    Returns:
        Path of a temporary file.

    Raises:
        DataError: when the label map is empty, or doesn't lie on the series' grid.
        OutputError: when the series can't be read.
    """
    source = read_image(series_dir)
    values = on_grid(Path(label), source)
    found = label_values(values)
    if not found:
        raise DataError("the label is empty; a DICOM SEG holds at least one segment with voxels")
    named = names_of({"label_info": list(label_info or [])}, [])
    names = [named.get(value, "object" if len(found) == 1 else f"object {value}") for value in found]
    segmentation = _as_segmentation(source, np.stack([values == value for value in found]), names)
    with tempfile.NamedTemporaryFile(prefix="sa2va_", suffix=".dcm", delete=False) as file:
        path = Path(file.name)
    write_dicom_seg(segmentation, path, overwrite=True)
    return str(path)


def raw_label(image: str, label: str) -> str:
    """Give the bare values that OHIF submits the header of their image, by MONAI Label's own function.

    Args:
        image: file of the series' image.
        label: file of the values.

    Returns:
        Path of a temporary file.

    Raises:
        DataError: when there are more or fewer values than the image has voxels.
    """
    from monailabel.datastore.utils.convert import binary_to_image

    try:
        return str(binary_to_image(image, label))
    except ValueError as error:
        raise DataError("the label has more or fewer values than its series has voxels") from error


def on_grid(label: Path, source: SourceImage) -> np.ndarray:
    """A label map on the grid of a source: axes may run in another order or the other way, voxels are the same.

    Args:
        label: its file.
        source: a series.

    Returns:
        (X, Y, Z), values as in the file.

    Raises:
        DataError: when its voxels aren't those of the source.
    """
    values, grid = read_label(label)
    shape = (*source.grid.shape, 1)[:3]
    if grid.affine is None or source.grid.affine is None:
        raise DataError("the label or its series doesn't say where it lies")
    values = values.reshape((*values.shape, 1)[:3])
    moved = np.linalg.inv(source.grid.affine) @ grid.affine
    first = moved @ np.array([[0, 0, 0, 1], [*(n - 1 for n in values.shape), 1]]).T
    order = np.abs(moved[:3, :3]).argmax(axis=0)
    last = np.array(shape)[order] - 1
    # of each axis of the label, where it begins and ends along the source's
    begins, ends = first[order, 0], first[order, 1]
    forward = (np.abs(begins) < _ROUNDING) & (np.abs(ends - last) < _ROUNDING)
    backward = (np.abs(ends) < _ROUNDING) & (np.abs(begins - last) < _ROUNDING)
    if sorted(order.tolist()) != [0, 1, 2] or not (forward | backward).all():
        raise DataError("the label doesn't lie on the grid of its series")
    turned = np.flip(values, tuple(axis for axis in range(3) if not forward[axis]))
    return np.ascontiguousarray(turned.transpose(np.argsort(order)))


def _as_segmentation(source: SourceImage, masks: np.ndarray, names: list[str]) -> Segmentation:
    """Masks (N, X, Y, Z) as a segmenter would give them; a person drew or approved them, so they are surely there."""
    pictures = PictureReader(as_window("auto"), StackPlanes("auto")).slices(source)
    planes = pictures.geometry.stack(torch.from_numpy(masks))
    results = SliceResults(len(planes))
    count = len(names)
    for number, plane in enumerate(planes):
        result = ImageResult(
            masks=plane,
            names=names,
            prompt_indices=list(range(count)),
            presence=torch.ones(count),
            iou_scores=torch.ones(count),
            answers=[""] * count,
            phrases=[[name] for name in names],
        )
        results.keep(number, result)
    return join_results(source, pictures, pictures.geometry, results, names)
