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

"""An orderly end of runs that are told to end, as by Ctrl-C, a cluster's queue or ``docker stop``."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["finishing", "hold", "release"]

_log = logging.getLogger(__name__)
# what a shell reports of a process that SIGTERM ended
_EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def finishing(finish: Callable[[], None]) -> Iterator[None]:
    """Call ``finish`` after the block, however it ends, also by SIGTERM or Ctrl-C, which then end the program.

    SIGTERM raises ``SystemExit`` with code 143 in the block and Ctrl-C ``KeyboardInterrupt``; one that comes while
    ``finish`` writes, or between :func:`hold` and :func:`release`, waits for that. The handlers are there as long as
    the block, in the main thread only, and only where a program has none of its own.

    Args:
        finish: writes what there is.

    Raises:
        SystemExit: when SIGTERM came.
        KeyboardInterrupt: when Ctrl-C came.
    """
    global _current
    before, ending = _current, _Ending()
    if ending.taken:
        _current = ending
    try:
        # twice, as the signal may come in between
        try:
            yield
        finally:
            ending.holding = True
    finally:
        try:
            finish()
            if ending.told == signal.SIGTERM:
                _log.error("ended by SIGTERM; what was done by then is written")
        finally:
            _current = before
            ending.give_back()
    ending.act()


def hold() -> None:
    """From now on a signal waits for :func:`release`; nothing changes outside of :func:`finishing`."""
    if _current is not None:
        _current.holding = True


def release() -> None:
    """End what :func:`hold` began.

    Raises:
        SystemExit: when SIGTERM came meanwhile.
        KeyboardInterrupt: when Ctrl-C came meanwhile.
    """
    if _current is not None:
        _current.holding = False
        _current.act()


class _Ending:
    """The signals that a block ends by.

    Attributes:
        told: the first one that came.
        holding: whether it waits.
        taken: what handled each signal that is handled here meanwhile.
    """

    def __init__(self) -> None:
        self.told: int | None = None
        self.holding = False
        self.taken: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
            self.taken = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
        for number in self.taken:
            signal.signal(number, self._note)

    def give_back(self) -> None:
        for number, handler in self.taken.items():
            signal.signal(number, handler)

    def act(self) -> None:
        """Raise what the signal that came is raised as."""
        if self.told == signal.SIGTERM:
            raise SystemExit(_EXIT_CODE)
        if self.told is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.told = self.told is None, self.told or number
        if first and not self.holding:
            self.act()


_current: _Ending | None = None
