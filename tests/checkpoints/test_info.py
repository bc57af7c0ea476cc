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

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monai_sa2va.checkpoints.info import ModelInfo, read_info, stored
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError
from monai_sa2va.networks.presets import get_preset


def test_what_is_written_is_read(tmp_path: Path) -> None:
    info = ModelInfo(get_preset("tiny"), window={"kind": "hu", "preset": "abdomen"}, axis="auto")
    torch.save({"model": {}, "info": info.state_dict()}, tmp_path / "model.pt")
    found = read_info(tmp_path / "model.pt")
    assert Sa2VAConfig.from_dict(found["config"]) == get_preset("tiny")
    assert (found["window"], found["axis"]) == ({"kind": "hu", "preset": "abdomen"}, "auto")
    assert stored(tmp_path / "model.pt", "axis", "axial") == "auto"


def test_safetensors_keep_it_in_their_metadata(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"info": json.dumps({"window": "lung"})})
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    assert read_info(tmp_path / "a.safetensors") == {"window": "lung"}
    assert read_info(tmp_path / "b.safetensors") == {}


def test_a_checkpoint_of_weights_alone_takes_the_default(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "bare.pt")
    assert stored(tmp_path / "bare.pt", "window", "auto") == "auto"
    assert stored(tmp_path / "nowhere.pt", "window", "auto") == "auto"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match=r"torn\.pt can't be read"):
        stored(tmp_path / "torn.pt", "window", "auto")
    torch.save({"info": [1]}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="holds a list under 'info'"):
        read_info(tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_info(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="there is no checkpoint ''; train one"):
        stored("", "window", "auto")
    with pytest.raises(CheckpointError, match="no checkpoint is named; give one as weights to fine-tune from it"):
        stored(None, "window", "auto")


def test_a_run_goes_on_only_as_it_began() -> None:
    begun = ModelInfo(get_preset("tiny"), window="auto", axis="auto").state_dict()
    ModelInfo(get_preset("tiny"), window="auto", axis="auto").load_state_dict(begun)
    with pytest.raises(CheckpointError, match="another window: go on"):
        ModelInfo(get_preset("tiny"), window="lung", axis="auto").load_state_dict(begun)
    other = replace(get_preset("tiny"), presence_threshold=0.5, answer_form="plain")
    with pytest.raises(CheckpointError, match="another config: go on"):
        ModelInfo(other, window="auto", axis="auto").load_state_dict(begun)


def test_presence_is_written_read_and_carried_on(tmp_path: Path) -> None:
    info = ModelInfo(get_preset("tiny"), window="auto")
    before = info.state_dict()
    info.set_presence(0.41, 1.5, -0.25)
    assert before["config"]["presence_threshold"] is None
    torch.save({"model": {}, "info": info.state_dict()}, tmp_path / "model.pt")
    config = Sa2VAConfig.from_dict(stored(tmp_path / "model.pt", "config", None))
    assert config == replace(get_preset("tiny"), presence_threshold=0.41, presence_scale=1.5, presence_bias=-0.25)
    # a run that is resumed begins without it
    resumed = ModelInfo(get_preset("tiny"), window="auto")
    resumed.load_state_dict(read_info(tmp_path / "model.pt"))
    assert resumed.state_dict() == info.state_dict()
    # one that was begun before there was any
    old = {key: value for key, value in before["config"].items() if not key.startswith("presence_")}
    resumed.load_state_dict({"config": old, "window": "auto"})
    assert resumed.state_dict() == info.state_dict()
