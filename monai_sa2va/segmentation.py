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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_sa2va.data.headers import Grid
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.transforms.geometry import PlaneGeometry
from monai_sa2va.transforms.telling_slices import telling_slices

__all__ = ["Segmentation", "join_results"]

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of the objects that prompts asked for, with what is needed to write them.

    Attributes:
        masks: bool, (objects, H, W) of a picture, or (objects, D, H, W) of a volume: slices in the source's own order,
            displayed as :class:`~monai_sa2va.transforms.planes.ToPlane` does, axial ones with rows to posterior and
            columns to the patient's left. Large ones are a view of a temporary file, see
            :func:`~monai_sa2va.inferers.slice_results.mask_array`.
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
        series: the DICOM series that was segmented; ``None`` for any other source.
        views: of a volume, further slices that tell most of its objects: index and picture as above, ascending.
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
    series: DicomSeries | None = None
    views: Sequence[tuple[int, np.ndarray]] = ()

    def on_source_grid(self) -> np.ndarray:
        """Masks on the source's own grid: bool, (objects, X, Y) or (objects, X, Y, Z), x first, as MONAI loads it."""
        stack = self.masks[:, None] if self.slice_index is None else self.masks
        # of two axes the slice's falls away
        return self.geometry.view(stack).reshape(len(stack), *self.source_grid.shape)


def join_results(
    source: SourceImage,
    pictures: Sequence[torch.Tensor],
    geometry: PlaneGeometry,
    results: SliceResults,
    asked: Sequence[str],
) -> Segmentation:
    """What was found in the slices of an image, on the grid of that image.

    Args:
        source: the image.
        pictures: its slices as the network saw them, (3, H, W) each, 0 to 255.
        geometry: how the slices lie in it.
        results: what was found in each slice, all of the same objects.
        asked: the prompts.
    """
    masks = results.masks
    first, volume = results[0], source.pixels.ndim == 4
    areas = [int(np.count_nonzero(masks[:, number])) for number in range(len(results))]
    shown = int(np.argmax(areas)) if any(areas) else len(results) // 2
    return Segmentation(
        masks=masks if volume else masks[:, 0],
        labels=list(first.names),
        text="\n".join(first.answers),
        scores=results.presence.amax(0).numpy(),
        affine=_mask_affine(source.grid, geometry),
        prompts=[asked[i] for i in first.prompt_indices],
        answers=[first.answers[i] for i in first.prompt_indices],
        source_name=source.name,
        source_grid=source.grid,
        source_header=source.header,
        picture=_shown(pictures[shown]),
        slice_index=shown if volume else None,
        presence_threshold=first.presence_threshold,
        geometry=geometry,
        series=source.series,
        views=[(z, _shown(pictures[z])) for z in telling_slices(masks)] if volume else (),
    )


def _shown(picture: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of a picture (3, H, W)."""
    result: np.ndarray = picture.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return result


def _mask_affine(grid: Grid, geometry: PlaneGeometry) -> np.ndarray | None:
    """(column, row, slice, 1) -> LPS, mm."""
    if grid.affine is None:
        return None
    placed: np.ndarray = _RAS_TO_LPS @ grid.affine @ geometry.matrix()
    return placed[:, [1, 0, 2, 3]]
