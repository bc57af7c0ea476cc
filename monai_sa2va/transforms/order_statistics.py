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

"""Percentiles of a volume of any size, exactly, without a copy of it in another type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["blocks", "finite_percentiles"]

_BLOCK = 1 << 18
_HALF = 1 << 16


def blocks(values: torch.Tensor, largest: int = _BLOCK) -> Iterator[torch.Tensor]:
    """Views that make up a tensor, of ``largest`` elements at most where its other axes allow it."""
    if values.numel() <= largest or values.ndim == 0:
        yield values
        return
    # along the axis whose neighbours lie farthest apart, so that each view is read in one go
    axis = max(range(values.ndim), key=lambda dim: (values.shape[dim] > 1, values.stride(dim)))
    step = max(1, largest * values.shape[axis] // values.numel())
    for part in values.split(step, dim=axis):
        if part.numel() > largest and part.shape[axis] == 1:
            yield from blocks(part.squeeze(axis), largest)
        else:
            yield part


def finite_percentiles(values: torch.Tensor, percentiles: Sequence[float]) -> list[float]:
    """What ``np.percentile`` gives for the finite values of a tensor, taken as float32, to the bit.

    Values are counted, not sorted: by the upper half of their bits, then, of the halves that matter, by the lower. So
    nothing of the size of the tensor is ever in memory beside it.

    Args:
        values: any shape and real dtype.
        percentiles: 0 to 100.

    Returns:
        One number a percentile; NaN where no value is finite.
    """
    upper = np.zeros(_HALF, dtype=np.int64)
    for keys in _keys(values):
        upper += np.bincount(keys >> 16, minlength=_HALF)
    count = int(upper.sum())
    if not count:
        return [float("nan")] * len(percentiles)
    places = np.true_divide(np.asarray(percentiles, dtype=np.float64), 100) * (count - 1)
    below = np.floor(places).astype(np.int64)
    ranks = np.unique(np.concatenate([below, np.minimum(below + 1, count - 1)]))
    known = dict(zip(ranks.tolist(), _ranked(values, upper, ranks), strict=True))
    return [
        # numpy's own step between two neighbours
        float(np.quantile(np.array([known[k], known[min(k + 1, count - 1)]], dtype=np.float32), [place - k])[0])
        for place, k in zip(places.tolist(), below.tolist(), strict=True)
    ]


def _ranked(values: torch.Tensor, upper: NDArray[np.int64], ranks: NDArray[np.int64]) -> list[np.float32]:
    """The values of these ranks, 0 for the smallest."""
    ends = np.cumsum(upper)
    halves = np.searchsorted(ends, ranks, side="right")
    lower = {int(half): np.zeros(_HALF, dtype=np.int64) for half in halves}
    for keys in _keys(values):
        tops = keys >> 16
        for half, counts in lower.items():
            counts += np.bincount(keys[tops == half] & (_HALF - 1), minlength=_HALF)
    found = []
    for rank, half in zip(ranks.tolist(), halves.tolist(), strict=True):
        within = rank - (int(ends[half - 1]) if half else 0)
        low = int(np.searchsorted(np.cumsum(lower[half]), within, side="right"))
        found.append(_value(half << 16 | low))
    return found


def _keys(values: torch.Tensor) -> Iterator[NDArray[np.uint32]]:
    """The finite values as whole numbers in the same order, block by block."""
    for block in blocks(values):
        plain = block.detach().to(torch.float32).cpu().numpy().ravel()
        # adding 0 makes one number of both zeros
        bits = (plain[np.isfinite(plain)] + np.float32(0)).view(np.uint32)
        yield bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _value(key: int) -> np.float32:
    bits = key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
    value: np.float32 = np.array([bits], dtype=np.uint32).view(np.float32)[0]
    return value
