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
"""Stored values to modality values: rescale or modality table, padding out of the way, more being brighter."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_sa2va.dicom.values import first_item, number, text, whole

__all__ = ["grey_values", "inverted_about", "smallest_type", "wider"]

_TYPES = (np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32))


def grey_values(stored: np.ndarray, dataset: Any, rescale: Any) -> np.ndarray:
    """Modality values of one frame.

    MONOCHROME1, where more is darker, is inverted within the range of its bits. Padding takes the smallest value of
    what is no padding, so that it is shown as air and counts in no percentile of tissue.

    Args:
        stored: (rows, columns), integers, or floats of FloatPixelData.
        dataset: of the instance, with the description of its pixels.
        rescale: what has RescaleSlope and RescaleIntercept: the data set, or a functional group.

    Returns:
        (rows, columns) of the smallest of uint8, int16 and float32 that is exact; of uint8 only what is neither
        signed nor rescaled. float32 where none is.
    """
    padding = _padding(stored, dataset)
    values = stored
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1" and stored.dtype.kind in "iu":
        values = inverted_about(dataset) - stored.astype(np.int64)
    if first_item(dataset, "ModalityLUTSequence") is not None:
        from pydicom.pixels import apply_modality_lut

        result = smallest_type(apply_modality_lut(values.astype(stored.dtype), dataset), rescaled=True)
    else:
        slope, intercept = number(rescale, "RescaleSlope"), number(rescale, "RescaleIntercept")
        slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
        rescaled = (slope, intercept) != (1.0, 0.0)
        result = smallest_type(values * slope + intercept if rescaled else values, rescaled)
    if padding is not None and padding.any() and not padding.all():
        result[padding] = result[~padding].min()
    return result


def inverted_about(dataset: Any) -> int:
    """What a stored value of MONOCHROME1 and its inverted one add up to."""
    bits = whole(dataset, "BitsStored") or whole(dataset, "BitsAllocated") or 8
    return -1 if whole(dataset, "PixelRepresentation") == 1 else (1 << bits) - 1


def smallest_type(values: np.ndarray, rescaled: bool) -> np.ndarray:
    """A copy in the smallest of uint8, int16 and float32 that holds the values exactly, else float32."""
    if values.dtype == np.uint8 and not rescaled:
        return values.copy()
    low, high = values.min(initial=0), values.max(initial=0)
    if low >= -32768 and high <= 32767:
        whole_numbers = values.astype(np.int16)
        if values.dtype.kind in "iu" or np.array_equal(whole_numbers, values):
            return whole_numbers
    return values.astype(np.float32)


def wider(first: np.dtype, second: np.dtype) -> np.dtype:
    """The type of the two that holds both."""
    return max(first, second, key=_TYPES.index)


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Where stored values are padding."""
    value, limit = whole(dataset, "PixelPaddingValue"), whole(dataset, "PixelPaddingRangeLimit")
    if value is None or stored.dtype.kind not in "iu":
        return None
    bits = whole(dataset, "BitsAllocated") or 16
    low, high = sorted(_as_stored(one, stored, bits) for one in (value, value if limit is None else limit))
    found: np.ndarray = (stored >= low) & (stored <= high)
    return found


def _as_stored(value: int, stored: np.ndarray, bits: int) -> int:
    """A padding value written with the other signedness than the pixels'."""
    if stored.dtype.kind == "i" and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value + (1 << bits) if stored.dtype.kind == "u" and value < 0 else value
