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

"""Percentiles without sorting, beside numpy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.transforms.order_statistics import blocks, finite_percentiles


@given(
    values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=50),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=3),
)
def test_as_numpy_has_them_to_the_bit(values: list[float], percentiles: list[float]) -> None:
    plain = np.array(values, dtype=np.float32)
    finite = plain[np.isfinite(plain)]
    found = finite_percentiles(torch.from_numpy(plain), percentiles)
    if len(finite):
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_array_equal(found, np.percentile(finite, percentiles).astype(np.float64))
    else:
        assert all(math.isnan(value) for value in found)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float64"])
def test_any_type_and_many_blocks(dtype: str) -> None:
    values = (np.random.default_rng(0).normal(size=(1, 70, 80, 90)) * 5000).clip(0, 200).astype(dtype)
    tensor = torch.from_numpy(values.copy(order="F"))
    expected = np.percentile(values.astype(np.float32), [0.5, 50, 99.5]).astype(np.float64)
    np.testing.assert_array_equal(finite_percentiles(tensor, [0.5, 50, 99.5]), expected)


@given(shape=st.lists(st.integers(1, 7), max_size=4), largest=st.integers(1, 20), seed=st.integers(0, 9))
def test_blocks_are_views_of_everything_once(shape: list[int], largest: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(shape)).tolist()
    values = torch.arange(math.prod(shape)).reshape(shape).permute(order)
    found = list(blocks(values, largest))
    assert sorted(value for part in found for value in part.flatten().tolist()) == list(range(values.numel()))
    assert all(part.untyped_storage().data_ptr() == values.untyped_storage().data_ptr() for part in found)
    assert all(part.numel() <= max(largest, 1) or part.ndim == 0 for part in found)
