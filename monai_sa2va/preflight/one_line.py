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

"""One line in place of a traceback, for what users can mend in a run of ``python -m monai.bundle``."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from types import TracebackType

from tqdm import tqdm  # type: ignore[import-untyped]

from monai_sa2va.errors import OutputError, Sa2VAError

__all__ = ["causes", "explain", "one_line_errors"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# a process that loads data hands over the text of its traceback, not the exception
_WORKER = re.compile(r"^monai_sa2va\.errors\.\w+: (\[[A-Z_]+\] .+)$", re.MULTILINE)


def causes(error: BaseException) -> list[BaseException]:
    """An exception and what it was raised from, the first cause last: MONAI wraps what a configuration raises."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def explain(error: BaseException) -> str | None:
    """What a user can mend, with its code; ``None`` where an exception is no error of this package and no full disk."""
    chain = causes(error)
    for link in chain:
        found = _WORKER.search(str(link))
        if found:
            return found[1]
        if isinstance(link, Sa2VAError):
            return " ".join(str(link).split())
    last = chain[-1]
    if isinstance(last, OSError) and last.errno in _DISK:
        # the folder may name a patient
        name = os.path.basename(last.filename) if isinstance(last.filename, str) else "a file"
        return str(OutputError(f"{name} can't be written: {last.strerror}; make room, or choose another folder"))
    # what Python finds out by writing a few bytes
    if isinstance(last, FileNotFoundError) and "usable temporary directory" in str(last):
        return str(OutputError("no folder for temporary files can be written to; make room, or name one by TMPDIR"))
    return None


def one_line_errors(debug: bool = False) -> None:
    """End the run that begins here with one line, where this package refuses something; the exit code stays 1.

    It holds for ``python -m monai.bundle``, whose users would read pages of traceback otherwise; a program that runs a
    configuration gets its exceptions as ever. What is a defect keeps its traceback.

    Args:
        debug: show the traceback of every error.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if debug or spec is None or spec.name != "monai.bundle.__main__":
        return
    usual, usual_of_threads = sys.excepthook, threading.excepthook
    told: set[str] = set()

    def tell(line: str) -> None:
        # what a thread failed by, such as TensorBoard's, ends the run as well
        if line in told:
            return
        told.add(line)
        # bars that the error left standing would share its line
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
        print(f"error: {line}", file=sys.stderr, flush=True)

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        line = explain(error)
        if line is None:
            usual(kind, error, traceback)
        else:
            tell(line)

    def hook_of_threads(failed: threading.ExceptHookArgs) -> None:
        line = None if failed.exc_value is None else explain(failed.exc_value)
        if line is None:
            usual_of_threads(failed)
        else:
            tell(line)

    sys.excepthook, threading.excepthook = hook, hook_of_threads
