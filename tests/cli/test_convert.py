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

"""``monai-sa2va convert``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.cli.main import app
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA


@pytest.fixture
def trained(tmp_path: Path, micro_config: Sa2VAConfig) -> Path:
    file = tmp_path / "model.pt"
    network = Sa2VA(micro_config, seed=0)
    torch.save({"model": network.state_dict(), "info": ModelInfo(micro_config).state_dict()}, file)
    return file


def test_there_and_back(trained: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    first = runner.invoke(app, ["convert", str(trained), str(tmp_path / "hf"), "--to", "hf", "--dtype", "bfloat16"])
    assert first.exit_code == 0, first.output
    lines = first.output.splitlines()
    assert lines[0].split() == ["vision_tower", "18", "tensors", "from", "model.pt"]
    assert lines[-2].startswith("note: monai_sa2va.json says grounding, projector_hidden")
    assert lines[-1].endswith(f"all from {trained}, to {tmp_path / 'hf'}")
    second = runner.invoke(
        app, ["convert", str(tmp_path / "hf"), str(tmp_path / "bundle"), "--to", "bundle", "--list-tensors"]
    )
    assert second.exit_code == 0, second.output
    listed = [line for line in second.output.splitlines() if " <- " in line]
    network = Sa2VA.from_pretrained(tmp_path / "bundle")
    assert network.dtype == torch.bfloat16
    assert len(listed) == len(network.state_dict())
    assert "text_hidden_fcs.0.bias (32,) bfloat16 <- text_hidden_fcs.0.bias of model.safetensors" in listed


def test_an_error_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "no"), str(tmp_path / "out"), "--to", "hf"])
    assert result.exit_code == 2
    assert result.output.startswith("error: [CHECKPOINT] there is no checkpoint")
    assert len(result.output.splitlines()) == 1
