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

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "epochs", "workers"), [(4, 4, 0), (2, 2, 1)])
def test_a_training_that_is_killed_ends_with_the_same_weights(
    repository: Path, tmp_path: Path, kills: int, epochs: int, workers: int
) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "resume.py"), "--folder", str(tmp_path)]
    command += ["--kills", str(kills), "--epochs", str(epochs), "--workers", str(workers)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert f"{kills} kills in all, 0 runs differ" in result.stdout
    assert (
        sum(
            int(number)
            for number in re.findall(r"^(\d+) kills, newest.*: the same, bit for bit$", result.stdout, re.MULTILINE)
        )
        == kills
    )
