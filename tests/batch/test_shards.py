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

"""Parts of a batch."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.batch.job import Job
from monai_sa2va.batch.shards import Shard
from monai_sa2va.errors import ConfigError


def _jobs(folders: list[str]) -> list[Job]:
    return [Job(number, folder, folder, None) for number, folder in enumerate(folders)]


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_every_job_is_in_one_shard(folders: list[str], count: int) -> None:
    parts = [Shard(number, count).pick(_jobs(folders)) for number in range(1, count + 1)]
    assert sorted(job.folder for part in parts for job in part) == sorted(folders)


def test_the_split_depends_on_nothing_else() -> None:
    folders = [f"1.2.{number}/1.2.{number}.1" for number in range(1000)]
    shards = {job.folder: number for number in (1, 2, 3, 4) for job in Shard(number, 4).pick(_jobs(folders))}
    for number in (1, 2, 3, 4):
        assert all(shards[job.folder] == number for job in Shard(number, 4).pick(_jobs(folders[::-7])))
    assert min(Counter(shards.values()).values()) > 200
    # written out: a job array that is run again with another Python does the same
    assert [shards[folder] for folder in folders[:8]] == [4, 3, 3, 4, 3, 1, 4, 1]


def test_a_shard_in_words() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    assert Shard.parse("2/8").suffix == ".2-of-8"
    for text in ("0/2", "3/2", "1/0", "2", "a/b", "1/2/3", "-1/2", ""):
        with pytest.raises(ConfigError, match=f"shard is '{text}'; give i/n"):
            Shard.parse(text)
