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

"""The bundle as it is shipped, by the very command of its documentation: its own weights, with its own checks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
import nibabel
import numpy as np
import pydicom
from PIL import Image

pytestmark = pytest.mark.slow


def _infer(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "inference",
        "--config_file",
        "bundle/configs/inference.json",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, words)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _statuses(output: Path) -> list[str]:
    with (output / "summary.csv").open(newline="") as stream:
        return [row["status"] for row in csv.DictReader(stream)]


def test_a_folder_of_dicom(repository: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made.write(data / "a" / "ct", made.series(2, 40, 48, "CT", "ct"))
    made.write(data / "mr", made.series(2, 32, 32, "MR", "mr"))
    done = _infer(repository, "--dataset_dir", data, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert _statuses(tmp_path / "out") == ["done", "done"]
    folder = tmp_path / "out" / made.uid("study", "ct") / made.uid("series", "ct")
    assert {path.name for path in folder.iterdir()} == {"seg.dcm", "vessels.nii.gz", "overview.png", "report.json"}
    seg = pydicom.dcmread(folder / "seg.dcm")
    assert (seg.Rows, seg.Columns, seg.SegmentSequence[0].SegmentLabel) == (40, 48, "vessels")
    assert nibabel.load(folder / "vessels.nii.gz").shape == (48, 40, 2)
    weights = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    assert json.loads((folder / "report.json").read_text())["run"]["weights"] == weights

    again = _infer(repository, "--dataset_dir", data, "--output_dir", tmp_path / "out")
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["computed"] == []


def test_a_folder_of_pictures_and_nowhere_to_write(repository: Path, tmp_path: Path) -> None:
    # where nothing is said results go into the bundle: not into that of the tests
    place = tmp_path / "place"
    shutil.copytree(repository / "bundle", place / "bundle", ignore=shutil.ignore_patterns("eval", "data"))
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 256, (30, 34, 3)).astype(np.uint8)
        Image.fromarray(values).save(data / f"{number}.png")
    done = _infer(place, "--dataset_dir", data)
    assert done.returncode == 0, done.stderr[-3000:]
    output = place / "bundle" / "eval" / "masks"
    assert _statuses(output) == ["done", "done"]
    for number in range(2):
        with Image.open(output / str(number) / "vessels.png") as mask:
            assert mask.size == (34, 30)
    assert sorted(path.name for path in place.iterdir()) == ["bundle"]
    assert sorted(path.name for path in data.iterdir()) == ["0.png", "1.png"]


def test_a_wrong_key_makes_no_folder(repository: Path, tmp_path: Path) -> None:
    picture = tmp_path / "data" / "0.png"
    picture.parent.mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(picture)
    done = _infer(repository, "--dataset_dir", picture.parent, "--output_dir", tmp_path / "out", "--window", "lungs")
    assert done.returncode != 0
    assert "window" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
