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

"""The results of one image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_sa2va.errors import ConfigError
from monai_sa2va.predictor import Segmenter
from monai_sa2va.writers.results import folder_name, write_results

PROMPTS = ["Segment the vessels.", "optic disc"]


def test_all_of_an_image_is_in_its_folder(tmp_path: Path, segmenter: Segmenter) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8))
    folder = tmp_path / "out" / "eye"
    written = write_results(segmenter.segment(picture, PROMPTS), folder, run={"fingerprint": "f"})
    masks = {"vessels.png", "vessels.nii.gz", "optic_disc.png", "optic_disc.nii.gz"}
    assert {path.name for path in folder.iterdir()} == {*masks, "overview.png", "report.json"}
    assert set(written.files) == {path.name for path in folder.iterdir()}
    report = json.loads((folder / "report.json").read_text())
    assert report["run"]["fingerprint"] == "f"
    assert set(report["run"]["files"]) == {*masks, "overview.png"}
    assert [item["label"] for item in written.objects] == ["vessels", "optic disc"]
    with Image.open(folder / "vessels.png") as image:
        assert int((np.asarray(image) > 0).sum()) == report["objects"][0]["voxels"] == written.objects[0]["voxels"]


def test_a_format_that_is_unknown_leaves_nothing(tmp_path: Path, segmenter: Segmenter) -> None:
    found = segmenter.segment(np.zeros((8, 9), np.uint8), "vessels")
    with pytest.raises(ConfigError, match="has 'jpeg'"):
        write_results(found, tmp_path / "out" / "eye", ["jpeg"])
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("image", "name"),
    [("in/My Photo Ä.PNG", "My Photo Ä"), ("ct.1.nii.gz", "ct.1"), ("ct_000001", "ct_000001"), ("..png", "image")],
)
def test_a_folders_name(image: str, name: str) -> None:
    assert folder_name(image) == name
