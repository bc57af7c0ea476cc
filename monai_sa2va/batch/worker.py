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

"""One job of a batch: looked at, read, segmented and written; whatever goes wrong becomes its outcome."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.batch.fingerprint import fingerprint_of, source_hash
from monai_sa2va.batch.job import Job, Outcome, Status, failure
from monai_sa2va.checkpoints.fingerprint import fingerprint
from monai_sa2va.data.read_image import read_image
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.dicom.findings import DicomError, Severity
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.engines.termination import hold
from monai_sa2va.errors import Sa2VAError
from monai_sa2va.inferers.volume import CONTEXTS, check_windows
from monai_sa2va.predictor import Segmentation, Segmenter
from monai_sa2va.transforms.intensity import as_window
from monai_sa2va.writers.masks import DEFAULT_FORMATS, check_formats
from monai_sa2va.writers.results import explain_failure, write_results
from monai_sa2va.writers.whole_folder import changed_results, earlier_report, mend_folder, remove_results

__all__ = ["Opened", "Options", "Worker", "formats_for", "need_writers"]

_log = logging.getLogger(__name__)
_OF_SERIES = ("dicom-seg", "rtstruct")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Options:
    """How all images of a batch are segmented and written.

    Attributes:
        output_dir: where results go.
        formats: of the masks; ``None``: what suits each source.
        mode: ``"segment"`` or ``"chat"``, as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
        context: what the language model sees of a cine, likewise.
        amp: autocast to bfloat16 around the segmenter's own choice.
        overwrite: whether what is done already is done again.
        include_patient: as for :func:`~monai_sa2va.writers.results.write_results`.
    """

    output_dir: Path
    formats: tuple[str, ...] | None = None
    mode: str = "segment"
    context: str | None = None
    amp: bool = False
    overwrite: bool = False
    include_patient: bool = False


@dataclass(eq=False)
class Opened:
    """A job that was looked at.

    Attributes:
        job: what is to be done.
        outcome: where it ended already: not to be segmented, done by an earlier run, or can't be read.
        source: else the image, until it is finished: whoever holds on to this must not hold on to the image.
        fingerprint: of what is asked of it.
        changed: results of an earlier run that are not as it wrote them.
        seconds: that reading took.
    """

    job: Job
    outcome: Outcome | None = None
    source: SourceImage | None = None
    fingerprint: str = ""
    changed: tuple[str, ...] = ()
    seconds: float = 0.0


class Worker:
    """Does jobs, each in two steps, so that one can be read while another is computed.

    Args:
        segmenter: with its weights.
        options: of the batch.

    Raises:
        ConfigError: when the two contradict each other, which every volume of the batch would fail by.
    """

    def __init__(self, segmenter: Segmenter, options: Options) -> None:
        if options.mode == "segment":
            propagated = options.context if options.context in CONTEXTS else None
            check_windows(segmenter.inferer, segmenter.volume_inferer.volume, propagated)
        self.segmenter, self.options = segmenter, options

    @cached_property
    def weights(self) -> str:
        """SHA-256 over the values of the network's weights."""
        return fingerprint(self.segmenter.network.state_dict())["float32"]

    def open(self, job: Job) -> Opened:
        """Look whether a job is to be done at all, and read its image.

        What a killed run left in the place of its results is removed.
        """
        if job.verdict is not None or job.source is None:
            status, code, reason = job.verdict or (Status.FAILED, "DATA", "there is no image")
            told = Outcome(job.number, job.name, status, "", job.modality, job.slices, code, reason)
            return Opened(job, told)
        try:
            mend_folder(self.options.output_dir / job.folder)
            # of a file that is missing reading says it better
            asked = "" if isinstance(job.source, Path) and not job.source.is_file() else self.fingerprint(job)
            report = self._earlier_report(job, asked)
            changed = [] if report is None else changed_results(self.options.output_dir / job.folder, report)
            if report is not None and not changed:
                return Opened(job, _done_earlier(job, report))
            begun = time.perf_counter()
            source = read_image(job.source)
            return Opened(job, None, source, asked, tuple(changed), time.perf_counter() - begun)
        # whatever a damaged file makes of a reader: it is one series' fault
        except Exception as error:
            return Opened(job, self._failed(job, error))

    def finish(self, opened: Opened, progress: Callable[[int, int], None] | None = None) -> Outcome:
        """Segment what was read and write its results.

        From the moment that these can be seen, a signal waits for
        :func:`~monai_sa2va.engines.termination.release`: what is there has to be noted.

        Args:
            opened: from :meth:`open`.
            progress: as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
        """
        job, source = opened.job, opened.source
        opened.source = None
        if opened.outcome is not None or source is None:
            return opened.outcome or self._failed(job, ValueError("nothing was read"))
        options, begun = self.options, time.perf_counter()
        try:
            found = self.segment(job, source, progress)
            del source
            run = {
                "fingerprint": opened.fingerprint,
                "weights": self.weights,
                "seconds": {"read": round(opened.seconds, 3), "segment": round(time.perf_counter() - begun, 3)},
            }
            written = write_results(
                found,
                options.output_dir / job.folder,
                formats_for(job.source, options.formats),
                options.overwrite,
                options.include_patient,
                job.patient,
                run,
                hold,
            )
            seconds = time.perf_counter() - begun
            return _done(job, written.files, written.objects, again=opened.changed, seconds=seconds)
        # as above
        except Exception as error:
            return self._failed(job, error)

    def segment(
        self, job: Job, source: SourceImage, progress: Callable[[int, int], None] | None = None
    ) -> Segmentation:
        """Segment an image as a job asks for it, without writing anything."""
        options, segmenter = self.options, self._segmenter(job)
        with torch.autocast(segmenter.device.type, dtype=torch.bfloat16, enabled=options.amp):
            return segmenter.segment(source, job.prompts, progress, mode=options.mode, context=options.context)

    def earlier(self, job: Job) -> Outcome | None:
        """What an earlier run made of a job, where it asked the same of the same image by the same weights.

        Results that were changed or removed since then don't count.

        Args:
            job: as for :meth:`open`.

        Raises:
            OutputError: when there is something in the place of its results that can't be replaced.
            OSError: when its file, or a result, can't be read.
        """
        report = self._earlier_report(job, self.fingerprint(job))
        if report is None or changed_results(self.options.output_dir / job.folder, report):
            return None
        return _done_earlier(job, report)

    def _earlier_report(self, job: Job, asked: str) -> dict[str, Any] | None:
        report = earlier_report(self.options.output_dir / job.folder)
        same = report is not None and report["run"].get("fingerprint") == asked
        return report if same and not self.options.overwrite else None

    def _segmenter(self, job: Job) -> Segmenter:
        """The segmenter with the job's own window and axis: the same network and inferers."""
        own = self.segmenter
        if job.window is None and job.axis is None:
            return own
        return Segmenter(
            own.network,
            own.device,
            window=own.window if job.window is None else job.window,
            inferer=own.inferer,
            axis=own.stack.axis if job.axis is None else job.axis,
            stack_inferer=own.stack_inferer,
            first_frames_inferer=own.first_frames_inferer,
            volume_inferer=own.volume_inferer,
            planes=own.planes,
        )

    def fingerprint(self, job: Job) -> str:
        """What is asked of which image, and by which weights.

        Raises:
            OSError: when its file can't be read.
        """
        own, options = self.segmenter, self.options
        # "stored" is the same as the value that is stored
        threshold = own.inferer.presence.threshold_of(own.network)
        return fingerprint_of(
            weights=self.weights,
            source=source_hash(job.source) if job.source is not None else None,
            prompts=job.prompts,
            window=own.window if job.window is None else as_window(job.window),
            axis=own.stack.axis if job.axis is None else job.axis,
            inferer=(type(own.inferer).__name__, {**vars(own.inferer), "presence": threshold}),
            volume_inferer=own.volume_inferer,
            planes=own.planes,
            patient=job.patient if options.include_patient else None,
            **{name: getattr(options, name) for name in ("formats", "mode", "context", "amp", "include_patient")},
        )

    def _failed(self, job: Job, error: Exception) -> Outcome:
        """What a job came to; results that ``overwrite`` gave up must not be taken for its own."""
        if self.options.overwrite:
            try:
                remove_results(self.options.output_dir / job.folder)
            except Sa2VAError as left:
                error = left
        if isinstance(error, DicomError):
            status = Status.SKIPPED if error.finding.severity is Severity.SKIPPED else Status.REFUSED
            return failure(job, error, status)
        known = error if isinstance(error, Sa2VAError) else explain_failure(error, job.name)
        if known is None:
            _log.debug("%s", job.name, exc_info=error)
            # its text may hold anything of the file
            known = Sa2VAError(f"{job.name} met a fault of the program ({type(error).__name__}); please report it")
            known.code = "INTERNAL"
        if any(isinstance(e, OSError) and e.errno in _FULL for e in (error, error.__cause__)):
            known.code = "DISK_FULL"
        return failure(job, known)


