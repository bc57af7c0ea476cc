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

"""The network of a bundle: built, loaded, and refused where it isn't one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_sa2va import Segmenter as ExportedSegmenter
from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.errors import CheckpointError, ConfigError
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

PROMPTS = ["Segment the vessels.", "optic disc"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Sa2VA("tiny", seed=0), device="cpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text("{}")
    inference = {
        "imports": ["$from monai_sa2va.checkpoints.info import stored"],
        "bundle_root": ".",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "window": "$stored(@checkpoint, 'window', 'auto')",
        "axis": "$stored(@checkpoint, 'axis', 'auto')",
        "preset": "tiny",
        "network_def": {
            "_target_": "monai_sa2va.networks.sa2va.Sa2VA",
            "config": "$stored(@checkpoint, 'config', @preset)",
            "seed": 1,
        },
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    return folder


def test_a_bundle_is_built_and_loaded(segmenter: Segmenter, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    expected = segmenter.segment(picture, PROMPTS)
    torch.save({"model": segmenter.network.state_dict()}, bundle / "models" / "model.pt")
    assert ExportedSegmenter is Segmenter
    monkeypatch.chdir(bundle.parent)
    for built in (
        Segmenter.from_bundle(bundle, device="cpu"),
        Segmenter.from_bundle(device="cpu"),  # ./bundle
        Segmenter.from_bundle(bundle, checkpoint="bundle/models/model.pt", device="cpu"),
    ):
        found = built.segment(picture, PROMPTS)
        np.testing.assert_array_equal(found.masks, expected.masks)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_checkpoint_brings_its_geometry_window_and_axis(bundle: Path) -> None:
    config = replace(get_preset("tiny"), text=replace(get_preset("tiny").text, num_hidden_layers=1))
    network = Sa2VA(config, seed=0)
    info = ModelInfo(config, window="abdomen", axis="sagittal")
    torch.save({"model": network.state_dict(), "info": info.state_dict()}, bundle / "models" / "model.pt")
    built = Segmenter.from_bundle(bundle, device="cpu")
    assert built.network.config == config
    assert built.stack.axis == "sagittal"
    # the abdomen window is -160 to 240 HU
    assert built.window(torch.tensor([[[-160.0, 40.0, 240.0]]])).tolist() == [[[0.0, 127.5, 255.0]]]
    other = Segmenter.from_bundle(bundle, device="cpu", window="dtype", axis="axial")
    assert other.stack.axis == "axial"
    assert other.window(torch.tensor([[[7, 9]]], dtype=torch.uint8)).tolist() == [[[7.0, 9.0]]]


def test_a_bundle_that_cant_be_used(segmenter: Segmenter, bundle: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint '.*model\.pt'"):
        Segmenter.from_bundle(bundle, device="cpu")
    with pytest.raises(ConfigError, match=r"inference\.json has no id 'presett'"):
        Segmenter.from_bundle(bundle, device="cpu", presett="small")
    with pytest.raises(ConfigError, match="builds a Linear"):
        Segmenter.from_bundle(
            bundle, network_def={"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, device="cpu"
        )
    torch.save({"model": segmenter.network.state_dict()}, bundle / "models" / "model.pt")
    other = get_preset("tiny").to_dict()
    other["text"]["num_hidden_layers"] = 5
    with pytest.raises(
        CheckpointError, match=r"model\.pt doesn't fit this network: \d+ keys missing \(mllm\."
    ) as error:
        Segmenter.from_bundle(bundle, preset=other, device="cpu")
    assert "trained with this bundle's network_def" in str(error.value)
    (bundle / "configs" / "inference.json").unlink()
    with pytest.raises(ConfigError, match=r"inference\.json' is missing"):
        Segmenter.from_bundle(bundle)


def test_weights_that_are_none_are_one_line_and_not_wrapped_by_monai(bundle: Path) -> None:
    (bundle / "models" / "model.pt").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="can't be read as a checkpoint: it is damaged, or none"):
        Segmenter.from_bundle(bundle, device="cpu")
