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

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_sa2va.errors import OutputError
from monai_sa2va.metrics.objects import ObjectScore
from monai_sa2va.writers.evaluation import CaseRow, EvaluationWriter, Panel, draw_cases

SCORE = ObjectScore("liver", 2, 9, 0, 0.0, 0.0, 0.0, 0.0, 0.0, math.nan, "mm")


def test_the_table(tmp_path: Path) -> None:
    rows = [CaseRow(1, "a.png", 2, "liver", SCORE), CaseRow(2, "b.png", 3, "the cyst, left", error='says "no"')]
    path = EvaluationWriter(tmp_path / "out").write_rows(rows)
    assert path.read_text().splitlines() == [
        "case,image,group,prompt,status,truth_voxels,predicted_voxels,dice,iou,precision,recall,surface_dice,hd95,unit,"
        "false_empty,false_positive,error",
        "1,a.png,2,liver,done,9,0,0.0,0.0,0.0,0.0,0.0,,mm,1,0,",
        '2,b.png,3,"the cyst, left",failed,,,,,,,,,,,,"says ""no"""',
    ]


def test_the_report_says_what_made_it(tmp_path: Path) -> None:
    path = EvaluationWriter(tmp_path).write_metrics({"overall": {"dice": None}})
    report = json.loads(path.read_text())
    assert report["overall"] == {"dice": None}
    assert set(report["versions"]) == {"monai_sa2va", "torch", "monai", "transformers", "sam2"}


def test_the_picture_stacks_cases_of_any_size(tmp_path: Path) -> None:
    panels = []
    for height, width in ((10, 20), (1024, 512)):
        mask = np.zeros((height, width), dtype=bool)
        mask[:5, :5] = True
        panels.append(Panel(np.full((height, width, 3), 90, np.uint8), mask, ~mask, "best: " + "x" * 200))
    sheet = draw_cases(panels)
    # enlarged to 512 x 256 and reduced to 256 x 512, below two lines each
    assert sheet.size == (3 * 512 + 8, 44 + 256 + 44 + 512)
    path = EvaluationWriter(tmp_path).write_picture(panels)
    with Image.open(path) as written:
        assert written.size == sheet.size


@pytest.mark.parametrize("name", ["cases.csv", "metrics.json", "cases.png"])
def test_earlier_files_are_refused_or_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("earlier")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match=f"holds results already \\({name}\\); give overwrite"):
        EvaluationWriter(tmp_path)
    writer = EvaluationWriter(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "earlier"
    writer.write_rows([])
    writer.write_metrics({})
    writer.remove_earlier_picture()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "metrics.json", "note.txt"]
    assert all(path.read_text() != "earlier" for path in tmp_path.iterdir())
    mask = np.zeros((4, 4), dtype=bool)
    writer.write_picture([Panel(np.zeros((4, 4, 3), np.uint8), mask, mask, "best")])
    writer.remove_earlier_picture()
    assert (tmp_path / "cases.png").is_file()


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made"):
        EvaluationWriter(tmp_path / "file" / "out")
