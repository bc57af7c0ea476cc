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

"""Regions that a question points at, as places in the language model's view of the picture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Transform

from monai_sa2va.errors import ConfigError, PromptError

__all__ = ["RegionTokens"]


class RegionTokens(Transform):
    """Masks to the image tokens they cover, of the one tile that shows the whole picture (nearest, as the reference).

    Args:
        side: image tokens along a side of the tile.

    Raises:
        ConfigError: when it is less than 1.
    """

    def __init__(self, side: int) -> None:
        if side < 1:
            raise ConfigError(f"side is {side}; at least 1 image token is needed")
        self.side = side

    def __call__(  # type: ignore[override]  # MONAI's own array transforms widen this signature, too
        self, masks: Any, size: tuple[int, int]
    ) -> torch.Tensor:
        """Find the tokens of each region.

        Args:
            masks: (n, H, W), whatever is not 0 is inside.
            size: (H, W) of the picture, pixels.

        Returns:
            (n, side, side) bool.

        Raises:
            PromptError: when the masks are not of the picture's size, or one is empty.

        Warns:
            UserWarning: when a region is so small that no image token is left of it.
        """
        try:
            given = np.asarray(masks, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise PromptError("mask_prompts can't be read as numbers; give a list with one (n, H, W) array") from error
        if given.ndim != 3 or not len(given) or given.shape[1:] != tuple(size):
            raise PromptError(
                f"mask_prompts holds an array of shape {given.shape}; give (n, {size[0]}, {size[1]}), a mask a region "
                "of the picture's size"
            )
        if not np.isfinite(given).all():
            raise PromptError("mask_prompts holds values that are no numbers; give 0 outside and 1 inside a region")
        regions = F.interpolate(torch.from_numpy(given != 0)[None].float(), size=(self.side, self.side))[0].bool()
        for number, (mask, region) in enumerate(zip(given, regions, strict=True), start=1):
            if not mask.any():
                raise PromptError(f"region {number} of mask_prompts is empty; give one that covers some of the picture")
            if not region.any():
                warnings.warn(
                    f"region {number} of mask_prompts falls between the {self.side} x {self.side} image tokens: as in "
                    "the reference the language model sees nothing of it; give a larger one",
                    stacklevel=2,
                )
        return regions
