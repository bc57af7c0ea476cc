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

"""LoRA in a language model: what it trains, what it leaves alone, what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.lora import LoRA, add_lora
from monai_sa2va.networks.parts import PARTS, freeze, part_of, trainable_summary
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA

pytest.importorskip("peft", reason="peft is not installed")

TRAINED = ("text_hidden_fcs", "multi_modal_projector", "grounding_encoder.mask_decoder")
FROZEN = [part for part in PARTS if part not in TRAINED]


def _network(config: Sa2VAConfig) -> Any:
    return freeze(Sa2VA(config, seed=0), FROZEN)


def test_nothing_changes_until_it_is_trained(micro_config: Sa2VAConfig) -> None:
    network = _network(micro_config).eval()
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(image, text="Segment the vessels.")
        add_lora(network, LoRA(rank=4, alpha=8))
        assert torch.equal(network(image, text="Segment the vessels."), before)


def test_every_linear_layer_of_the_language_model_gets_it_and_no_other(micro_config: Sa2VAConfig) -> None:
    network = _network(micro_config)
    layers = add_lora(network, LoRA(rank=4, alpha=8))
    kinds = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    kinds += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert layers == [f"layers.{number}.{kind}" for number in (0, 1) for kind in kinds]
    found = {name for name, _ in network.named_parameters() if part_of(name) == "lora"}
    assert len(found) == 2 * len(layers)
    assert all(name.startswith("mllm.model.language_model.") for name in found)


def test_what_trains_is_counted_by_part(micro_config: Sa2VAConfig) -> None:
    network = _network(micro_config)
    before = trainable_summary(network)
    add_lora(network, LoRA(rank=4, alpha=8, modules_to_save=["embed_tokens"]))
    after = trainable_summary(network)
    # width 32, two heads of 8 for keys and values, 48 in the middle: in + out of each, four times, two layers
    per_layer = (32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 48) + (48 + 32)
    assert after.pop("lora") == (4 * 2 * per_layer, 4 * 2 * per_layer)
    assert after["embeddings"] == (267 * 32, 2 * 267 * 32)
    assert after["language_model"][0] == 0
    del before["embeddings"], after["embeddings"]
    assert after == before


def test_only_what_trains_gets_a_gradient(micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]) -> None:
    network = _network(micro_config)
    add_lora(network, LoRA(rank=4, alpha=8))
    network.gradient_checkpointing_enable()
    network.train()
    network(sa2va_collate(micro_samples[:2]))["loss"].backward()
    parts = {part_of(name) for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert parts == {"lora", "embeddings", *TRAINED}


def test_some_layers_by_name(micro_config: Sa2VAConfig) -> None:
    layers = add_lora(_network(micro_config), LoRA(rank=2, target_modules=["q_proj", "v_proj"], modules_to_save=[]))
    assert {layer.rpartition(".")[2] for layer in layers} == {"q_proj", "v_proj"}
    layers = add_lora(_network(micro_config), LoRA(rank=2, modules_to_save=["up_proj"]))
    assert not [layer for layer in layers if layer.endswith("up_proj")]


def test_seed_decides_where_it_begins(micro_config: Sa2VAConfig) -> None:
    def begins(seed: int) -> torch.Tensor:
        network = _network(micro_config)
        add_lora(network, LoRA(rank=2, seed=seed))
        return next(p for name, p in network.named_parameters() if "lora_A" in name)

    state = torch.random.get_rng_state()
    assert torch.equal(begins(0), begins(0))
    assert not torch.equal(begins(0), begins(1))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "lora rank is 0"),
        ({"rank": True}, "lora rank is True"),
        ({"alpha": 0}, "lora alpha is 0"),
        ({"dropout": 1.0}, r"lora dropout is 1\.0"),
        ({"target_modules": "q_proj"}, "lora target_modules is 'q_proj'; give a list"),
        ({"target_modules": []}, "lora target_modules is empty"),
        ({"modules_to_save": [1]}, r"lora modules_to_save is \[1\]"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoRA(**values)


def test_names_that_match_nothing_and_a_model_that_is_not_frozen(micro_config: Sa2VAConfig) -> None:
    for lora, message in (
        (LoRA(target_modules=["q_prj"]), "lora target_modules names 'q_prj'; linear layers .*q_proj"),
        (LoRA(modules_to_save=["head"]), "lora modules_to_save names 'head'; .*lm_head"),
        (LoRA(target_modules=["q_proj"], modules_to_save=["q_proj"]), "all in modules_to_save"),
    ):
        with pytest.raises(ConfigError, match=message):
            add_lora(_network(micro_config), lora)
    with pytest.raises(ConfigError, match="language_model and embeddings would be trained whole"):
        add_lora(Sa2VA(micro_config), LoRA())


def test_without_peft_one_line_says_so(micro_config: Sa2VAConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs the package peft; pip install 'monai-sa2va\[finetune\]'"):
        add_lora(_network(micro_config), LoRA())


def test_the_adapter_of_an_8b_is_at_most_a_quarter_of_it() -> None:
    with torch.device("meta"):
        network: nn.Module = Sa2VA(get_preset("internvl3_8b"))
    whole = sum(parameter.numel() for parameter in network.parameters())
    add_lora(freeze(network, FROZEN), LoRA(rank=128, alpha=256, dropout=0.05))
    trained = {part: count for part, (count, _) in trainable_summary(network).items() if count}
    # 28 layers of width 3584, 512 for keys and values, 18944 in the middle
    per_layer = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert trained["lora"] == 128 * 28 * per_layer == 322_961_408
    assert trained["embeddings"] == 2 * 151_679 * 3584 == 1_087_235_072
    assert set(trained) == {"lora", "embeddings", *TRAINED}
    assert sum(trained.values()) / whole <= 0.25
