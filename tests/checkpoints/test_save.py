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

from monai_sa2va.checkpoints.save import save_checkpoint, temporary_path
from monai_sa2va.errors import OutputError


def _content(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_what_is_written_can_be_read_without_its_code(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.pt"
    save_checkpoint({"model": {"w": torch.ones(2)}, "n": 3}, path)
    assert _content(path)["n"] == 3
    assert _content(path)["model"]["w"].tolist() == [1, 1]
    save_checkpoint({"n": 4}, str(path))
    assert _content(path) == {"n": 4}
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("writer failed\nsomewhere")])
def test_what_fails_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint({"n": 1}, path)

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        OutputError, match=r"'model.pt' can't be written: (No space|writer failed); see to|No space"
    ) as e:
        save_checkpoint({"n": 2}, path)
    assert "\n" not in str(e.value)
    assert _content(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(OutputError, match=r"'model.pt' can't be written"):
        save_checkpoint({"n": 1}, tmp_path / "models" / "model.pt")


def test_nobody_takes_the_temporary_file_for_a_checkpoint() -> None:
    assert temporary_path(Path("a/resume_00000004.pt")) == Path("a/.resume_00000004.pt.tmp")
