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
from pathlib import Path

from monai_sa2va.batch.job import Outcome, Status
from monai_sa2va.batch.shards import Shard
from monai_sa2va.batch.tables import Tables

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


def test_rows_are_in_the_order_of_the_plan(tmp_path: Path) -> None:
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
        "c.png,,failed,,1,,,DATA,c.png is torn",
        "1.4,1/1.4,done,MR,6,0,0,,",
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


def test_no_image_still_gives_tables(tmp_path: Path) -> None:
    Tables(tmp_path).write()
    assert (tmp_path / "summary.csv").read_text().strip() == (
        "image,folder,status,modality,slices,objects,found,code,reason"
    )
    assert json.loads((tmp_path / "run.json").read_text())["seconds_a_slice"] is None
