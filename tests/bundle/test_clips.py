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

"""``clips.json`` laid over ``train.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.phantoms import write_phantoms
from monai_sa2va.errors import ConfigError
from monai_sa2va.preflight.keys import refuse_unknown


@pytest.fixture(scope="module")
def configs(repository: Path) -> Path:
    return repository / "bundle" / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "images", 6, 0, 32, splits={"training": 1})
    for kind in ("volume", "cine"):
        write_phantoms(folder / kind, 2, 0, 32, splits={"training": 1}, kind=kind, slices=8)
    return folder


def parse(configs: Path, data: Path, config: Sa2VAConfig, **settings: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(configs / "train.json"), str(configs / "clips.json")])
    parser.update(
        {
            "dataset_dir": str(data / "images"),
            "clip_datalists": [str(data / kind / "datalist.json") for kind in ("volume", "cine")],
            "network_def#config": config.to_dict(),
            "device": "$torch.device('cpu')",
            "num_workers": 0,
            "batch_size": 2,
            "clip_share": 0.5,
            "mask_size": 16,
            "main_process": False,
            **settings,
        }
    )
    return parser


def test_overlay_adds_and_changes_the_loader_alone(configs: Path):
    base, overlay = (json.loads((configs / f"{name}.json").read_text()) for name in ("train", "clips"))
    assert not set(overlay) & set(base)
    # what clips take over from single images
    shared = [
        base["train"]["random_transforms"][int(name[-1])]
        for name in overlay["train#clip_transforms"]
        if isinstance(name, str) and name.startswith("@train#random_transforms#")
    ]
    assert [transform["_target_"].rpartition(".")[2] for transform in shared] == ["LabelToMasksd"]
    # they are asked about as images are, for at most so many structures
    (asked,) = (each for each in overlay["train#clip_transforms"] if "RandAskd" in str(each))
    (of_images,) = (each for each in base["train"]["random_transforms"] if "RandAskd" in str(each))
    assert asked == {**of_images, "max_objects": "@clip_max_objects"}
    assert {key for key in overlay if key.startswith("train#dataloader#")} == {
        f"train#dataloader#{key}" for key in ("dataset", "sampler", "shuffle")
    }


def test_one_run_sees_images_and_clips_and_goes_on_in_mid_epoch(configs: Path, data: Path, micro_config: Sa2VAConfig):
    parser = parse(configs, data, micro_config, clip_length=5, absent_prob=0.5, clip_max_objects=1)
    refuse_unknown(parser, "train")
    loader, network = parser.get_parsed_content("train#dataloader"), parser.get_parsed_content("network")
    # 6 images are 3 batches, and as many are of clips
    assert len(loader) == parser.get_parsed_content("steps_per_epoch") * 2 == 6
    loader.set_epoch(0)
    found = list(loader)
    assert sorted("prompt_frame" in batch for batch in found) == [False] * 3 + [True] * 3
    clips = [batch for batch in found if "prompt_frame" in batch]
    for batch in clips:
        assert batch["frames_per_batch"] == [5, 5]
        assert batch["g_pixel_values"].shape[0] == batch["gt_masks"].shape[0] == 10
        assert batch["pixel_values"].shape[0] == len(batch["prompt_frame"]) == 2
        for number, frame in enumerate(batch["prompt_frame"]):
            masks = batch["gt_masks"][5 * number : 5 * number + 5].flatten(2).any(2)
            # what is shown at all is shown in the frame that the language model sees
            assert bool((masks[frame] == masks.any(0)).all())
    assert any(batch["gt_masks"].any() for batch in clips)
    # none where a chat says that nothing is there
    assert max(batch["gt_masks"].shape[1] for batch in clips) == 1
    for batch in (clips[0], next(batch for batch in found if "prompt_frame" not in batch)):
        network(batch)["loss"].backward()
    again = parse(configs, data, micro_config, clip_length=5, absent_prob=0.5, clip_max_objects=1).get_parsed_content(
        "train#dataloader"
    )
    again.set_epoch(0, 4)
    rest = list(again)
    assert len(rest) == 2
    for one, other in zip(rest, found[4:], strict=True):
        assert one.keys() == other.keys()
        for key in ("pixel_values", "g_pixel_values", "gt_masks", "input_ids", "labels"):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
        assert one.get("prompt_frame") == other.get("prompt_frame")


def test_volumes_are_read_once(configs: Path, data: Path, micro_config: Sa2VAConfig, tmp_path: Path):
    write_phantoms(tmp_path / "volume", 1, 0, 32, splits={"training": 1}, kind="volume", slices=8)
    own = [str(tmp_path / "volume" / "datalist.json")]
    clips = parse(configs, data, micro_config, clip_datalists=own).get_parsed_content("train#clips")
    for file in tmp_path.rglob("*.nii.gz"):
        file.unlink()  # whatever is read again fails
    assert [clips[0]["frames_per_batch"] for _ in range(3)] == [4, 4, 4]


def test_without_data_volumes_and_cines_are_made(configs: Path, data: Path, micro_config: Sa2VAConfig, tmp_path: Path):
    made = {"volume_dir": str(tmp_path / "v"), "cine_dir": str(tmp_path / "c")}
    parser = parse(configs, data, micro_config, clip_datalists=None, clip_count=2, clip_slices=8, **made)
    assert len(parser.get_parsed_content("train#clips")) == 4
    assert [entry["image"].endswith(".nii.gz") for entry in parser.get_parsed_content("train#clips").data] == [True] * 4


def test_with_several_gpus_it_has_to_stand_last(configs: Path):
    def read(*names: str) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(configs / f"{name}.json") for name in names])
        return parser

    parser = read("train", "multi_gpu_train", "clips")
    refuse_unknown(parser, "train")
    assert parser["train"]["dataloader"]["sampler"] == "@train#sampler"
    assert parser["train"]["sampler"]["_target_"].endswith("MixedOrder")
    # the other way round the clips would be left out, but not quietly
    with pytest.raises(ConfigError, match="unknown key clip_share"):
        refuse_unknown(read("train", "clips", "multi_gpu_train"), "train")
