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

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from monai_sa2va.engines.termination import finishing, hold, release


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """SIGTERM as a program finds it, and never deadly to the tests."""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate() -> None:
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, "the signal would kill the tests"
    signal.raise_signal(signal.SIGTERM)


def test_a_run_that_is_told_to_end_finishes(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def finish() -> None:
        # a second one, of somebody in a hurry
        _terminate()
        done.append("finish")

    def run() -> None:
        with finishing(finish):
            done.append("begin")
            _terminate()
            done.append("go on")

    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143
    assert done == ["begin", "finish"]
    assert "ended by SIGTERM" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_while_it_writes_waits() -> None:
    done: list[str] = []

    def finish() -> None:
        _terminate()
        done.append("finish")

    with pytest.raises(SystemExit) as ended, finishing(finish):
        done.append("begin")
    assert ended.value.code == 143
    assert done == ["begin", "finish"]


@pytest.mark.parametrize("error", [None, KeyError])
def test_without_a_signal_nothing_else_happens(error: type[Exception] | None, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def run() -> None:
        with caplog.at_level(logging.DEBUG), finishing(lambda: done.append("finish")):
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert done == ["finish"]
    assert caplog.text == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_programs_own_handler_stays() -> None:
    seen: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append("own"))
    with finishing(lambda: seen.append("finish")):
        _terminate()
    assert seen == ["own", "finish"]


def test_other_threads_have_no_handlers() -> None:
    done: list[Any] = []

    def run() -> None:
        with finishing(lambda: done.append("finish")):
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [signal.SIG_DFL, "finish"]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_what_is_held_is_brought_to_its_end(number: int, error: type[BaseException]) -> None:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    done: list[str] = []

    def run() -> None:
        with finishing(lambda: done.append("finish")):
            hold()
            signal.raise_signal(number)
            done.append("row")
            release()
            done.append("go on")

    try:
        with pytest.raises(error):
            run()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heard)
    assert done == ["row", "finish"]


def test_without_a_run_nothing_is_held() -> None:
    hold()
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, heard)
    release()
