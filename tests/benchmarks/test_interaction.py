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

"""``benchmarks/interaction.py``: clicks, boxes and memory."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA


@pytest.fixture(scope="module")
def benchmark(scoring: Any) -> Any:
    return importlib.import_module("interaction")


def test_a_click_is_in_the_middle_of_the_larger_error(benchmark: Any) -> None:
    truth = np.zeros((20, 30), bool)
    truth[5:10, 5:10] = True
    nothing = np.zeros_like(truth)
    assert benchmark.click(nothing, truth) == (7, 7, 1)
    too_much = truth.copy()
    too_much[12:19, 20:27] = True
    assert benchmark.click(too_much, truth) == (23, 15, 0)
    assert benchmark.click(truth, truth) is None
    # at the edge of the picture, the edge counts
    corner = np.zeros_like(truth)
    corner[:5, :5] = True
    assert benchmark.click(nothing, corner) == (2, 2, 1)


def test_dice(benchmark: Any) -> None:
    half = np.array([True, False, False, False])
    assert benchmark.dice(half, np.array([True, True, True, False])) == 0.5
    assert benchmark.dice(half & False, half & False) == 1.0


@pytest.mark.parametrize("part", ["text", "clicks", "memory"])
def test_a_part_gets_new_weights_and_nothing_else(benchmark: Any, micro_config: Sa2VAConfig, part: str) -> None:
    network = Sa2VA(micro_config, seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    benchmark.reinitialise(network, part)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    words = {
        "text": ("text_hidden_fcs.",),
        "clicks": ("point_embeddings.", "mask_downscaling."),
        "memory": ("memory_attention.", "memory_encoder.", "obj_ptr_proj."),
    }[part]
    assert changed
    assert all(any(word in name for word in words) for name in changed)


def test_clicks_and_propagation_of_a_network_that_knows_nothing(benchmark: Any, micro_config: Sa2VAConfig) -> None:
    network = Sa2VA(micro_config, seed=0)
    found = benchmark.measure_clicks(network, benchmark.make_cases(1, 9000, 32))
    assert {"text", "hard: text + 0", "hard: text + 3", "1 points alone", "3 points alone", "box alone"} <= set(found)
    assert all(0 <= scores.mean <= 1 for scores in found.values())
    scores, empty, without = benchmark.measure_propagation(network, 1, 9000, 32, 8)
    assert 0 <= scores.mean <= 1
    assert 0 <= empty <= 1
    assert without > 0
