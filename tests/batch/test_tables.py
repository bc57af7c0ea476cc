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

"""The tables over a batch."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

from monai_sa2va.batch.job import Outcome, Status
from monai_sa2va.batch.shards import Shard
from monai_sa2va.batch.tables import Tables
from monai_sa2va.verify.shards import merge_tables

_OBJECT = {
    "label": "liver",
    "prompt": "p",
    "presence": 0.5,
    "voxels": 3,
    "volume_mm3": 6.0,
    "files": ["a"],
    "answer": "",
}


def _outcomes() -> list[Outcome]:
    objects = [_OBJECT, {**_OBJECT, "label": "spleen", "voxels": 0}]
    return [
        Outcome(2, "c.png", Status.FAILED, code="DATA", reason="c.png is torn"),
        Outcome(0, "1.2", Status.DONE, "1/1.2", "CT", 4, "GANTRY_TILT", "tilted", ("a",), objects, seconds=2.0),
        Outcome(1, "1.3", Status.SKIPPED, modality="CT", code="LOCALIZER", reason="a localizer, by its ImageType"),
        Outcome(3, "1.4", Status.DONE, "1/1.4", "MR", 6, files=("a",), objects=[], earlier=True),
    ]


def test_rows_are_in_the_order_of_their_images(tmp_path: Path) -> None:
    tables = Tables(tmp_path, Shard(2, 3), {"device": "cpu"})
    for outcome in _outcomes():
        tables.add(outcome)
    tables.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "objects.2-of-3.csv",
        "run.2-of-3.json",
        "summary.2-of-3.csv",
    ]
    assert (tmp_path / tables.summary).read_text().splitlines() == [
        "image,folder,status,modality,slices,objects,found,code,reason",
        "1.2,1/1.2,done,CT,4,2,1,GANTRY_TILT,tilted",
        '1.3,,skipped,CT,1,,,LOCALIZER,"a localizer, by its ImageType"',
        "1.4,1/1.4,done,MR,6,0,0,,",
        "c.png,,failed,,1,,,DATA,c.png is torn",
    ]
    with (tmp_path / "objects.2-of-3.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["image"], row["folder"], row["label"], row["voxels"]) for row in rows] == [
        ("1.2", "1/1.2", "liver", "3"),
        ("1.2", "1/1.2", "spleen", "0"),
    ]
    run = json.loads((tmp_path / "run.2-of-3.json").read_text())
    assert run["device"] == "cpu"
    assert run["status"] == {"done": 2, "skipped": 1, "refused": 0, "failed": 1}
    assert (run["computed"], run["done_by_an_earlier_run"], run["seconds_a_slice"]) == (["1.2"], 1, 0.5)
    assert tables.told() == "segmented 2 of 4 images, 1 of them by an earlier run; 1 skipped, 1 failed"
    assert [outcome.image for outcome in tables.failed] == ["c.png"]


def test_exit_codes(tmp_path: Path) -> None:
    failed, done, skipped, _ = _outcomes()
    for outcomes, code in (
        ([], 0),
        ([done], 0),
        ([done, skipped], 0),
        ([skipped], 2),
        ([done, failed], 1),
        ([failed], 2),
    ):
        tables = Tables(tmp_path)
        for outcome in outcomes:
            tables.add(outcome)
        assert tables.exit_code == code
    assert tables.nothing_done() == "none of 1 images could be segmented, the first because: [DATA] c.png is torn"


def test_what_an_earlier_run_did_counts_as_done(tmp_path: Path) -> None:
    *_, earlier = _outcomes()
    for others, code in (([], 0), (_outcomes()[2:3], 0), (_outcomes()[:1], 1)):
        tables = Tables(tmp_path)
        for outcome in (earlier, *others):
            tables.add(outcome)
        assert tables.exit_code == code, others


def test_what_was_done_again_is_counted(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for outcome in _outcomes():
        tables.add(replace(outcome, again=("seg.dcm",)) if outcome.image == "1.2" else outcome)
    tables.write()
    assert tables.told() == (
        "segmented 2 of 4 images, 1 of them by an earlier run, 1 again as its results were changed or missing; "
        "1 skipped, 1 failed"
    )
    assert json.loads((tmp_path / "run.json").read_text())["done_again"] == ["1.2"]


def test_tables_of_shards_are_merged_to_the_very_bytes_of_one_run(tmp_path: Path) -> None:
    outcomes = [
        *_outcomes(),
        # two files of one name, in folders of which tables tell nothing
        Outcome(4, "a.txt", Status.REFUSED, code="NOT_DICOM", reason="no DICOM"),
        Outcome(5, "a.txt", Status.FAILED, code="DATA", reason="torn"),
        Outcome(6, "1.2", Status.DONE, "2/1.2", "CT", 4, files=("a",), objects=[{**_OBJECT, "label": "a"}]),
    ]
    (tmp_path / "whole").mkdir()
    (tmp_path / "shards").mkdir()
    whole = Tables(tmp_path / "whole")
    shards = [Tables(tmp_path / "shards", Shard(number, 2)) for number in (1, 2)]
    for number, outcome in enumerate(outcomes):
        whole.add(outcome)
        shards[number % 2].add(outcome)
    for tables in (whole, *shards):
        tables.write()
    assert [(merged.name, merged.rows) for merged in merge_tables(tmp_path / "shards")] == [
        ("objects.csv", 3),
        ("summary.csv", 7),
    ]
    for name in ("summary.csv", "objects.csv"):
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_no_image_still_gives_tables(tmp_path: Path) -> None:
    Tables(tmp_path).write()
    assert (tmp_path / "summary.csv").read_text().strip() == (
        "image,folder,status,modality,slices,objects,found,code,reason"
    )
    assert json.loads((tmp_path / "run.json").read_text())["seconds_a_slice"] is None
