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

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from monai_sa2va.engines.random_state import random_state, set_random_state


def _draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), torch.rand(()).item()]


@pytest.fixture(autouse=True)
def _generators_as_before():
    state = random_state()
    yield
    set_random_state(state)


def test_draws_are_the_same_after_a_round_trip_through_a_file():
    _draw()  # one of a pair of Gaussian numbers is kept for the next draw
    file = io.BytesIO()
    torch.save(random_state(), file)
    first = _draw()
    assert _draw() != first
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert _draw() == first
