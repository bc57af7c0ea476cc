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

"""How long a batch will take: by the rate of an earlier run, or measured on its first image; never guessed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_sa2va.batch.job import Job
from monai_sa2va.batch.worker import Worker
from monai_sa2va.data.read_image import read_image
from monai_sa2va.errors import Sa2VAError

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """How long the jobs that are not done yet will take.

    Attributes:
        jobs: how many they are.
        slices: of all of them.
        earlier: jobs that an earlier run has done.
        seconds: for all of them; ``None`` where nothing could be measured.
        told: where the rate comes from.
    """

    jobs: int
    slices: int
    earlier: int
    seconds: float | None
    told: str


def estimate(worker: Worker, jobs: Sequence[Job]) -> Estimate:
    """Look what is done already, and at which rate the rest will be; nothing is written.

    The rate of an earlier run into the same folder, with the same weights on the same device, counts; without one, the
    first image that can be read is segmented.

    Args:
        worker: of the batch.
        jobs: all of them.
    """
    left = []
    earlier = 0
    for job in jobs:
        if job.verdict is None and job.source is not None:
            try:
                done = worker.earlier(job) is not None
            # it will fail, in no time
            except (Sa2VAError, OSError):
                continue
            earlier += done
            if not done:
                left.append(job)
    slices = sum(job.slices for job in left)
    if not left:
        return Estimate(0, 0, earlier, 0.0, "nothing is left to do")
    rate = _stored(worker)
    if rate is not None:
        told = f"at {rate:.3g} s a slice, as an earlier run into this folder measured with these weights on this device"
        return Estimate(len(left), slices, earlier, rate * slices, told)
    for job in left:
        try:
            begun = time.perf_counter()
            source = read_image(job.source)
            worker.segment(job, source)
            seconds = time.perf_counter() - begun
        except (Sa2VAError, OSError):
            continue
        told = f"as {job.name} with its {job.slices} slices took {seconds:.3g} s just now, results not written"
        return Estimate(len(left), slices, earlier, seconds / job.slices * slices, told)
    return Estimate(len(left), slices, earlier, None, "no image could be read, so nothing was measured")


def _stored(worker: Worker) -> float | None:
    """Seconds a slice of an earlier run, the latest where several told theirs."""
    rates: list[tuple[float, float]] = []
    for path in Path(worker.options.output_dir).glob("run*.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            same = told["weights"] == worker.weights and told["device"] == str(worker.segmenter.device)
            if same and told["seconds_a_slice"] is not None:
                rates.append((path.stat().st_mtime, float(told["seconds_a_slice"])))
        # a file of somebody else
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(rates)[1] if rates else None
