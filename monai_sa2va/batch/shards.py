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

"""A batch in several processes that know nothing of each other, such as the tasks of a job array."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from monai_sa2va.batch.job import Job
from monai_sa2va.errors import ConfigError

__all__ = ["Shard"]

_FORM = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a batch.

    Attributes:
        number: which one, from 1.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """What ``"2/8"`` says: the second of eight.

        Raises:
            ConfigError: when it says no such thing.
        """
        found = _FORM.fullmatch(text)
        number, count = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ConfigError(f"shard is {text!r}; give i/n, such as 1/8 for the first of eight")
        return cls(number, count)

    @property
    def suffix(self) -> str:
        """What tells its tables from those of the others: ``".2-of-8"``."""
        return f".{self.number}-of-{self.count}"

    def pick(self, jobs: Sequence[Job]) -> list[Job]:
        """Its jobs: the same whatever the order, and whichever other jobs there are."""
        return [job for job in jobs if _share(job.folder, self.count) == self.number - 1]


def _share(folder: str, count: int) -> int:
    """By a hash of the UIDs: Python's own differs from process to process."""
    return int.from_bytes(hashlib.sha256(folder.encode("utf-8", "surrogateescape")).digest()[:8], "big") % count
