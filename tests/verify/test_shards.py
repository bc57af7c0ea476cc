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


from __future__ import annotations

from pathlib import Path

import pytest

from monai_sa2va.errors import DataError
from monai_sa2va.verify.shards import merge_tables


def _write(folder: Path, number: int, count: int, rows: list[str], head: str = "image,folder,status") -> None:
    (folder / f"summary.{number}-of-{count}.csv").write_text("\r\n".join([head, *rows, ""]), newline="")


def test_shards_become_one_table(tmp_path: Path) -> None:
    _write(tmp_path, 2, 2, ["b,y,done", '"d, e",z,done'])
    _write(tmp_path, 1, 2, ["c,,refused", "a,x,done"])
    (merged,) = merge_tables(tmp_path)
    assert (merged.name, merged.shards, merged.rows, merged.missing) == ("summary.csv", 2, 4, ())
    assert (tmp_path / "summary.csv").read_text().splitlines() == [
        "image,folder,status", "a,x,done", "b,y,done", "c,,refused", '"d, e",z,done',
    ]  # fmt: skip


def test_missing_shards_are_named_and_nothing_is_merged(tmp_path: Path) -> None:
    _write(tmp_path, 2, 3, ["b,y,done"])
    (merged,) = merge_tables(tmp_path)
    assert merged.missing == ("summary.1-of-3.csv", "summary.3-of-3.csv")
    assert not (tmp_path / "summary.csv").exists()


def test_runs_in_different_shards_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, 1, 1, [])
    _write(tmp_path, 1, 2, [])
    with pytest.raises(DataError, match="in 1 and 2 shards; remove those that don't count"):
        merge_tables(tmp_path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, 1, 2, ["a,x,done"])
    _write(tmp_path, 2, 2, ["a,x"], head="image,folder")
    with pytest.raises(DataError, match=r"summary.2-of-2.csv has other columns"):
        merge_tables(tmp_path)


def test_without_shards_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("image\r\na\r\n")
    assert merge_tables(tmp_path) == []
