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

"""Which slices the language model sees: the volumes that decide it, and what the shipped weights make of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_sa2va.predictor import Segmenter


@pytest.fixture(scope="module")
def context(_benchmarks_on_path: None) -> Any:
    return importlib.import_module("volume_context")


@pytest.fixture(scope="module")
def shipped(repository: Path) -> Segmenter:
    return Segmenter.from_bundle(repository / "bundle", device="cpu")


@pytest.fixture(scope="module")
def made(context: Any) -> Any:
    return next(context.choose(1, slices=32, first=18, last=27))


def test_an_object_in_some_slices_only(context: Any, made: Any) -> None:
    held = np.flatnonzero(made.truth.any(axis=(1, 2)))
    assert made.name == "liver"
    assert set(range(20, 26)) <= set(held.tolist()) <= set(range(18, 28))
    assert made.image.shape == (1, 128, 128, 32)
    # the scene goes on where the object isn't
    assert np.asarray(made.image)[0, :, :, :18].std() > 10
    assert context.make_volume(9100, "ct", "cyst") is None


def test_propagation_finds_what_slices_find_and_the_first_five_do_not(
    context: Any, made: Any, shipped: Segmenter
) -> None:
    ways = ("slice by slice", "sweep", "first five (reference)")
    slices, sweep, first = (context.measure(shipped, made, way) for way in ways)
    assert slices.dice > 0.85
    assert sweep.dice >= slices.dice - 0.05
    assert sweep.outside <= 0.01
    assert first.dice < 0.1
    assert (slices.asked, first.asked) == (32, 5)
    assert sweep.asked < 24


@pytest.mark.slow
def test_forty_slices_of_three_hundred(context: Any) -> None:
    assert context.main(["--device", "cpu"]) == 0
