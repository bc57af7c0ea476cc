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

import errno
import os
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigParser

from monai_sa2va.errors import DataError, Sa2VAError
from monai_sa2va.preflight.one_line import causes, explain, one_line_errors


def wrapped(error: BaseException) -> RuntimeError:
    try:
        raise RuntimeError("MONAI's own words") from error
    except RuntimeError as raised:
        return raised


def test_causes_end_with_the_first():
    first = ValueError("a")
    error = wrapped(wrapped(first))
    assert causes(error) == [error, error.__cause__, first]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("x.png is\n torn"), "[DATA] x.png is torn"),
        (wrapped(wrapped(DataError("x.png is torn"))), "[DATA] x.png is torn"),
        # what it was raised from is no matter of the user
        (wrapped(DataError("x.png is torn")), "[DATA] x.png is torn"),
        (ValueError("a defect"), None),
        (OSError(errno.ENOENT, "No such file", "gone.txt"), None),
        (
            wrapped(OSError(errno.ENOSPC, "No space left on device", "/scans/DOE_JANE/events.out")),
            "[OUTPUT] events.out can't be written: No space left on device; make room, or choose another folder",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "[OUTPUT] no folder for temporary files can be written to; make room, or name one by TMPDIR",
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            "[OUTPUT] a file can't be written: File too large; make room, or choose another folder",
        ),
    ],
)
def test_what_a_user_can_mend_is_explained(error, line):
    assert explain(error) == line


class Torn(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise DataError("x.png is torn")


def test_so_is_what_another_process_met():
    loader = torch.utils.data.DataLoader(Torn(), num_workers=1)
    with pytest.raises(Sa2VAError) as caught:
        next(iter(loader))
    assert "Traceback" in str(caught.value)
    assert explain(wrapped(caught.value)) == "[DATA] x.png is torn"


def test_a_program_of_ones_own_gets_its_exceptions(monkeypatch):
    hook = object()
    monkeypatch.setattr(sys, "excepthook", hook)
    one_line_errors()
    assert sys.excepthook is hook


_BODY = """
import sys
from types import SimpleNamespace
from tqdm import tqdm
from monai_sa2va.errors import DataError
from monai_sa2va.preflight.one_line import one_line_errors
sys.modules["__main__"].__spec__ = SimpleNamespace(name="monai.bundle.__main__")
one_line_errors({debug})
bar = tqdm(range(3), leave=False)
next(iter(bar))
raise {error}
"""


def test_a_thread_that_fails_by_the_same_adds_nothing(repository):
    # TensorBoard writes in a thread, and hands its error on to the run as well
    body = _BODY.replace("bar = ", "full = OSError(28, 'No space left on device')\nbar = ").format(
        debug=False, error="RuntimeError('outer') from full"
    )
    thread = "import threading\ndef fail():\n    raise full\nthread = threading.Thread(target=fail)\n"
    body = body.replace("raise Runtime", f"{thread}thread.start()\nthread.join()\nraise Runtime")
    done = subprocess.run(
        [sys.executable, "-c", body],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: [OUTPUT] a file can't be written: No space left on device; ") == 1


@pytest.mark.parametrize(
    ("debug", "error", "last", "traceback"),
    [
        (False, "RuntimeError('outer') from DataError('x.png is torn')", "error: [DATA] x.png is torn", False),
        (True, "RuntimeError('outer') from DataError('x.png is torn')", "RuntimeError: outer", True),
        # a defect keeps its traceback
        (False, "ValueError('a defect')", "ValueError: a defect", True),
    ],
)
def test_the_last_line_tells_it(repository, debug, error, last, traceback):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", _BODY.format(debug=debug, error=error)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    lines = done.stderr.replace("\r", "\n").strip().splitlines()
    assert lines[-1].strip() == last
    assert ("Traceback" in done.stderr) == traceback


def test_configurations_can_ask_for_it():
    parser = ConfigParser(
        {
            "imports": ["$from monai_sa2va.preflight.one_line import one_line_errors"],
            "debug": False,
            "initialize": ["$one_line_errors(@debug)"],
        }
    )
    assert parser.get_parsed_content("initialize#0") is None
