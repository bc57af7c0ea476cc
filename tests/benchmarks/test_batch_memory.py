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

"""Memory of batches: that what grows with them is seen, and that nothing does."""

from __future__ import annotations

import importlib
import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")


@pytest.fixture(scope="module")
def memory(_benchmarks_on_path: None) -> Any:
    return importlib.import_module("batch_memory")


@pytest.mark.parametrize(("last", "last_files", "expected"), [(104, 9, 0), (106, 9, 1), (100, 10, 1)])
def test_more_than_allowed_is_told(
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: int,
    last_files: int,
    expected: int,
) -> None:
    def run(words: list[str], **_: Any) -> Any:
        many = words[-1] == "200"
        told = {"first": 100e6, "last": last * 1e6 if many else 100e6, "first_files": 9}
        return SimpleNamespace(stdout=json.dumps({**told, "last_files": last_files if many else 9}))

    monkeypatch.setattr(subprocess, "run", run)
    assert memory.main([]) == expected
    assert f"{last / 100:.3f}" in capsys.readouterr().out


@pytest.mark.slow
def test_60_series_need_what_20_do(memory: Any) -> None:
    assert memory.main(["--series", "20", "60"]) == 0
