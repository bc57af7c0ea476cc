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

"""Whatever stands for a colour picture, as Pillow's: the one door before resizing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_numpy
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.source import source_name

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "channel_constants", "to_picture"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_picture(image: Any, name: Hashable = "image") -> Image.Image:
    """An RGB picture of Pillow.

    Args:
        image: (H, W, 3) uint8 array; a picture of Pillow with 8 bits a channel (grey becomes RGB, alpha is dropped);
            or (3, H, W) tensor with values 0 to 255, which are rounded.
        name: what error messages call the image.

    Raises:
        DataError: when it is none of these.
    """
    if isinstance(image, Image.Image):
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise DataError(f"{name} is a picture of mode {image.mode}; window it to 8 bits a channel first")
        return image.convert("RGB")
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise DataError(
                f"{source_name(image, name)} is a tensor of shape {tuple(image.shape)}; expected (3, H, W), "
                "as ToPlane and ToRGB give"
            )
        return Image.fromarray(_round(image, name))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise DataError(f"{name} is an array of shape {array.shape} and {array.dtype}; expected (H, W, 3) of uint8")
    return Image.fromarray(np.ascontiguousarray(array))


def channel_constants(name: str, values: Sequence[float]) -> torch.Tensor:
    """A mean or standard deviation for each of three channels, as (3, 1, 1) float32.

    Raises:
        ConfigError: when there are not three of them.
    """
    if len(values) != 3:
        raise ConfigError(f"{name} has {len(values)} values; give one for each of the 3 channels")
    return torch.tensor([float(value) for value in values], dtype=torch.float32).view(3, 1, 1)


def _round(image: torch.Tensor, name: Hashable) -> np.ndarray:
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        # written so that NaN fails, too
        if not (low >= -0.5 and high <= 255.5):
            raise DataError(
                f"{source_name(image, name)} has values from {low:g} to {high:g}; expected 0 to 255, as Window gives"
            )
        image = image.round().clamp(0, 255).to(torch.uint8)
    values: np.ndarray = convert_to_numpy(image)
    return np.ascontiguousarray(values.transpose(1, 2, 0))
