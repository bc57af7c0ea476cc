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

"""What official checkpoints need, counted without weights."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.presets import PRESETS, get_preset
from monai_sa2va.networks.sa2va import Sa2VA


@pytest.fixture(scope="module")
def needed(_benchmarks_on_path: None) -> Any:
    return importlib.import_module("checkpoint_needs")


def test_it_counts_what_the_network_has(needed: Any, micro_config: Sa2VAConfig) -> None:
    network = Sa2VA(micro_config)
    needs = needed.measure(micro_config)
    total = sum(value.numel() for value in network.parameters())
    assert needs.parameters[0] == total
    assert needs.parameters[1] == sum(value.numel() for value in network.grounding_encoder.parameters())
    assert needs.bf16 == sum(value.numel() * 2 for value in network.bfloat16().parameters())
    # the weights of linear layers in one byte each, and a scale of two bytes a row
    linear = [module.weight for module in network.modules() if isinstance(module, torch.nn.Linear)]
    saved = sum(weight.numel() - 2 * weight.shape[0] for weight in linear)
    assert needs.int8 == needs.bf16 - saved


def test_keys_and_values_of_internvl3_8b(needed: Any) -> None:
    # 28 layers, 4 heads of 128, twice, two bytes each
    assert needed.cache_bytes(get_preset("internvl3_8b"), 10) == 28 * 4 * 128 * 2 * 2 * 10


def test_heads_of_another_width_count(needed: Any, micro_config: Sa2VAConfig) -> None:
    text = replace(micro_config.text, num_key_value_heads=1)
    assert needed.cache_bytes(replace(micro_config, text=text), 1) * 2 == needed.cache_bytes(micro_config, 1)


def test_the_table(needed: Any) -> None:
    row = needed.Needs("x_1b", (1_234_600_000, 224_400_000, 900_000_000), 2_469_200_000, 1_400_000_000, 50_000_000)
    assert (
        needed.markdown([row]).splitlines()[-1] == "| `x_1b` | 1,235 M | 900 M | 224 M | 2.47 GB | 1.40 GB | 0.05 GB |"
    )


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_it_prints(needed: Any, repository: Path) -> None:
    page = (repository / "docs/reference/official-checkpoints.md").read_text(encoding="utf-8")
    shown = page.split("<!-- table of checkpoint_needs -->")[1].split("<!-- /table of checkpoint_needs -->")[0].strip()
    rows = [needed.measure(preset) for name, preset in PRESETS.items() if name not in needed.OWN]
    assert shown == needed.markdown(rows)


def test_a_preset_that_is_not_official_is_refused(needed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        needed.main(["tiny"])
    assert "there is no official preset 'tiny'" in capsys.readouterr().err
