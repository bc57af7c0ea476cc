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

"""Progress of a batch for people: a bar with series, slices and the time that is left, and a line a failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai_sa2va.batch.job import Job, Outcome

__all__ = ["Progress"]


class Progress:
    """A bar on standard error where that is a terminal; lines of failures, and of what is done again, anywhere.

    Args:
        jobs: all that is to be done.
        show_paths: whether lines name a file with its folder, which may name a patient.
    """

    def __init__(self, jobs: Sequence[Job], show_paths: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.fields[done]}/{task.fields[jobs]} images"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} slices"),
            TimeRemainingColumn(),
        )
        # a bar is for people; logs get the lines below it only
        self._bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self._total = sum(job.slices for job in jobs if job.verdict is None)
        self._slices, self._done = 0.0, 0
        self._task = self._bars.add_task("", total=self._total, done=0, jobs=len(jobs))
        self._shown = {j.number: str(j.source) for j in jobs if isinstance(j.source, Path)} if show_paths else {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def slices(self, job: Job, done: int, total: int) -> None:
        """Show how much of a job is done: a share, as it may be sliced along any of its axes."""
        self._bars.update(self._task, completed=self._slices + job.slices * done / max(1, total))

    def outcome(self, outcome: Outcome) -> None:
        """Show that a job is over."""
        if outcome.seconds:
            self._slices += outcome.slices
        elif not outcome.code or outcome.earlier or outcome.error:
            # no work, so it doesn't count for the time that is left
            self._total -= outcome.slices
        self._done += 1
        self._bars.update(self._task, completed=self._slices, total=self._total, done=self._done)
        told = f"[{outcome.code}] {outcome.reason}" if outcome.again else outcome.error
        if told:
            shown = self._shown.get(outcome.number, outcome.image)
            self._bars.console.print(f"{shown}: {told}", markup=False, highlight=False, soft_wrap=True)
