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

"""One picture in overlapping windows, for thin structures in images larger than what the network sees at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from PIL import Image

from monai_sa2va.errors import ConfigError
from monai_sa2va.transforms.postprocess import binarize

__all__ = ["SeenLogits", "SlidingWindows"]

_SMALLEST = 16


class SeenLogits(NamedTuple):
    """What is seen of N objects in one window, on the CPU.

    Attributes:
        logits: (N, H, W) float32, of the window's size.
        presence: (N,) float32, 0 to 1.
        iou_scores: (N,) float32, 0 to 1.
    """

    logits: torch.Tensor
    presence: torch.Tensor
    iou_scores: torch.Tensor


class SlidingWindows:
    """MONAI's sliding window over one picture.

    Logits are averaged where windows overlap, the nearer to a window's centre the heavier, and are then thresholded. A
    window in which an object isn't there votes against it, as surely as it would have drawn it. An object's presence
    and predicted IoU are those of the window that is surest of it.

    Args:
        roi_size: side of the windows, pixels, or their rows and columns; where a picture is smaller, so is the window.
        overlap: of neighbours, 0 to below 1.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(self, roi_size: int | Sequence[int], overlap: float = 0.25) -> None:
        sides = [roi_size] * 2 if isinstance(roi_size, int) else [*roi_size]
        if len(sides) != 2 or min(sides) < _SMALLEST:
            raise ConfigError(
                f"roi_size is {roi_size!r}; give one or two sides of at least {_SMALLEST} pixels, or null for none"
            )
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap is {overlap}; give 0 to below 1")
        self.roi_size, self.overlap = (sides[0], sides[1]), overlap

    def __call__(
        self, picture: Image.Image, look: Callable[[Image.Image], SeenLogits], threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Go over a picture.

        Args:
            picture: RGB.
            look: sees one window; of the same objects in all.
            threshold: presence below which an object isn't there.

        Returns:
            Masks (N, H, W) bool, presence and predicted IoU (N,), on the CPU.
        """
        seen: list[SeenLogits] = []

        def predictor(window: torch.Tensor) -> torch.Tensor:
            found = look(Image.fromarray(window[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()))
            seen.append(found)
            there = (found.presence >= threshold)[:, None, None]
            # MONAI can't join windows of no object
            logits = torch.where(there, found.logits, -found.logits.abs())
            return (logits if len(logits) else logits.new_zeros((1, *logits.shape[1:])))[None]

        roi = (min(self.roi_size[0], picture.height), min(self.roi_size[1], picture.width))
        slide = SlidingWindowInferer(roi, sw_batch_size=1, overlap=self.overlap, mode="gaussian")
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        logits: Any = slide(pixels, predictor)
        presence, surest = torch.stack([one.presence for one in seen]).max(0)
        ious = torch.stack([one.iou_scores for one in seen]).gather(0, surest[None])[0]
        return binarize(logits[0, : len(presence)]), presence, ious
