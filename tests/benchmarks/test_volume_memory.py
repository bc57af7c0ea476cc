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

"""Memory of volumes: that what grows with them is seen, and that nothing does."""

from __future__ import annotations

import importlib
import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def memory(_benchmarks_on_path: None) -> Any:
    return importlib.import_module("volume_memory")


def test_a_volume_is_as_large_as_asked_for(memory: Any) -> None:
    volume = memory.make_volume(3, 32)
    assert (volume.shape, volume.dtype, volume.nbytes) == ((1, 32, 32, 3), torch.int16, 3 * 32 * 32 * 2)
    assert volume[0, 16, 16].min() >= 600 > 300 > volume[0, 0, 0].max()


def test_one_measurement(memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--measure", "--size", "32", "--slices", "6", "--volume", "propagate"]
    assert memory.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["host"] > 1e8
    assert found["device"] == 0
    assert found["seconds"] > 0


@pytest.mark.parametrize(("most", "expected"), [(104.0, 0), (106.0, 1)])
def test_more_than_allowed_is_told(
    memory: Any, monkeypatch: pytest.MonkeyPatch, most: float, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str], **_: Any) -> Any:
        host = 100e6 if "100" in words else most * 1e6
        return SimpleNamespace(stdout=json.dumps({"host": host, "device": 0, "seconds": 2.0}))

    monkeypatch.setattr(subprocess, "run", run)
    assert memory.main(["--volume", "slices"]) == expected
    table = capsys.readouterr().out
    assert f"{most / 100:.3f}" in table
    assert "500.000" in table


@pytest.mark.slow
@pytest.mark.parametrize("volume", ["slices", "propagate"])
def test_a_thousand_slices_need_what_a_hundred_do(memory: Any, volume: str) -> None:
    assert memory.main(["--volume", volume]) == 0
