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

"""From the network's low-resolution mask logits to masks of the picture's size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import CheckpointError, ConfigError, DataError

__all__ = [
    "LogitsToMasks",
    "LogitsToMasksD",
    "LogitsToMasksDict",
    "LogitsToMasksd",
    "binarize",
    "upsample_mask_logits",
]


def upsample_mask_logits(low_res: torch.Tensor, sam_size: int, size: Sequence[int]) -> torch.Tensor:
    """Bring mask logits to the picture's size in two bilinear steps, as the reference does: first to SAM2's square.

    One step would give other edges. Corners are not aligned (``align_corners=False``).

    Args:
        low_res: (N, h, w) logits, floating point; usually h = w = S / 4.
        sam_size: side S of SAM2's square image, pixels.
        size: (H, W) of the picture, pixels.

    Returns:
        (N, H, W) logits, same dtype and device.

    Raises:
        DataError: when the shape or dtype doesn't fit, or a size is less than 1.
    """
    if low_res.ndim != 3 or not low_res.is_floating_point() or 0 in low_res.shape[1:]:
        raise DataError(
            f"mask logits have shape {tuple(low_res.shape)} and {low_res.dtype}; expected (N, h, w), floating point"
        )
    height, width = (int(n) for n in size)
    if min(sam_size, height, width) < 1:
        raise DataError(f"mask logits can't become {sam_size} x {sam_size} and then {height} x {width} pixels")
    if not len(low_res):
        return low_res.new_zeros((0, height, width))
    square = F.interpolate(low_res[:, None], size=(sam_size, sam_size), mode="bilinear", align_corners=False)
    return F.interpolate(square, size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def binarize(logits: torch.Tensor) -> torch.Tensor:
    """Masks from logits: True where the logit is above 0, that is where the probability is above one half.

    Args:
        logits: any shape, floating point.

    Returns:
        bool, same shape.

    Raises:
        CheckpointError: when a logit is NaN, which would pass for "outside": the weights hold NaN, or overflow.
    """
    if torch.isnan(logits).any():
        raise CheckpointError(
            "mask logits are NaN: the weights hold NaN, or overflow in their type; check them, or load them as float32"
        )
    return logits > 0


class LogitsToMasks(Transform):
    """Low-resolution mask logits (N, h, w) to bool masks (N, H, W).

    Args:
        sam_size: side S of SAM2's square image, pixels.

    Raises:
        ConfigError: when it is less than 1.
    """

    def __init__(self, sam_size: int = 1024) -> None:
        if sam_size < 1:
            raise ConfigError(f"sam_size is {sam_size}; at least 1 pixel is needed")
        self.sam_size = sam_size

    def __call__(self, low_res: Any, size: Sequence[int] | None = None) -> torch.Tensor:
        """Upsample and binarise.

        Args:
            low_res: (N, h, w) logits, floating point.
            size: (H, W) of the picture, pixels; SAM2's square by default.

        Raises:
            DataError: when the shape or dtype doesn't fit.
        """
        tensor: torch.Tensor = convert_to_tensor(low_res, track_meta=isinstance(low_res, MetaTensor))
        return binarize(upsample_mask_logits(tensor, self.sam_size, size or (self.sam_size, self.sam_size)))


class LogitsToMasksd(MapTransform):
    """Dictionary form of :class:`LogitsToMasks`, to the size of the entry's image plane.

    Args:
        keys: of the logits.
        reference_key: of the image plane, (C, H, W).
        sam_size: side S of SAM2's square image, pixels.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(
        self,
        keys: KeysCollection = Sa2VAKeys.PRED_MASKS,
        reference_key: str = Sa2VAKeys.IMAGE,
        sam_size: int = 1024,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference_key = reference_key
        self.to_masks = LogitsToMasks(sam_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Upsample and binarise every key.

        Raises:
            DataError: when the image is missing or no plane, or logits don't fit.
        """
        d = dict(data)
        reference = d.get(self.reference_key)
        if reference is None or len(reference.shape) != 3:
            found = "missing" if reference is None else f"of shape {tuple(reference.shape)}"
            raise DataError(f"'{self.reference_key}' is {found}; expected a plane (C, H, W) that gives the masks' size")
        for key in self.key_iterator(d):
            d[key] = self.to_masks(d[key], tuple(reference.shape[1:]))
        return d


LogitsToMasksD = LogitsToMasksDict = LogitsToMasksd
