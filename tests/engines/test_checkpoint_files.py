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

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_sa2va.engines.checkpoint_files import checkpoint_files, in_order, read_checkpoint, read_run


def _write(folder: Path, steps: int, content: dict[str, Any]) -> Path:
    path = folder / f"resume_{steps:08d}.pt"
    torch.save({"model": torch.ones(20_000), **content}, path)
    return path


def test_only_checkpoints_count(tmp_path: Path) -> None:
    assert checkpoint_files(tmp_path / "missing") == {}
    for name in ("model.pt", "resume_1.pt", ".resume_00000001.pt.tmp", "resume_00000007.pt", "resume_123456789.pt"):
        (tmp_path / name).write_bytes(b"")
    assert {path.name: steps for path, steps in checkpoint_files(tmp_path).items()} == {
        "resume_00000007.pt": 7,
        "resume_123456789.pt": 123_456_789,
    }


def test_the_newest_is_the_furthest_of_the_run_that_was_begun_last(tmp_path: Path) -> None:
    for steps, content in ((9, {"run": 100}), (3, {"run": 200}), (2, {"run": 200}), (12, {})):
        _write(tmp_path, steps, content)
    (tmp_path / "resume_00000020.pt").write_bytes(b"")
    assert [(file.run, file.steps) for file in in_order(tmp_path)] == [(-1, 20), (0, 12), (100, 9), (200, 2), (200, 3)]


def test_the_run_is_read_without_the_tensors(tmp_path: Path) -> None:
    path = _write(tmp_path, 1, {"run": 7})
    content = bytearray(path.read_bytes())
    # a hole in the midst of the tensor, which is seen only where all is read
    content[40_000:44_096] = bytes(4096)
    path.write_bytes(content)
    assert read_run(path) == 7
    assert read_checkpoint(path) is None


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint at all"])
def test_what_is_no_checkpoint_can_not_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "resume_00000001.pt"
    path.write_bytes(content)
    assert read_run(path) == -1
    assert read_checkpoint(path) is None


def test_other_content_can_not_be_read(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    assert read_run(tmp_path / "list.pt") == -1
    assert read_checkpoint(tmp_path / "list.pt") is None
    assert read_run(_write(tmp_path, 1, {"run": "seven"})) == -1