def formats_for(source: Path | DicomSeries | None, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Formats for one source of a batch.

    Args:
        source: the image.
        asked: what was asked for; ``None`` for what suits each: DICOM SEG and NIfTI of a series, else NIfTI and PNG. Of
            plain files those of DICOM are left out, unless nothing else is asked for.
    """
    if isinstance(source, DicomSeries):
        return tuple(asked or ("dicom-seg", "nifti"))
    return tuple(item for item in asked or DEFAULT_FORMATS if item not in _OF_SERIES) or tuple(asked or ())


def need_writers(jobs: Iterable[Job], asked: Sequence[str] | None) -> None:
    """Refuse formats that nothing here writes before anything is segmented for them.

    Args:
        jobs: what is to be done.
        asked: as for :func:`formats_for`.

    Raises:
        ConfigError: naming what to install.
    """
    series = (job.source for job in jobs if job.verdict is None and isinstance(job.source, DicomSeries))
    if (first := next(series, None)) is not None:
        check_formats(formats_for(first, asked))


def _done_earlier(job: Job, report: Mapping[str, Any]) -> Outcome:
    return _done(job, report["run"]["files"], report["objects"], earlier=True)


def _done(
    job: Job,
    files: Sequence[str],
    objects: Sequence[Any],
    earlier: bool = False,
    again: tuple[str, ...] = (),
    seconds: float = 0.0,
) -> Outcome:
    findings = [] if job.source is None or isinstance(job.source, Path) else job.source.findings
    warnings = [finding for finding in findings if finding.severity is Severity.WARNING]
    codes = [finding.code.value for finding in warnings]
    reasons = [finding.message for finding in warnings]
    if again:
        codes.append("RESULTS_CHANGED")
        reasons.append(f"{', '.join(again)} of an earlier run was changed or is missing, so it was done again")
    return Outcome(
        job.number,
        job.name,
        Status.DONE,
        job.folder,
        job.modality,
        job.slices,
        " ".join(dict.fromkeys(codes)),
        "; ".join(reasons),
        tuple(files),
        objects,
        earlier,
        again,
        seconds,
    )
