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

"""The next job is read while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from monai_sa2va.batch.job import Job
from monai_sa2va.batch.worker import Opened

__all__ = ["read_ahead"]


def read_ahead(jobs: Iterable[Job], read: Callable[[Job], Opened]) -> Iterator[Opened]:
    """Opened jobs in their order; a thread opens the next one meanwhile, and never more than that one.

    Args:
        jobs: in their order.
        read: opens one; it doesn't raise.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        ahead: Future[Opened] | None = None
        try:
            for job in jobs:
                following = pool.submit(read, job)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
                # or this one, done by now, would be in memory while the one after the next is read
                del following
            if ahead is not None:
                yield ahead.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
