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

"""What a batch does with one image or series, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_sa2va.errors import Sa2VAError

if TYPE_CHECKING:
    from monai_sa2va.dicom.series import DicomSeries

__all__ = ["Job", "Outcome", "Status", "failure"]


class Status(str, Enum):
    """What became of an image or series."""

    DONE = "done"
    """Its results are there, from this run or an earlier one."""
    SKIPPED = "skipped"
    """Not segmented, as it was not meant to be: a localizer, or not what ``where`` asks for."""
    REFUSED = "refused"
    """Not segmented, as no mask of it could be trusted."""
    FAILED = "failed"
    """Segmenting it or writing its results failed."""


@dataclass(frozen=True, eq=False)
class Job:
    """One image or series to be segmented, or known not to be.

    Attributes:
        number: its place in the plan, from 0.
        name: what tables and logs call it: base name of a file, SeriesInstanceUID of a series.
        folder: where its results go, below the output folder, with ``/``.
        source: its file, or its series; ``None`` where ``verdict`` says why it isn't segmented.
        prompts: what is asked.
        window: how its grey values are shown, as :func:`~monai_sa2va.transforms.intensity.as_window` takes it;
            ``None``: as the segmenter does.
        axis: how it is sliced; ``None``: as the segmenter does.
        patient: whom it shows, where a datalist says so.
        modality: of a series, else empty.
        slices: how many slices it has; 1 where that isn't known.
        verdict: status, code and reason, where it isn't to be segmented.
    """

    number: int
    name: str
    folder: str
    source: Path | DicomSeries | None
    prompts: tuple[str, ...] = ()
    window: Any = None
    axis: int | str | None = None
    patient: str | None = None
    modality: str = ""
    slices: int = 1
    verdict: tuple[Status, str, str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        number: the job's.
        image: the job's name.
        status: done, skipped, refused or failed.
        folder: where its results are, below the output folder; empty where there are none.
        modality: of a series, else empty.
        slices: as of the job.
        code: why it isn't done, or of a series that is, the codes of its warnings.
        reason: one line that says so.
        files: names of the files in the folder.
        objects: what was found, as :func:`~monai_sa2va.writers.report.describe_objects` tells it.
        earlier: whether an earlier run had done it, and nothing was computed now.
        again: results of an earlier run that were changed or are missing, for which it was done again.
        seconds: of the computation and the writing; 0 where nothing was computed.
    """

    number: int
    image: str
    status: Status
    folder: str = ""
    modality: str = ""
    slices: int = 1
    code: str = ""
    reason: str = ""
    files: tuple[str, ...] = ()
    objects: Sequence[Mapping[str, Any]] = field(default=())
    earlier: bool = False
    again: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def error(self) -> str:
        """One line with its code that says why it was refused or failed, else empty."""
        return f"[{self.code}] {self.reason}" if self.status in (Status.REFUSED, Status.FAILED) else ""


def failure(job: Job, error: Sa2VAError, status: Status = Status.FAILED) -> Outcome:
    """That a job came to nothing, and why, in one line."""
    reason = " ".join(str(error).removeprefix(f"[{error.code}] ").split())
    return Outcome(
        job.number, job.name, status, modality=job.modality, slices=job.slices, code=error.code, reason=reason
    )
