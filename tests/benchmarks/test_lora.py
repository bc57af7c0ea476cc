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

"""The benchmark of LoRA, tried on the CPU."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA

pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture
def lora(_benchmarks_on_path: None) -> ModuleType:
    return importlib.import_module("lora")


def test_a_network_of_drawn_weights_is_whole(lora: ModuleType, micro_config: Sa2VAConfig) -> None:
    network = lora.build(micro_config, 4, torch.device("cpu"))
    usual, found = dict(Sa2VA(micro_config).named_buffers()), dict(network.named_buffers())
    assert usual.keys() == found.keys()
    # SAM2's code of positions is drawn at random
    drawn = {name for name in usual if name.endswith("gaussian_matrix")}
    assert len(drawn) == 1
    assert all(torch.equal(found[name], usual[name]) for name in usual.keys() - drawn)
    assert all(0.1 < float(found[name].std()) < 10 for name in drawn)
    assert {(p.requires_grad, p.dtype) for p in network.parameters()} == {
        (True, torch.float32),
        (False, torch.bfloat16),
    }
    size = lora.adapter_size(network)
    assert size["base"] == sum(p.numel() for p in Sa2VA(micro_config).parameters())
    assert 0 < size["share"] < 1
    batch = lora.make_batch(network, 2, 40)
    steps = [lora.measure(network, batch, 1, 1, checkpointing) for checkpointing in (False, True)]
    assert all(result["seconds"] > 0 and result["peak_memory"] is None for result in steps)
    assert all(result["last_loss"] == result["last_loss"] for result in steps)


def test_changes_are_shares_of_the_plain_step(lora: ModuleType) -> None:
    plain, again = {"seconds": 1.0, "peak_memory": 50}, {"seconds": 1.25, "peak_memory": 30}
    assert lora.compare(plain, again) == pytest.approx({"speed": -0.2, "memory": -0.4})
    assert lora.compare(plain, {**again, "peak_memory": None})["memory"] is None


def test_arguments_that_cannot_be(lora: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"lora\.py: \[CONFIG\] --steps and --batch-size need at least 1"):
        lora.main(["--preset", "tiny", "--steps", "0"])
