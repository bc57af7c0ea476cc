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

import os
import signal
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("writer failed\nsomewhere"), "writer failed"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_what_fails_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint({"n": 1}, path)

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError) as e:
        save_checkpoint({"n": 2}, path)
    assert str(e.value) == f"[OUTPUT] the checkpoint 'model.pt' can't be written: {reason}; see to its folder"
    assert _content(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def _in_another_process(do: Callable[[], Any]) -> int:
    """Exit code of a copy of this process that does something, minus the signal's number where one ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX's")
def test_a_disk_that_is_full_says_so(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "model.pt"
    save_checkpoint({"n": 1}, path)

    def save_on_a_full_disk() -> None:
        # as on a full disk, some bytes are written, then none; torch's own error hides why
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        with pytest.raises(
            OutputError, match=r"^\[OUTPUT\] the checkpoint 'model.pt' can't be written: File too large; "
        ):
            save_checkpoint({"w": torch.ones(100_000)}, path)

    assert _in_another_process(save_on_a_full_disk) == 0
    assert _content(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize(
    ("last", "content"),
    [("torch.save", 1), ("os.fsync", 1), ("os.replace", 1), ("monai_sa2va.checkpoints.save._sync_folder", 2)],
)
def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, content: int
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint({"n": 1}, path)

    def kill(*_: Any) -> None:
        if last == "torch.save":
            temporary_path(path).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    def save_and_be_killed() -> None:
        monkeypatch.setattr(last, kill)
        save_checkpoint({"n": 2}, path)

    assert _in_another_process(save_and_be_killed) == -signal.SIGKILL
    assert _content(path) == {"n": content}
    # what is left over stands in nobody's way
    save_checkpoint({"n": 3}, path)
    assert _content(path) == {"n": 3}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(OutputError, match=r"'model.pt' can't be written"):
        save_checkpoint({"n": 1}, tmp_path / "models" / "model.pt")


def test_nobody_takes_the_temporary_file_for_a_checkpoint() -> None:
    assert temporary_path(Path("a/resume_00000004.pt")) == Path("a/.resume_00000004.pt.tmp")
