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


"""The tables of shards as one: ``summary.1-of-4.csv`` and its like become ``summary.csv``."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from monai_sa2va.errors import DataError
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.results import sort_rows

__all__ = ["Merged", "merge_tables"]

_SHARD = re.compile(r"(summary|objects)\.(\d+)-of-(\d+)\.csv")


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes:
        name: of the table that was written; empty where shards are missing, and nothing was.
        shards: how many tables it is made of.
        rows: how many it has.
        missing: names of tables that aren't there.
    """

    name: str
    shards: int
    rows: int
    missing: tuple[str, ...] = ()


def merge_tables(folder: Path) -> list[Merged]:
    """Write ``summary.csv`` and ``objects.csv`` from those of the shards, where there are any.

    Rows are sorted as those of an unsharded run, whose tables these are then, to the byte.

    Returns:
        What was made of each kind of table; nothing where there are no shards.

    Raises:
        DataError: when there are tables of runs with different numbers of shards, or with different columns.
        OutputError: when a table can't be written.
    """
    tables: dict[str, dict[int, Path]] = {}
    counts: set[int] = set()
    for path in sorted(folder.iterdir()):
        if named := _SHARD.fullmatch(path.name):
            kind, number, count = named.group(1), int(named.group(2)), int(named.group(3))
            tables.setdefault(kind, {})[number] = path
            counts.add(count)
    if len(counts) > 1:
        several = " and ".join(map(str, sorted(counts)))
        raise DataError(f"the folder has tables of runs in {several} shards; remove those that don't count")
    return [_merge(folder, kind, tables[kind], *counts) for kind in sorted(tables)]


def _merge(folder: Path, kind: str, paths: dict[int, Path], count: int) -> Merged:
    missing = tuple(f"{kind}.{number}-of-{count}.csv" for number in range(1, count + 1) if number not in paths)
    if missing:
        return Merged("", len(paths), 0, missing)
    columns: list[str] | None = None
    rows: list[dict[str, str]] = []
    for number in sorted(paths):
        with paths[number].open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            found = list(reader.fieldnames or [])
            if columns is not None and found != columns:
                raise DataError(
                    f"{paths[number].name} has other columns than the tables before it; run that shard again"
                )
            columns = found
            rows += reader
    with (
        atomic_path(folder / f"{kind}.csv", overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns or [])
        writer.writeheader()
        writer.writerows(sort_rows(rows))
    return Merged(f"{kind}.csv", len(paths), len(rows))
