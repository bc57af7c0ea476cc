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

"""A folder of results over several images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.predictor import Segmenter
from monai_sa2va.writers.results import ResultWriter

PROMPTS = ["Segment the vessels.", "optic disc"]


def _png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)).save(path)
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_one_folder_an_image_and_tables_over_all(tmp_path: Path, segmenter: Segmenter) -> None:
    first, second = _png(tmp_path / "in" / "eye.png"), _png(tmp_path / "other" / "eye.png")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 2), np.int16), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "ct.1.nii.gz")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    writer = ResultWriter(tmp_path / "out")
    for image in (first, broken, second, tmp_path / "ct.1.nii.gz"):
        writer.process(segmenter, image, PROMPTS)
    writer.close()

    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    masks = ("vessels.png", "vessels.nii.gz", "optic_disc.png", "optic_disc.nii.gz")
    assert found == {
        "summary.csv",
        "objects.csv",
        *(f"{eye}/{name}" for eye in ("eye", "eye_2") for name in (*masks, "overview.png", "report.json")),
        *(f"ct.1/{name}" for name in ("vessels.nii.gz", "optic_disc.nii.gz", "overview.png", "report.json")),
    }
    summary = _rows(tmp_path / "out" / "summary.csv")
    assert [(row["image"], row["folder"], row["status"], row["objects"]) for row in summary] == [
        ("eye.png", "eye", "done", "2"),
        ("broken.png", "", "failed", ""),
        ("eye.png", "eye_2", "done", "2"),
        ("ct.1.nii.gz", "ct.1", "done", "2"),
    ]
    assert summary[1]["error"].startswith("[DATA] broken.png can't be read: ")
    assert str(tmp_path) not in (tmp_path / "out" / "summary.csv").read_text()
    assert [result.image for result in writer.failed] == ["broken.png"]
    objects = _rows(tmp_path / "out" / "objects.csv")
    assert [row["label"] for row in objects] == ["vessels", "optic disc"] * 3
    report = json.loads((tmp_path / "out" / "eye" / "report.json").read_text())
    assert [int(row["voxels"]) for row in objects[:2]] == [item["voxels"] for item in report["objects"]]
    with Image.open(tmp_path / "out" / "eye" / "vessels.png") as image:
        assert int((np.asarray(image) > 0).sum()) == report["objects"][0]["voxels"]


def test_an_earlier_run_is_kept_unless_told(tmp_path: Path, segmenter: Segmenter) -> None:
    image = _png(tmp_path / "eye.png")
    ResultWriter(tmp_path / "out").process(segmenter, image, PROMPTS)
    before = (tmp_path / "out" / "eye" / "vessels.png").read_bytes()
    again = ResultWriter(tmp_path / "out").process(segmenter, image, PROMPTS)
    assert "holds results already; give overwrite" in again.error
    assert (tmp_path / "out" / "eye" / "vessels.png").read_bytes() == before

    (tmp_path / "out" / "eye" / "notes.txt").write_text("mine")
    replaced = ResultWriter(tmp_path / "out", ["png"], overwrite=True).process(segmenter, image, ["liver"])
    assert replaced.error == ""
    # what the earlier run wrote is gone, so that no mask is there without being asked for; what a person put stays
    names = sorted(path.name for path in (tmp_path / "out" / "eye").iterdir())
    assert names == ["liver.png", "notes.txt", "overview.png", "report.json"]


def test_folders_are_called_like_their_files(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    names = ("Image_01L.jpg", "image_01l.png", "a b.NII.GZ", "..png", "..nrrd", "summary.csv.png", "眼.tif")
    folders = [writer.reserve(tmp_path / "in" / name).relative_to(tmp_path) for name in names]
    assert [str(folder) for folder in folders] == [
        "Image_01L",
        "image_01l_2",
        "a b",
        "image",
        "image_2",
        "summary.csv_2",
        "眼",
    ]


def test_a_report_that_lists_nothing_stops_the_replacing(tmp_path: Path, segmenter: Segmenter) -> None:
    image = _png(tmp_path / "eye.png")
    (tmp_path / "out" / "eye").mkdir(parents=True)
    (tmp_path / "out" / "eye" / "report.json").write_text("{}")
    result = ResultWriter(tmp_path / "out", overwrite=True).process(segmenter, image, PROMPTS)
    assert "can't be replaced; remove the folder" in result.error


def test_bad_arguments(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made"):
        ResultWriter(tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="has 'jpeg'"):
        ResultWriter(tmp_path / "out", ["jpeg"])
    assert not (tmp_path / "out").exists()


def test_no_image_still_gives_tables(tmp_path: Path) -> None:
    ResultWriter(tmp_path).close()
    assert (tmp_path / "summary.csv").read_text().strip() == "image,folder,status,objects,found,error"
