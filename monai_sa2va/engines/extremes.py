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

"""Which cases an evaluation shows, and how: the best, the median and the worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_sa2va.data.read_image import read_image
from monai_sa2va.predictor import Segmentation, Segmenter
from monai_sa2va.transforms.rgb import ToRGB
from monai_sa2va.writers.evaluation import CaseRow, Panel

__all__ = ["case_panel", "pick_cases"]


def pick_cases(rows: Sequence[CaseRow]) -> dict[str, CaseRow]:
    """The objects of best, median and worst Dice, of those that the truth shows.

    Returns:
        ``best``, ``median`` (the lower one of two) and ``worst``, as far as there are so many; of equals, the first.
    """
    scored = [(row.score.dice, -number) for number, row in enumerate(rows) if row.score and row.score.present]
    order = [-number for _, number in sorted(scored, reverse=True)]
    if not order:
        return {}
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    if len(order) < 3:
        del places["median"]
    if len(order) < 2:
        del places["worst"]
    return {name: rows[order[place]] for name, place in places.items()}


def case_panel(
    name: str,
    row: CaseRow,
    segmenter: Segmenter,
    image: str,
    found: Segmentation,
    predicted: np.ndarray,
    truth: np.ndarray,
) -> Panel:
    """Show one object; of a volume, the slice with the largest area of the truth.

    Args:
        name: of the case, such as ``"best"``.
        row: its scores.
        segmenter: that made the masks.
        image: path of its file.
        found: what the segmenter said of it.
        predicted: (X, Y) or (X, Y, Z) bool, on the source's grid.
        truth: likewise; not empty.
    """
    geometry = found.geometry
    real, drawn = (
        geometry.stack(torch.from_numpy(np.ascontiguousarray(mask)).reshape(1, *geometry.shape))[:, 0].numpy()
        for mask in (truth, predicted)
    )
    index = int(real.sum(axis=(1, 2)).argmax())
    picture = found.picture if found.slice_index in (None, index) else _slice_picture(segmenter, image, index)
    score = f", Dice {row.score.dice:.3f}" if row.score else ""
    where = "" if found.slice_index is None else f", slice {index} of {len(real)}"
    title = f"{name}: {row.image} (case {row.case}), {row.prompt}{score}{where}"
    return Panel(picture, drawn[index], real[index], title)


def _slice_picture(segmenter: Segmenter, image: str, index: int) -> np.ndarray:
    """(H, W, 3) uint8 of one slice, in grey values as the network sees them."""
    plane = segmenter.stack(ToRGB()(segmenter.window(read_image(image).pixels)))[index]
    picture: np.ndarray = plane.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return picture
