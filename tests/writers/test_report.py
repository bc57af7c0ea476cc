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

"""What is measured and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_sa2va import __version__
from monai_sa2va.predictor import Segmentation
from monai_sa2va.writers.report import describe_objects, write_report

Make = Callable[..., Segmentation]


def test_volume_in_cubic_millimetres(segmentation: Make) -> None:
    def fill(masks: np.ndarray) -> None:
        masks[0, 0, :2, :3] = True

    volume = MetaTensor(torch.zeros(1, 4, 4, 2), affine=torch.diag(torch.tensor([0.5, 2.0, 3.0, 1.0])))
    found = replace(segmentation(volume, ["liver", "cyst"], fill), presence_threshold=0.8)
    first, second = describe_objects(found, [[Path("x/liver.nii.gz")], []])
    assert first == {
        "label": "liver",
        "prompt": "vessels",
        "answer": "Sure, <p>vessels</p> [SEG].",
        "presence": 0.25,
        "voxels": 6,
        "area_mm2": None,
        "volume_mm3": 18.0,
        "extent_mm": [1.5, 4.0, 3.0],
        "empty_because": None,
        "files": ["liver.nii.gz"],
    }
    assert second["voxels"] == 0
    assert second["volume_mm3"] == 0.0
    assert second["empty_because"] == "the model says that cyst is not in this image (presence 0.75, below 0.80)"
    near = replace(found, scores=np.array([0.9, 0.79996], dtype=np.float32))
    _, second = describe_objects(near, [[], []])
    assert second["empty_because"].endswith("(presence 0.79996, below 0.80000)")


@pytest.mark.parametrize(("unit", "volume"), [("micron", 18e-9), ("meter", 18e9)])
def test_volumes_of_files_in_another_unit(tmp_path: Path, segmentation: Make, unit: str, volume: float) -> None:
    def fill(masks: np.ndarray) -> None:
        masks[0, 0, :2, :3] = True

    image = nib.Nifti1Image(np.zeros((4, 4, 2), np.uint8), np.diag([0.5, 2.0, 3.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    (found,) = describe_objects(segmentation(tmp_path / "scan.nii", ["a"], fill), [[]])
    assert (found["voxels"], found["volume_mm3"]) == (6, pytest.approx(volume, rel=1e-9))


def test_area_only_where_the_spacing_is_known(tmp_path: Path, segmentation: Make) -> None:
    def fill(masks: np.ndarray) -> None:
        masks[0, 0, :3] = True

    nib.save(nib.Nifti1Image(np.zeros((4, 5), np.uint8), np.diag([0.5, 3.0, 1.0, 1.0])), tmp_path / "plane.nii")
    (known,) = describe_objects(segmentation(tmp_path / "plane.nii", ["a"], fill), [[]])
    assert (known["area_mm2"], known["volume_mm3"], known["voxels"]) == (4.5, None, 3)
    (unknown,) = describe_objects(segmentation(np.zeros((4, 5), np.uint8), ["a"], fill), [[]])
    assert (unknown["area_mm2"], unknown["volume_mm3"], unknown["voxels"]) == (None, None, 3)
    (empty,) = describe_objects(segmentation(np.zeros((4, 5), np.uint8), ["a"]), [[]])
    assert empty["empty_because"] == "no pixel was more likely inside than outside"


def test_the_report_is_the_same_each_time_and_names_no_folder(tmp_path: Path, segmentation: Make) -> None:
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)), folder / "scan.nii.gz")
    texts = []
    for name in ("one.json", "two.json"):
        found = segmentation(folder / "scan.nii.gz", ["血管"])
        path = write_report(found, describe_objects(found, [[]]), tmp_path / name)
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert "Jane" not in texts[0]
    report = json.loads(texts[0])
    assert report["image"] == "scan.nii.gz"
    assert report["shape"] == [2, 3, 4]
    assert report["affine_ras_mm"] == np.eye(4).tolist()
    assert report["objects"][0]["label"] == "血管"
    assert report["text"] == "Sure, <p>vessels</p> [SEG]."
    assert report["versions"]["monai_sa2va"] == __version__
    assert set(report["versions"]) == {"monai_sa2va", "torch", "monai", "transformers", "sam2"}
