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

"""AdamW by name."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from monai_sa2va.engines.optimizers import KINDS, adamw
from monai_sa2va.errors import ConfigError


def test_the_plain_one_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = adamw([parameter], lr=1e-3, betas=[0.8, 0.9], eps=1e-7, weight_decay=0.1)
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert [group[key] for key in ("lr", "betas", "eps", "weight_decay")] == [1e-3, (0.8, 0.9), 1e-7, 0.1]


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"optimizer_kind is 'adam'; allowed: adamw, adamw_8bit, .*torchao"):
        adamw([torch.nn.Parameter(torch.ones(2))], "adam")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])
def test_a_package_that_is_not_installed_is_named_in_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module, _ = KINDS[kind]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"needs the package {package}, which can't be imported; pip install") as e:
        adamw([torch.nn.Parameter(torch.ones(2))], kind)
    assert "\n" not in str(e.value)


def test_a_package_is_imported_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, dict[str, Any]]] = []
    stand_in = ModuleType("bitsandbytes.optim")
    stand_in.PagedAdamW8bit = lambda params, **options: made.append((params, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", stand_in)
    adamw([torch.nn.Parameter(torch.ones(2))], "paged_adamw_8bit", lr=1e-4)
    assert made[0][1] == {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw_8bit", "adamw_8bit_torchao"])
@pytest.mark.filterwarnings("ignore")
def test_eight_bits_go_on_from_a_checkpoint(kind: str) -> None:
    pytest.importorskip(KINDS[kind][0], reason=f"{KINDS[kind][0]} is not installed")
    generator = torch.Generator().manual_seed(0)
    first = torch.nn.Parameter(torch.randn(64, 256, generator=generator))
    optimizer = adamw([first], kind, lr=1e-3)
    for _ in range(3):
        first.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = torch.nn.Parameter(first.detach().clone())
    other = adamw([second], kind, lr=1e-3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for parameter, stepping in ((first, optimizer), (second, other)):
        parameter.square().sum().backward()
        stepping.step()
    assert torch.equal(first, second)
