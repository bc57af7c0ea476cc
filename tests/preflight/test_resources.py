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

import shutil
from collections import namedtuple

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_sa2va.preflight.resources import (
    activation_bytes,
    check_checkpoint_folder,
    check_earlier_results,
    checkpoint_bytes,
    free_memory,
    training_bytes,
)
from monai_sa2va.preflight.settings import Settings


def settings_of(**content):
    return Settings(ConfigParser(content))


def lines(check, settings):
    return [f"{status} {text}" for status, text in check(settings)]


def test_activations_by_hand(micro_config):
    # 3 tiles of 4 patches and a class token, 32 wide, 1 layer; 3 tokens and 256 of text, 32 wide, 2 layers;
    # SAM2: 16 x 16 x 16, 8 x 8 x 32, 2 blocks of 4 x 4 x 64, 2 x 2 x 128
    values = 3 * 5 * 32 * 1 + (3 + 256) * 32 * 2 + 4096 + 2048 + 2 * 1024 + 512
    # 2 objects, 16 x 16 pixels, 32 / 8 channels, 16 maps of 2 bytes
    maps = 2 * 256 * 4 * 16 * 2
    assert activation_bytes(micro_config, objects=2, amp=True) == 34 * values + maps
    assert activation_bytes(micro_config, objects=2, amp=False) == 2 * (34 * values + maps)


def test_activations_of_the_largest_picture_by_hand(micro_qwens):
    # 1536 pixels make 96 patches, 32 wide, 2 layers, and 24 tokens; text and SAM2 as above
    values = 96 * 32 * 2 + (24 + 256) * 32 * 2 + 4096 + 2048 + 2 * 1024 + 512
    maps = 2 * 16 * 16 * 4 * 16 * 2
    for config in micro_qwens.values():
        assert activation_bytes(config, objects=2, amp=True) == 34 * values + maps


def test_frozen_weights_need_no_gradient_and_no_moments(micro_config):
    network = nn.Linear(9, 10)  # 100 parameters
    network.config = micro_config
    batch = 3 * activation_bytes(micro_config, 1, False)
    assert training_bytes(network, 3, 1, False) == 1600 + batch
    network.weight.requires_grad_(False)
    assert training_bytes(network, 3, 1, False) == 90 * 4 + 10 * 16 + batch


def test_free_memory_is_told():
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 2**20


def test_checkpoints_by_hand():
    network = nn.Linear(9, 10)  # 100 parameters
    assert checkpoint_bytes(network) == (1200, 400)
    network.weight.requires_grad_(False)
    assert checkpoint_bytes(network, halved=True) == (90 * 4 + 10 * 12, 200)


@pytest.mark.parametrize(
    ("free", "keep", "dtype", "earlier", "status"),
    [
        # the two that are kept and a third, model.pt twice: 3 * 1200 + 2 * 400
        *((4399, None, None, (), "fail"), (4400, None, None, (), "warn"), (8800, None, None, (), "pass")),
        *((2 * 1200 + 800 - 1, 1, None, (), "fail"), (2 * 1200 + 800, 1, None, (), "warn")),
        *((3999, None, "float16", (), "fail"), (4000, None, "float16", (), "warn")),
        # one of each is written beside those that are there
        *((1599, None, None, (1200, 1200, 400), "fail"), (1600, None, None, (1200, 1200, 400), "warn")),
    ],
)
def test_room_for_checkpoints(tmp_path, monkeypatch, free, keep, dtype, earlier, status):
    for number, size in enumerate(earlier):
        name = "model.pt" if size == 400 else f"resume_{number:08d}.pt"
        (tmp_path / name).write_bytes(bytes(size))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free))
    handler = {"_target_": "monai_sa2va.engines.resume.ResumableCheckpoint"} | ({} if keep is None else {"keep": keep})
    settings = settings_of(
        ckpt_dir=str(tmp_path), network=nn.Linear(9, 10), weights_dtype=dtype, train={"handlers": [{}, handler]}
    )
    (line,) = lines(check_checkpoint_folder, settings)
    assert line.startswith(f"{status} ")


def test_results_of_an_earlier_run(tmp_path):
    fresh, going_on = ({"ckpt_dir": str(tmp_path), "resume": resume} for resume in (False, True))

    def told(content):
        (line,) = lines(check_earlier_results, settings_of(**content))
        return line

    anew = f"warn there is no resume_*.pt in ckpt_dir {tmp_path}: training starts anew"
    assert told(fresh) == f"pass nothing in {tmp_path} is replaced"
    assert told(going_on) == f"{anew}; name the run's own ckpt_dir"
    (tmp_path / "model.pt").write_text("")
    assert told(fresh) == (
        f"warn ckpt_dir {tmp_path} holds model.pt, which this run replaces; name another ckpt_dir to keep them"
    )
    assert told(going_on) == f"{anew}, and replaces model.pt; name the run's own ckpt_dir"
    (tmp_path / "resume_00000007.pt").write_text("")
    assert told(fresh) == (
        f"warn ckpt_dir {tmp_path} holds model.pt, resume_00000007.pt, which this run replaces; "
        "set resume to go on, or name another ckpt_dir to keep them"
    )
    assert told(going_on) == f"pass training goes on from the 1 resume_*.pt in {tmp_path}"
    assert lines(check_earlier_results, settings_of(window="auto")) == []
