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

"""An orderly end of runs that are told to end, as by a cluster's queue or ``docker stop``."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["finishing"]

_log = logging.getLogger(__name__)
# what a shell reports of a process that SIGTERM ended
_EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def finishing(finish: Callable[[], None]) -> Iterator[None]:
    """Call ``finish`` after the block, however it ends, also by SIGTERM, which then ends the program.

    SIGTERM raises ``SystemExit`` with code 143 in the block; one that comes while ``finish`` writes waits for it. The
    handler is there as long as the block, in the main thread only, and only where a program has none of its own.

    Args:
        finish: writes what there is.

    Raises:
        SystemExit: when SIGTERM came.
    """
    told = writing = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told
        first, told = not told, True
        if first and not writing:
            raise SystemExit(_EXIT_CODE)

    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, end)
    try:
        # twice, as the signal may come in between
        try:
            yield
        finally:
            writing = True
    finally:
        try:
            finish()
            if told:
                _log.error("ended by SIGTERM; what was done by then is written")
        finally:
            if mine:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if told:
        raise SystemExit(_EXIT_CODE)
