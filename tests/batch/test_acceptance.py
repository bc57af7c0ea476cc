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

"""Batches of many series from the outside: killed, run again, in shards, and by Ray's workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

from trees import BROKEN, results, tree

Rows = Callable[[Path], list[dict[str, str]]]


def _command(bundle: Path, data: Path, out: Path, *words: str) -> list[str]:
    words = ("-p", "Segment the liver.", "-o", str(out), "--bundle", str(bundle), "--device", "cpu", *words)
    return [sys.executable, "-m", "monai_sa2va", "segment", str(data), *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _run(bundle: Path, data: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = _command(bundle, data, out, *words)
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False, timeout=600)


def _reports(out: Path) -> list[Path]:
    """Of results that are whole."""
    # not rglob, which stumbles over a folder that takes its place meanwhile
    places = [Path(place) for place, _, files in os.walk(out) if "report.json" in files]
    return [place / "report.json" for place in places if place.name[0] != "."]


def _killed(number: int, bundle: Path, data: Path, out: Path, after: int, *words: str) -> int:
    """Send a signal when so many reports are there; the exit code."""
    # a shell's background job, such as this test may be part of, ignores Ctrl-C, and what it starts inherits that
    heard = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(_command(bundle, data, out, *words), stderr=subprocess.DEVNULL, env=_environment())
    finally:
        signal.signal(signal.SIGINT, heard)
    with process:
        deadline = time.monotonic() + 300
        while len(_reports(out)) < after:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
    return process.returncode


def _computed(out: Path) -> list[str]:
    computed: list[str] = json.loads((out / "run.json").read_text())["computed"]
    return computed


@pytest.mark.slow
def test_200_series_killed_in_the_middle_and_run_again(bundle: Path, tmp_path: Path, rows: Rows) -> None:
    assert len(BROKEN) == 20
    data = tree(tmp_path / "data", 180)
    whole = _run(bundle, data, tmp_path / "whole")
    assert whole.returncode == 1, whole.stderr[-2000:]
    assert "Traceback" not in whole.stderr
    table = rows(tmp_path / "whole" / "summary.csv")
    assert len(table) == 200
    assert [row["status"] for row in table].count("done") == 180
    assert all(row["code"] and row["reason"] for row in table if row["status"] != "done")
    assert len(_computed(tmp_path / "whole")) == 180

    out = tmp_path / "killed"
    assert _killed(signal.SIGKILL, bundle, data, out, 80) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in _reports(out)}
    assert 80 <= len(before) < 180
    again = _run(bundle, data, out)
    assert again.returncode == 1
    assert f"segmented 180 of 200 images, {len(before)} of them by an earlier run" in again.stdout
    # nothing twice: what was whole when the kill came was left alone
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(_computed(out)) == 180 - len(before)
    assert results(out) == results(tmp_path / "whole")
    for name in ("summary.csv", "objects.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list(out.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_orderly_end(bundle: Path, tmp_path: Path, rows: Rows, number: int, code: int) -> None:
    data = tree(tmp_path / "data", 30, broken=False)
    assert _killed(number, bundle, data, tmp_path / "out", 5) == code
    table = rows(tmp_path / "out" / "summary.csv")
    assert 4 <= len(table) < 30
    assert {row["status"] for row in table} == {"done"}
    # one may have appeared as the signal came: it is whole, and the next run lists it
    assert len(_reports(tmp_path / "out")) - len(table) in (0, 1)
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_orderly_end_of_workers(bundle: Path, tmp_path: Path, rows: Rows, number: int, code: int) -> None:
    pytest.importorskip("ray")
    data, out = tree(tmp_path / "data", 24, broken=False), tmp_path / "out"
    assert _killed(number, bundle, data, out, 4, "--workers", "2") == code
    # two workers had two each
    assert 0 <= len(_reports(out)) - len(rows(out / "summary.csv")) <= 4
    again = _run(bundle, data, out)
    assert again.returncode == 0, again.stderr[-2000:]
    assert len(rows(out / "summary.csv")) == 24
    assert not list(out.rglob(".*"))


@pytest.mark.slow
def test_two_shards_at_once_and_two_workers_give_the_same(bundle: Path, tmp_path: Path, rows: Rows) -> None:
    pytest.importorskip("ray")
    data = tree(tmp_path / "data", 16)
    assert _run(bundle, data, tmp_path / "whole").returncode == 1
    expected = results(tmp_path / "whole")

    commands = [_command(bundle, data, tmp_path / "shards", "--shard", f"{i}/2") for i in (1, 2)]
    shards = [subprocess.Popen(command, stderr=subprocess.DEVNULL, env=_environment()) for command in commands]
    assert [shard.wait(timeout=600) for shard in shards] == [1, 1]
    assert results(tmp_path / "shards") == expected
    assert min(len(rows(tmp_path / "shards" / f"summary.{i}-of-2.csv")) for i in (1, 2)) > 8

    merged = subprocess.run(
        [sys.executable, "-m", "monai_sa2va", "verify", str(tmp_path / "shards")], capture_output=True, check=False
    )
    assert merged.returncode == 0, merged.stderr
    for name in ("summary.csv", "objects.csv"):
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    done = _run(bundle, data, tmp_path / "workers", "--workers", "2")
    assert done.returncode == 1, done.stderr[-2000:]
    assert results(tmp_path / "workers") == expected
    assert (tmp_path / "workers" / "summary.csv").read_bytes() == (tmp_path / "whole" / "summary.csv").read_bytes()
    about = json.loads((tmp_path / "workers" / "run.json").read_text())
    assert (about["workers"], about["device"]) == (2, "cpu")
