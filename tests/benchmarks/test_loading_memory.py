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

"""Host memory while a checkpoint loads: what the script makes, measures and says."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from monai_sa2va.checkpoints.safetensors_file import TensorEntry
from monai_sa2va.checkpoints.source import open_checkpoint
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA


@pytest.fixture(scope="module")
def loading(_benchmarks_on_path: None) -> Any:
    return importlib.import_module("loading_memory")


def _entries(sizes: list[int]) -> list[TensorEntry]:
    return [TensorEntry(str(number), (size,), torch.uint8, lambda: torch.zeros(0)) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([4, 4, 4, 4], 2, [[4, 4], [4, 4]]),
        ([1, 1, 1, 9], 2, [[1, 1, 1], [9]]),
        # files of 9 bytes would be two
        ([9, 1, 1, 1], 3, [[9], [1], [1, 1]]),
        ([5, 5, 5], 3, [[5], [5], [5]]),
        ([2, 3], 1, [[2, 3]]),
    ],
)
def test_as_many_files_as_asked_for(loading: Any, sizes: list[int], count: int, expected: list[list[int]]) -> None:
    files = loading.exact_shards(_entries(sizes), count)
    assert [[entry.size for entry in file] for file in files] == expected


def test_more_files_than_tensors(loading: Any) -> None:
    with pytest.raises(ValueError, match="2 tensors can't be in 3 files; give 1 to 2"):
        loading.exact_shards(_entries([1, 1]), 3)


def test_the_size_comes_of_the_layers(loading: Any) -> None:
    small = loading.of_size(get_preset("tiny"), 0, torch.float32)
    assert small.text.num_hidden_layers == 1
    config = loading.of_size(get_preset("tiny"), 64_000_000, torch.float32)
    found = sum(value.numel() * 4 for value in Sa2VA(config).state_dict().values())
    # a layer: 192 x (192 + 2 x 64 + 192) of attention, 3 x 192 x 512 beside it, 320 biases and 2 x 192 of norms
    layer = 4 * (192 * (192 + 2 * 64 + 192) + 3 * 192 * 512 + 320 + 2 * 192)
    assert abs(found - 64_000_000) <= layer / 2


def test_the_checkpoint_is_whole(loading: Any, micro_config: Sa2VAConfig, tmp_path: Path) -> None:
    total, largest = loading.make_checkpoint(tmp_path, micro_config, 8, torch.bfloat16)
    files = sorted(tmp_path.glob("model-*-of-00008.safetensors"))
    assert len(files) == 8
    sizes = [sum(value.nbytes for value in load_file(file).values()) for file in files]
    assert (sum(sizes), max(sizes)) == (total, largest)
    network = Sa2VA(open_checkpoint(tmp_path).config)
    assert total == sum(value.numel() * 2 for value in network.state_dict().values())


@pytest.mark.parametrize(("over", "code"), [(0, 0), (1, 1)])
def test_exit_code(
    loading: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], over: int, code: int
) -> None:
    peak = 5_000_000 + 1_000_000 + loading.ALLOWANCE + over
    measured = json.dumps({"peak": peak, "end": 5e6, "seconds": 0.5})
    monkeypatch.setattr(loading, "make_checkpoint", lambda *_: (5_000_000, 1_000_000))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=measured))
    assert loading.main(["--preset", "tiny", "--size", "0.005"]) == code
    assert "5 MB in 8 files of at most 1 MB; loaded in 0.5 s; peak 306 MB, at the end 5 MB, limit 306 MB" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_64_megabytes(
    loading: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    assert loading.main(["--preset", "tiny", "--size", "0.064", "--dtype", "float32"]) == 0
    told = capsys.readouterr().out
    pattern = r"(\d+) MB in 8 files of at most (\d+) MB.* peak (\d+) MB.* end (\d+) MB"
    total, shard, peak, end = (int(number) for number in re.findall(pattern, told)[0])
    assert abs(total - 64) <= 1
    # what was loaded is there, and a second copy of it never was
    assert total <= end <= peak <= total + shard + 50
