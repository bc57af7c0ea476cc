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

"""Fine-tuning: what is saved, taken back, and kept in fewer bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_sa2va.checkpoints.fingerprint import fingerprint
from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.engines.fine_tuning import FineTuning, spare_memory
from monai_sa2va.errors import CheckpointError, ConfigError
from monai_sa2va.networks.lora import LoRA
from monai_sa2va.networks.parts import PARTS, freeze
from monai_sa2va.networks.sa2va import Sa2VA

FROZEN = [part for part in PARTS if part != "text_hidden_fcs"]


def _tuning(config: Sa2VAConfig, rank: int = 4, frozen: list[str] = FROZEN) -> FineTuning:
    pytest.importorskip("peft", reason="peft is not installed")
    return FineTuning(freeze(Sa2VA(config, seed=0), frozen), LoRA(rank=rank, alpha=8.0, modules_to_save=["lm_head"]))


def test_it_says_its_base_and_what_trains(micro_config: Sa2VAConfig) -> None:
    tuning = _tuning(micro_config)
    assert tuning.about["base"] == fingerprint(Sa2VA(micro_config, seed=0).state_dict())
    assert tuning.about["lora"] == {
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.05,
        "target_modules": None,
        "modules_to_save": ["lm_head"],
        "seed": 0,
    }
    assert tuning.about["trained"] == sorted(tuning.state_dict())
    assert {name for name in tuning.state_dict() if ".lora_" not in name} == {
        "mllm.lm_head.weight",
        *(f"text_hidden_fcs.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
    }


def test_without_lora_the_trained_parts_are_the_adapter(micro_config: Sa2VAConfig) -> None:
    tuning = FineTuning(freeze(Sa2VA(micro_config, seed=0), FROZEN))
    assert len(tuning.state_dict()) == 4
    assert tuning.about["lora"] is None
    network = Sa2VA(micro_config).requires_grad_(False)
    with pytest.raises(ConfigError, match="lora is disabled and all parts are frozen, so nothing trains"):
        FineTuning(network)


def test_what_was_saved_is_taken_back(micro_config: Sa2VAConfig) -> None:
    first, second = _tuning(micro_config), _tuning(micro_config)
    with torch.no_grad():
        for parameter in first.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    second.load_state_dict(first.state_dict())
    for (name, a), b in zip(first.network.state_dict().items(), second.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_run_of_another_lora_or_base_does_not_go_on(micro_config: Sa2VAConfig) -> None:
    tuning = _tuning(micro_config)
    for other in (_tuning(micro_config, rank=2), _tuning(micro_config, frozen=["vision_tower", *FROZEN[2:]])):
        with pytest.raises(CheckpointError, match="was written by a fine-tuning of other parameters"):
            tuning.load_state_dict(other.state_dict())
    info = ModelInfo(micro_config, **tuning.about)
    with pytest.raises(CheckpointError, match="trained with another base"):
        info.load_state_dict({**info.state_dict(), "base": {"float32": "0", "bfloat16": "0"}})
    with pytest.raises(CheckpointError, match="trained with another lora"):
        info.load_state_dict({**info.state_dict(), "lora": {**tuning.about["lora"], "alpha": 4.0}})


def test_frozen_weights_in_bfloat16_train_what_is_in_float32(
    micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]
) -> None:
    tuning = _tuning(micro_config)
    network = spare_memory(tuning.network, gradient_checkpointing=True, frozen_dtype="bfloat16", amp=True)
    types = {(p.requires_grad, p.dtype) for p in network.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(sa2va_collate(micro_samples[:2]))["loss"].backward()
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_gradient_checkpointing_gives_the_same_gradients(
    micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = spare_memory(_tuning(micro_config).network, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(0)
        network(sa2va_collate(micro_samples[:2]))["loss"].backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert any(getattr(m, "gradient_checkpointing", False) for m in network.modules())
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frozen_dtype": "int8"}, "frozen_dtype is 'int8'; give float32 or bfloat16, or null"),
        ({"frozen_dtype": "bfloat16"}, "needs autocast: set amp"),
    ],
)
def test_types_that_cannot_be(micro_config: Sa2VAConfig, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spare_memory(Sa2VA(micro_config), **values)
