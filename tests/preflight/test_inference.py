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

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.errors import CheckpointError, ConfigError, PromptError
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.preflight.inference import (
    check_batch_folder,
    check_checkpoint,
    check_images,
    check_preprocessing,
    check_results_folder,
    check_sentences,
    check_tokenizer,
)
from monai_sa2va.preflight.settings import Settings

_WEIGHT, _BIAS = "text_hidden_fcs.0.weight", "text_hidden_fcs.0.bias"


def lines(check, notes=None, **content):
    settings = Settings(ConfigParser(content), notes={} if notes is None else notes)
    return [f"{status} {text}" for status, text in check(settings)]


@pytest.fixture
def save(micro_config, tmp_path):
    """Write a checkpoint, changed, and give what its check needs."""

    def save(change=lambda content: None, suffix=".pt"):
        content = {"model": Sa2VA(micro_config, seed=0).state_dict(), "info": ModelInfo(micro_config).state_dict()}
        change(content)
        torch.save(content, tmp_path / "m.pt")
        return {"checkpoint": str(tmp_path / "m.pt"), "network_def": Sa2VA(micro_config, seed=1)}

    return save


def test_a_whole_checkpoint_passes(save):
    content = save()
    count = sum(p.numel() for p in content["network_def"].parameters())
    assert lines(check_checkpoint, **content) == [f"pass m.pt is complete, {count:,} parameters"]
    content = save(lambda content: content.pop("info"))
    assert lines(check_checkpoint, **content) == [
        "warn m.pt doesn't say its geometry and preprocessing; its weights fit this network"
    ]


def test_a_checkpoint_of_an_earlier_version_lacks_newer_settings(save):
    def age(content):
        for key in ("min_pixels", "max_pixels", "origin"):
            content["info"]["config"].pop(key)
        content["info"]["config"]["text"].pop("head_dim")

    (line,) = lines(check_checkpoint, **save(age))
    assert line.startswith("pass m.pt is complete")


def _set(key, change):
    def set_it(content):
        content["model"][key] = change(content["model"][key])

    return set_it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].pop(_BIAS), f"m.pt doesn't fit this network: 1 keys missing ({_BIAS})"),
        (lambda content: content["model"].update(more=torch.ones(1)), "1 keys unexpected (more)"),
        (_set(_BIAS, lambda old: old[:-1]), "1 keys of another shape"),
        (
            _set(_BIAS, lambda old: old / 0),
            f"m.pt holds NaN or infinite weights in {_BIAS}; take an earlier checkpoint",
        ),
        (_set(_WEIGHT, torch.zeros_like), f"m.pt holds nothing but 0 in {_WEIGHT}: a conversion left it out"),
        (_set(_WEIGHT, lambda old: old.to(torch.int8)), f"m.pt holds {_WEIGHT} as int8, not as decimals; convert it"),
        (
            lambda content: content["info"]["config"].update(max_tiles=5),
            "m.pt was trained with another max_tiles than network_def has; leave network_def as it is",
        ),
    ],
)
def test_what_is_no_good_checkpoint_is_refused(save, change, message):
    with pytest.raises(CheckpointError) as caught:
        lines(check_checkpoint, **save(change))
    assert message in str(caught.value)


def test_biases_may_be_0_and_halves_are_decimals(save):
    content = save(_set(_BIAS, torch.zeros_like))
    assert lines(check_checkpoint, **content)[0].startswith("pass")
    assert lines(check_checkpoint, **save(_set(_WEIGHT, torch.Tensor.half)))[0].startswith("pass")


def test_the_tokenizer_has_seg(micro_config):
    (line,) = lines(check_tokenizer, network_def=Sa2VA(micro_config, seed=0))
    assert line.startswith("pass 267 tokens, [SEG] is number 2")


@pytest.mark.parametrize(
    ("window", "axis", "info", "line"),
    [
        ("lung", "auto", {"window": "lung", "axis": "auto"}, "pass window 'lung', axis 'auto', as in training"),
        ("lung", "auto", {}, "pass window 'lung', axis 'auto', which the checkpoint doesn't say of training"),
        ({"kind": "auto", "nonfinite": "lower"}, "auto", {"window": "auto"}, "pass "),
        ("lung", "auto", {"window": "bone"}, "fail window is 'lung', training had 'bone'; leave out window to keep it"),
        ("lung", "axial", {"axis": "auto"}, "fail axis is 'axial', training had 'auto'; leave out axis to keep it"),
    ],
)
def test_preprocessing_has_to_be_the_trainings(window, axis, info, line):
    (found,) = lines(check_preprocessing, {"info": info}, window=window, axis=axis)
    assert found.startswith(line)


def test_sentences(micro_config):
    assert lines(check_sentences, prompts=["vessels", "disc"]) == ["pass 2 for each image that brings none of its own"]
    with pytest.raises(PromptError):
        lines(check_sentences, prompts=["vessels", " "])


def test_images_and_what_is_asked_of_them(tmp_path):
    entries = []
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / f"{name}.png")
        entries.append({"image": str(tmp_path / f"{name}.png"), "prompts": ["vessels", "disc"]})
    del entries[0]["prompts"]
    notes = {"prompts": ["all"]}
    assert lines(check_images, notes, images=entries) == ["pass 3 images open"]
    # two bytes a pixel, and one, two, two prompts
    assert notes["output_bytes"] == 2 * 48 * 5
    (tmp_path / "b.png").unlink()
    entries[2]["prompts"] = [""]
    (line,) = lines(check_images, notes, images=entries)
    assert line.startswith("warn 2 of 3 images can't be segmented: [DATA] b.png can't be read: ")
    assert "[PROMPT] the prompt is empty" in line
    assert lines(check_images, notes, images=entries[1:])[0].startswith("fail 2 of 2")


def test_what_becomes_of_an_earlier_batch(tmp_path):
    asked = {"formats": None, "shard": None, "output_dir": str(tmp_path)}
    assert lines(check_batch_folder, **asked) == [f"pass {tmp_path} holds no tables of an earlier run"]
    (tmp_path / "summary.1-of-2.csv").write_text("")
    assert lines(check_batch_folder, **asked) == [
        f"pass {tmp_path} holds results of an earlier run; what it has done is not done again"
    ]
    assert lines(check_batch_folder, **asked, overwrite=True) == [
        f"warn {tmp_path} holds results of an earlier run, which are replaced"
    ]
    with pytest.raises(ConfigError, match="bmp"):
        lines(check_batch_folder, **{**asked, "formats": ["bmp"]})


@pytest.mark.parametrize("name", ["cases.csv", "metrics.json"])
def test_earlier_results(tmp_path, name):
    assert lines(check_results_folder, output_dir=str(tmp_path)) == []
    (tmp_path / name).write_text("")
    (line,) = lines(check_results_folder, output_dir=str(tmp_path), overwrite=False)
    assert line == f"fail {tmp_path} holds results already; set overwrite, or choose another output_dir"
    (line,) = lines(check_results_folder, output_dir=str(tmp_path), overwrite=True)
    assert line == f"warn {tmp_path} holds results of an earlier run, which are replaced"
