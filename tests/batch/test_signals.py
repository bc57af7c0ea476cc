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

"""A signal at the very moment at which a result appears."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

from trees import tree

# runs the command line, and signals itself when the second result has just got its name
_SIGNALLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
number, at = int(sys.argv.pop(1)), sys.argv.pop(1)
replace, seen = os.replace, []

def replaced(source, target):
    if at == "before" and str(source).endswith(".part") and len(seen) == 1:
        os.kill(os.getpid(), number)
    replace(source, target)
    if str(source).endswith(".part"):
        seen.append(target)
        if at == "after" and len(seen) == 2:
            os.kill(os.getpid(), number)

os.replace = replaced
from monai_sa2va.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "at"),
    [
        (signal.SIGTERM, 143, "after"),
        pytest.param(signal.SIGTERM, 143, "before", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "after", marks=pytest.mark.slow),
    ],
)
def test_its_row_is_written_before_the_run_ends(bundle: Path, tmp_path: Path, number: int, code: int, at: str) -> None:
    out = tmp_path / "out"
    words = ["segment", str(tree(tmp_path / "data", 4, broken=False)), "-p", "liver", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, str(int(number)), at, *words, "--bundle", str(bundle), "--device", "cpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    with (out / "summary.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["done", "done"]
    assert {row["folder"] for row in rows} == {
        path.parent.relative_to(out).as_posix() for path in out.rglob("report.json")
    }
    assert not list(out.rglob(".*"))
