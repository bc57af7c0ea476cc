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

"""No two runs at the same images of one output folder at the same time."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from monai_sa2va.batch.shards import Shard
from monai_sa2va.errors import OutputError

__all__ = ["refuse_held", "run_lock"]

_LOCK = re.compile(r"\.run(?:\.(\d+)-of-(\d+))?\.lock")


@contextmanager
def run_lock(output_dir: Path, shard: Shard | None = None) -> Iterator[None]:
    """Hold an output folder, or a shard's part of it, as long as the block.

    The operating system lets go of it when the process ends, however it ends, so that a killed run is in nobody's way.
    Shards of one split may run at the same time; a whole run, or another split, would do the same images.

    Args:
        output_dir: that exists.
        shard: which part, where there are several.

    Raises:
        OutputError: when another run holds it, naming that, or the lock can't be made.
    """
    own = output_dir / _name(shard)
    holder = _holder(own)
    lock = FileLock(own)
    try:
        _take(lock, own)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"the folder {os.fspath(output_dir)!r} can't be locked: {error.strerror or type(error).__name__}; choose "
            "another"
        ) from error
    try:
        refuse_held(output_dir, shard, but=own)
        # not in the locked file itself, which older versions of filelock empty when they try it
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        # a disk that is full fails where results are written; without this text a second run is only told less
        with suppress(OSError):
            holder.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        # while it is held, so that nobody else's is removed
        for path in (holder, own):
            with suppress(OSError):
                path.unlink()
        lock.release()


def refuse_held(output_dir: Path, shard: Shard | None = None, but: Path | None = None) -> None:
    """Refuse what another run is at, before anything is loaded for it.

    Args:
        output_dir: that may not exist yet.
        shard: which part, where there are several.
        but: a lock that is held rightly.

    Raises:
        OutputError: naming the process, its computer, and since when it runs.
    """
    for path in sorted(output_dir.glob(".run*.lock")):
        if path != but and _conflicts(path, shard):
            lock = FileLock(path)
            _take(lock, path)
            lock.release()


def _take(lock: FileLock, path: Path) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        try:
            told = json.loads(_holder(path).read_text())
            who = f"process {told['process']} on {told['host']}, since {told['since']}"
        # it has just begun, or ends now
        except (OSError, ValueError, KeyError, TypeError):
            who = "it has just begun, or ends now"
        raise OutputError(
            f"another run writes to the folder {os.fspath(path.parent)!r} ({who}); wait for it or end it, then run "
            "this again"
        ) from error


def _name(shard: Shard | None) -> str:
    return f".run{'' if shard is None else shard.suffix}.lock"


def _holder(path: Path) -> Path:
    return path.with_suffix(".json")


def _conflicts(path: Path, shard: Shard | None) -> bool:
    found = _LOCK.fullmatch(path.name)
    if found is None:
        return False
    if shard is None or found.group(1) is None:
        return True
    return int(found.group(2)) != shard.count or int(found.group(1)) == shard.number
