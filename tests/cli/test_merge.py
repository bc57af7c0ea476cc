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

"""``monai-sa2va merge``, and ``segment`` with an adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.checkpoints.load import read_weights
from monai_sa2va.checkpoints.save import save_checkpoint
from monai_sa2va.cli.main import app
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.engines.fine_tuning import FineTuning
from monai_sa2va.networks.lora import LoRA
from monai_sa2va.networks.parts import PARTS, freeze
from monai_sa2va.networks.sa2va import Sa2VA

pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture
def folder(tmp_path: Path, micro_config: Sa2VAConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, an adapter whose parameters were moved, and a picture."""
    monkeypatch.chdir(tmp_path)
    network = Sa2VA(micro_config, seed=0)
    info = ModelInfo(micro_config, window="auto", axis="auto")
    save_checkpoint({"model": network.state_dict(), "info": info.state_dict()}, "base.pt")
    frozen = [part for part in PARTS if part != "text_hidden_fcs"]
    tuning = FineTuning(freeze(network, frozen), LoRA(rank=2, alpha=4, modules_to_save=[]))
    with torch.no_grad():
        for parameter in tuning.state_dict().values():
            parameter.add_(0.3)
    info = ModelInfo(micro_config, window="auto", axis="auto", **tuning.about)
    save_checkpoint({"model": tuning.state_dict(), "info": info.state_dict()}, "adapter.safetensors")
    save_checkpoint({"model": Sa2VA(micro_config, seed=1).state_dict()}, "other.pt")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save("eye.png")
    return tmp_path


def _run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_a_whole_checkpoint(folder: Path) -> None:
    told = _run("merge", "adapter.safetensors", "--base", "base.pt", "-o", "new/merged.safetensors")
    # 14 linear layers, two layers of the projector
    assert told == (
        f"wrote new/merged.safetensors: {len(read_weights('base.pt')) - 18} tensors as in base.pt, "
        "14 with LoRA of adapter.safetensors added, 4 of adapter.safetensors\n"
    )
    merged = read_weights("new/merged.safetensors")
    assert {key: value.shape for key, value in merged.items()} == {
        key: value.shape for key, value in read_weights("base.pt").items()
    }
    _run("merge", "adapter.safetensors", "--base", "base.pt", "-o", "half.pt", "--dtype", "float16")
    assert {value.dtype for value in read_weights("half.pt").values()} == {torch.float16}


def test_a_peft_folder(folder: Path) -> None:
    told = _run("merge", "adapter.safetensors", "--base", "base.pt", "-o", "peft", "--to", "peft")
    assert told == "wrote peft: 28 tensors for peft, 4 of the other parts\n"
    assert sorted(path.name for path in (folder / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "sa2va_parts.safetensors",
    ]


def test_another_base_is_refused_in_one_line(folder: Path) -> None:
    told = _run("merge", "adapter.safetensors", "--base", "other.pt", "-o", "x.safetensors", code=2)
    assert told.startswith("error: [CHECKPOINT] adapter.safetensors was trained on another base (hash ")
    assert told.count("\n") == 1
    assert not (folder / "x.safetensors").exists()
    told = _run(
        "merge", "adapter.safetensors", "--base", "base.pt", "-o", "x", "--to", "peft", "--dtype", "float32", code=2
    )
    assert "--dtype is for --to whole" in told


def test_segmenting_with_an_adapter_is_segmenting_with_what_was_merged(folder: Path, repository: Path) -> None:
    bundle = ("--bundle", str(repository / "bundle"), "-p", "Segment the vessels.", "--format", "png")
    _run("merge", "adapter.safetensors", "--base", "base.pt", "-o", "merged.safetensors")
    _run("segment", "eye.png", "-o", "a", "--checkpoint", "base.pt", "--adapter", "adapter.safetensors", *bundle)
    _run("segment", "eye.png", "-o", "b", "--checkpoint", "merged.safetensors", *bundle)
    _run("segment", "eye.png", "-o", "c", "--checkpoint", "base.pt", *bundle)
    masks = [np.array(Image.open(folder / name / "eye" / "vessels.png")) for name in "abc"]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
    told = _run("segment", "eye.png", "-o", "d", "--checkpoint", "adapter.safetensors", *bundle, code=2)
    assert "is an adapter, which holds only what was trained; give it as adapter, and its base here" in told
