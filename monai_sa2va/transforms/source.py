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

"""What is known of the file that an array came from: its name without the folder, and its own kind of pixels."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import PurePath
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys

from monai_sa2va.data.headers import Grid

__all__ = [
    "channels_of_one_picture",
    "file_name",
    "grid_of",
    "integer_maximum",
    "is_picture",
    "may_have_alpha",
    "picture_mode",
    "source_name",
]

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Pillow's modes by the largest value that a pixel of theirs can have
_MODE_MAXIMUM = {
    **{"1": 1},
    **dict.fromkeys(("L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX"), 255),
    **dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), 65535),
}
_ONE_CHANNEL_MODES = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_DTYPE_MAXIMUM = {"bool": 1, "uint8": 255, "uint16": 65535}


def _meta(image: Any) -> dict[Any, Any]:
    meta: dict[Any, Any] = image.meta if isinstance(image, MetaTensor) else {}
    return meta


def file_name(image: Any) -> str:
    """Base name of the file an image was read from, empty where unknown; folders may name patients and are left out."""
    return PurePath(str(_meta(image).get(ImageMetaKey.FILENAME_OR_OBJ, ""))).name


def source_name(image: Any, name: Hashable = "image") -> str:
    """How an error message calls an image: its key, and its file's base name where that is known.

    Args:
        image: any array; only a ``MetaTensor`` knows its file.
        name: the image's key or role.
    """
    file = file_name(image)
    return f"{name} ({file})" if file else str(name)


def picture_mode(image: Any) -> str:
    """Pillow's mode of the file an image was read from (``"L"``, ``"RGBA"``, ...), empty where it was no picture."""
    return str(_meta(image).get("mode", ""))


def is_picture(image: Any) -> bool:
    """Whether the file an image was read from is a picture by its name, rather than a volume or unknown."""
    return PurePath(file_name(image)).suffix.lower() in _PICTURE_SUFFIXES


def channels_of_one_picture(image: Any) -> bool:
    """Whether the channels are those of one picture (colours, alpha), rather than several files one upon another."""
    mode = picture_mode(image)
    if mode:
        return mode not in _ONE_CHANNEL_MODES
    # MONAI stacks files along a new first dimension; within a picture the channel is the last
    return is_picture(image) and _meta(image).get(MetaKeys.ORIGINAL_CHANNEL_DIM) == -1


def may_have_alpha(image: Any) -> bool:
    """Whether the last of 2 or 4 channels is opacity: the source is a picture that has it, or unknown."""
    mode = picture_mode(image)
    if mode:
        return mode in ("LA", "La", "RGBA", "RGBa")
    return not file_name(image) or is_picture(image)


def integer_maximum(image: Any) -> int | None:
    """Largest value of the unsigned integers that the source stores: 1, 255 or 65535.

    MONAI loads everything as float32 by default, and turns uint16 to int32: of a picture its mode therefore comes
    before the array's dtype. Of a NIfTI nothing but the dtype tells, as its header forgets a rescaling when it is read;
    load it with ``LoadImaged(dtype=None)``.

    Returns:
        The value, or ``None`` where the source has another type or doesn't say.
    """
    if picture_mode(image):
        return _MODE_MAXIMUM.get(picture_mode(image))
    return _DTYPE_MAXIMUM.get(str(image.dtype).removeprefix("torch."))


def grid_of(image: Any) -> Grid:
    """Shape and place of a channel-first image ``(C, X, Y[, Z])``.

    Returns:
        The spatial shape; the affine (4, 4), index -> RAS in mm, only of a volume that carries one.
    """
    shape = tuple(int(n) for n in image.shape[1:])
    if not isinstance(image, MetaTensor) or len(shape) != 3:
        return Grid(shape)
    affine = np.asarray(to_affine_nd(3, image.affine), dtype=np.float64)
    if str(_meta(image).get(MetaKeys.SPACE, SpaceKeys.RAS)) == SpaceKeys.LPS:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return Grid(shape, affine)
