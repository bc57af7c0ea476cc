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

"""A batch from its first job to its tables, however it ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from monai_sa2va.batch.job import Job, Outcome
from monai_sa2va.batch.read_ahead import read_ahead
from monai_sa2va.batch.tables import Tables
from monai_sa2va.batch.worker import Worker
from monai_sa2va.engines.termination import finishing, release
from monai_sa2va.errors import OutputError
from monai_sa2va.writers.files import make_folder

__all__ = ["check_output", "outcomes_here", "prepare_output", "run_batch", "stop_where_full"]


def check_output(output_dir: str | os.PathLike[str]) -> None:
    """Refuse a folder of results that can't be made or written to, before anything is loaded for it; makes nothing.

    Raises:
        OutputError: naming the folder.
    """
    there = Path(output_dir).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"the folder {os.fspath(output_dir)!r} can't be made: {there.name!r} is a file")
    if not os.access(there, os.W_OK):
        raise OutputError(f"the folder {os.fspath(output_dir)!r} can't be written to; choose another with output")


def prepare_output(output_dir: str | os.PathLike[str]) -> Path:
    """Make the folder of results before any work is done for it, and try whether a file can be written there.

    Raises:
        OutputError: when it can't be made or written to.
    """
    output = make_folder(output_dir)
    try:
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise OutputError(
            f"the folder {os.fspath(output_dir)!r} can't be written to: {error.strerror or type(error).__name__}; "
            "choose another"
        ) from error
    return output


def outcomes_here(
    worker: Worker, jobs: Sequence[Job], progress: Callable[[Job, int, int], None] | None = None
) -> Iterator[Outcome]:
    """What becomes of jobs that one worker does, in their order; the next is read while one is computed.

    Args:
        worker: does them.
        jobs: in their order.
        progress: called with the job, and its number of slices done and of all.
    """
    for opened in read_ahead(jobs, worker.open):
        job = opened.job

        def show(done: int, total: int, job: Job = job) -> None:
            if progress is not None:
                progress(job, done, total)

        yield worker.finish(opened, show)


def run_batch(outcomes: Iterable[Outcome], tables: Tables, show: Callable[[Outcome], None] | None = None) -> None:
    """Do all jobs, and write the tables of what was done: at the end, on an interruption, and on SIGTERM.

    Args:
        outcomes: of jobs that are done as they are asked for.
        tables: written in the end; left as they are where there is no outcome yet.
        show: called with each outcome.

    Raises:
        OutputError: when the disk of the results is full, or tables can't be written.
        SystemExit: 143, when SIGTERM came.
        KeyboardInterrupt: when Ctrl-C came.
    """

    def write() -> None:
        if tables.outcomes:
            tables.write()

    with finishing(write):
        for outcome in outcomes:
            tables.add(outcome)
            release()
            if show is not None:
                show(outcome)
            stop_where_full(outcome)
        if not tables.outcomes:
            tables.write()


def stop_where_full(outcome: Outcome) -> None:
    """End a run whose results have nowhere to go.

    Raises:
        OutputError: when the disk is full.
    """
    if outcome.code == "DISK_FULL":
        raise OutputError(
            f"the disk of the output folder is full, at {outcome.image}; make room and run the same again: what is "
            "done is not done twice"
        )
