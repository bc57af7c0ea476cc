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

"""``sa2va_click``: clicks, a box and a rough mask in, the one object that they show out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.tasks.infer_v2 import InferType

from monai_sa2va.data.headers import read_label, same_grid
from monai_sa2va.data.read_image import SourceImage
from monai_sa2va.errors import DataError
from monai_sa2va.inferers.stack import OBJECT_NAME
from monai_sa2va.label.infer_task import Sa2VAInferTask
from monai_sa2va.label.marks import box_of, points_of
from monai_sa2va.label.one_slice import show_slice
from monai_sa2va.label.options import CLICK_OPTIONS, choice, reach_of, sentence, share
from monai_sa2va.label.served_model import ServedModel
from monai_sa2va.predictor import Segmenter
from monai_sa2va.segmentation import Segmentation
from monai_sa2va.transforms.geometry import PlaneGeometry

__all__ = ["LABEL_UPLOADED", "ClickTask"]

LABEL_UPLOADED: ContextVar[bool] = ContextVar("label_uploaded", default=False)
"""Whether the ``label`` of the request at hand is a file that came with it. Else it is at most a name, which 3D Slicer
sends, and never opened."""


class ClickTask(Sa2VAInferTask):
    """Segments what clicks, a region and a rough mask show; the server remembers none of them.

    Args:
        model: the server's.
        labels: names that clients show.
        named: those of them that a segment is asked for by.
    """

    def __init__(self, model: ServedModel, labels: Sequence[str], named: Sequence[str] = ()) -> None:
        description = "Click on the object and beside it; the option 'text' may name it, too"
        super().__init__(model, labels, InferType.DEEPGROW, description, CLICK_OPTIONS)
        self.named = list(named)

    def segment(self, segmenter: Segmenter, source: SourceImage, request: Mapping[str, Any]) -> Segmentation:
        """Draw the object where it is shown, and in the other slices of a volume what follows from that."""
        text = sentence(request, needed=False) or self._of_segment(request)
        alone = choice(request, "mode", self.options) == "slice"
        volume = source.pixels.ndim == 4
        geometry = segmenter.reader.geometry(source)
        shown: dict[str, Any] = {
            "points": points_of(request, geometry, volume),
            "boxes": box_of(request, geometry, volume),
        }
        if LABEL_UPLOADED.get():
            shown["mask"] = _start_mask(str(request["label"]), source, geometry, volume)
        given = any(value is not None for value in shown.values())
        if alone and volume and given:
            found = show_slice(segmenter, source, text, **shown)
        elif volume and given and not LABEL_UPLOADED.get():
            found = segmenter.correct(
                source, text, **shown, agreement=share(request, "agreement"), reach=reach_of(request, geometry.depth)
            )
        else:
            found = segmenter.segment(source, text, **shown)
        name = request.get("label")
        if not LABEL_UPLOADED.get() and isinstance(name, str) and name.strip() and found.labels == [OBJECT_NAME]:
            found.labels[:] = [name.strip()[:200]]
        return found

    def _of_segment(self, request: Mapping[str, Any]) -> str | None:
        """A sentence for the segment that 3D Slicer says its user is at, where the server was started with its name."""
        name = request.get("label")
        return f"Segment the {name}." if not LABEL_UPLOADED.get() and name in self.named else None

    def labels_for(self, found: Segmentation, request: Mapping[str, Any]) -> Sequence[str]:
        """One object has the value 1, whatever its name: clients put it where they clicked."""
        return list(found.labels)


def _start_mask(path: str, source: SourceImage, geometry: PlaneGeometry, volume: bool) -> np.ndarray:
    """(H, W) or (D, H, W) bool of an uploaded label file."""
    values, grid = read_label(Path(path))
    why = same_grid(source.grid, grid)
    if why is not None:
        raise DataError(f"label doesn't fit the image: {why}")
    planes = torch.from_numpy((values > 0).reshape(geometry.shape))
    stack: np.ndarray = geometry.stack(planes[None])[:, 0].numpy()
    return stack if volume else stack[0]
