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


"""Known masks in the place of a network's, for made series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import made
import numpy as np
from pydicom import Dataset

from monai_sa2va.data.headers import Grid
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries, Layout
from monai_sa2va.segmentation import Segmentation
from monai_sa2va.transforms.geometry import PlaneGeometry


def find(folder: Path, datasets: Sequence[Dataset]) -> DicomSeries:
    """The one series that some instances are."""
    (series,) = scan(made.write(folder, datasets)).series
    return series


def segmentation(series: DicomSeries, masks: np.ndarray, labels: Sequence[str]) -> Segmentation:
    """Masks (N, X, Y, Z) bool of a series, as a segmenter would give them."""
    x, y, z = series.shape
    picture = series.layout is Layout.PICTURE
    grid = Grid(series.shape, None if series.affine is None else np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine)
    if picture:
        grid = Grid(series.shape[:2])
    stack = masks.transpose(0, 3, 2, 1)
    return Segmentation(
        masks=stack[:, 0] if picture else stack,
        labels=list(labels),
        text="Sure, [SEG].",
        scores=np.linspace(0.9, 0.3, len(labels), dtype=np.float32),
        affine=None,
        prompts=[f"Segment the {label}." for label in labels],
        answers=["Sure, [SEG]."] * len(labels),
        source_name="made",
        source_grid=grid,
        source_header=None,
        picture=np.zeros((y, x, 3), np.uint8),
        slice_index=None if picture else z // 2,
        presence_threshold=0.1,
        geometry=PlaneGeometry((x, y, z), (2, 1, 0), (False, False, False)),
        series=series,
    )


def some_masks(series: DicomSeries, objects: int = 2, seed: int = 0) -> np.ndarray:
    """(N, X, Y, Z) bool, any: objects overlap, and the first one leaves out the first frame."""
    masks = np.random.default_rng(seed).random((objects, *series.shape)) < 0.4
    if series.shape[2] > 1:
        masks[0, ..., 0] = False
    return masks
