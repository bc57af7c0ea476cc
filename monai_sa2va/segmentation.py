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

"""What a segmentation gives: masks of objects on the image's own grid, with what is needed to write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_sa2va.data.headers import Grid
from monai_sa2va.transforms.geometry import PlaneGeometry

__all__ = ["Segmentation"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of the objects that prompts asked for, with what is needed to write them.

    Attributes:
        masks: bool, (objects, H, W) of a picture, or (objects, D, H, W) of a volume: slices in the source's own order,
            displayed as :class:`~monai_sa2va.transforms.planes.ToPlane` does, axial ones with rows to posterior and
            columns to the patient's left.
        labels: name of each object.
        text: the answers, one a line.
        scores: (objects,) float32, 0 to 1: presence, how likely the object is there, calibrated where the checkpoint
            was; of a volume the largest of its slices.
        affine: (4, 4) float64, (column, row, slice, 1) of the masks -> LPS in mm; ``None`` where the source doesn't
            say.
        prompts: the prompt that each object belongs to.
        answers: the answer that each object belongs to.
        source_name: base name of the source's file, ``"image"`` where there is none.
        source_grid: spatial shape (X, Y[, Z]) of the source, and index -> RAS in mm where it says so.
        source_header: nibabel's header of a NIfTI source, else ``None``.
        picture: (H, W, 3) uint8, what the network saw: of a volume the slice with the largest area of objects, the
            middle one where all are empty.
        slice_index: of that slice, counted as in ``masks``; ``None`` for a picture.
        presence_threshold: presence below which a mask was emptied, of a volume slice by slice; ``None`` for never.
        geometry: how the masks' slices, rows and columns lie in the source's axes.
    """

    masks: np.ndarray
    labels: list[str]
    text: str
    scores: np.ndarray
    affine: np.ndarray | None
    prompts: list[str]
    answers: list[str]
    source_name: str
    source_grid: Grid
    source_header: Any
    picture: np.ndarray
    slice_index: int | None
    presence_threshold: float | None
    geometry: PlaneGeometry

    def on_source_grid(self) -> np.ndarray:
        """Masks on the source's own grid: bool, (objects, X, Y) or (objects, X, Y, Z), x first, as MONAI loads it."""
        stack = self.masks[:, None] if self.slice_index is None else self.masks
        volumes = self.geometry.unstack(torch.from_numpy(stack).transpose(0, 1))
        result: np.ndarray = volumes.reshape(len(stack), *self.source_grid.shape).numpy()
        return result
