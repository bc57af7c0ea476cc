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

"""No two runs at the same images."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monai_sa2va.batch.lock import refuse_held, run_lock
from monai_sa2va.batch.shards import Shard
from monai_sa2va.errors import OutputError

_HOLD = """
import sys
from pathlib import Path
from monai_sa2va.batch.lock import run_lock
from monai_sa2va.batch.shards import Shard
with run_lock(Path(sys.argv[1]), Shard.parse(sys.argv[2]) if sys.argv[2] else None):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(folder: Path, shard: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder until its input ends."""
    command = [sys.executable, "-c", _HOLD, str(folder), shard]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def _try(folder: Path, shard: str | None = None) -> None:
    with run_lock(folder, None if shard is None else Shard.parse(shard)):
        pass


def test_the_second_run_is_told_of_the_first(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(OutputError) as refused:
                _try(tmp_path)
            told = str(refused.value)
            assert f"process {process.pid} on {socket.gethostname()}, since 20" in told
            assert "wait for it or end it" in told
            assert "\n" not in told
        with pytest.raises(OutputError, match=f"process {process.pid} "):
            refuse_held(tmp_path)
    _try(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_in_nobodys_way(tmp_path: Path) -> None:
    with _holder(tmp_path, "2/3") as process:
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    refuse_held(tmp_path, Shard(2, 3))
    _try(tmp_path, "2/3")
    assert list(tmp_path.iterdir()) == []


def test_shards_of_one_split_run_at_the_same_time(tmp_path: Path) -> None:
    with _holder(tmp_path, "1/2"):
        _try(tmp_path, "2/2")
        # these would do the same images
        for other in ("1/2", "2/3", None):
            with pytest.raises(OutputError, match="another run writes to the folder"):
                _try(tmp_path, other)
    with _holder(tmp_path), pytest.raises(OutputError, match="another run writes to the folder"):
        _try(tmp_path, "1/2")


def test_a_folder_that_is_not_there_is_held_by_nobody(tmp_path: Path) -> None:
    refuse_held(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").mkdir()
    with pytest.raises(OutputError, match="can't be locked: Is a directory; choose another"):
        _try(tmp_path)
