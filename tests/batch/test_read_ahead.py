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

"""Reading ahead."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from monai_sa2va.batch.job import Job
from monai_sa2va.batch.read_ahead import read_ahead
from monai_sa2va.batch.worker import Opened

JOBS = [Job(number, str(number), str(number), None) for number in range(6)]


def test_one_job_is_read_while_another_is_computed() -> None:
    begun = [threading.Event() for _ in JOBS]

    def read(job: Job) -> Opened:
        begun[job.number].set()
        return Opened(job)

    for opened in read_ahead(JOBS, read):
        number = opened.job.number
        if number + 1 < len(JOBS):
            assert begun[number + 1].wait(10), "nothing is read meanwhile"
        assert not any(event.is_set() for event in begun[number + 2 :]), "more than one is read ahead"


def test_never_more_than_two_are_in_memory() -> None:
    class _Image:
        pass

    images: list[weakref.ref[_Image]] = []
    alive: list[int] = []

    def read(job: Job) -> Opened:
        image: Any = _Image()
        images.append(weakref.ref(image))
        gc.collect()
        alive.append(sum(there() is not None for there in images))
        return Opened(job, None, image)

    for opened in read_ahead(JOBS, read):
        # as Worker.finish does
        image: Any = opened.source
        opened.source = None
        deadline = time.monotonic() + 10
        while len(alive) < min(opened.job.number + 2, len(JOBS)) and time.monotonic() < deadline:
            time.sleep(0.001)
        del image
    assert max(alive) == 2
    assert len(images) == len(JOBS)


def test_an_interruption_ends_it() -> None:
    seen: list[int] = []

    def read(job: Job) -> Opened:
        seen.append(job.number)
        return Opened(job)

    ahead = read_ahead(JOBS, read)
    next(ahead)
    with pytest.raises(KeyboardInterrupt):
        ahead.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert seen in ([0], [0, 1])
    assert list(read_ahead([], read)) == []
