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

"""The weights that the bundle brings: what they are, and that they work at once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from monai_sa2va.checkpoints.info import read_info
from monai_sa2va.checkpoints.load import read_weights
from monai_sa2va.cli.main import app
from monai_sa2va.data.phantoms import LABEL_VALUES, make_phantom
from monai_sa2va.metrics.functional import calculate_dice
from monai_sa2va.predictor import Segmenter

SEED = 9000  # of a phantom that no training saw


@pytest.fixture(scope="module")
def weights(repository: Path) -> Path:
    return repository / "bundle" / "models" / "model.pt"


@pytest.fixture(scope="module")
def segmenter(repository: Path) -> Segmenter:
    return Segmenter.from_bundle(repository / "bundle", device="cpu")


def test_they_are_small_and_those_that_the_page_names(repository: Path, weights: Path) -> None:
    assert weights.stat().st_size <= 12 * 10**6
    page = (repository / "bundle" / "docs" / "weights.md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in page
    stored = read_weights(weights)
    assert sum(tensor.numel() for tensor in stored.values()) <= 6 * 10**6
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}


def test_they_say_when_something_is_not_there(weights: Path) -> None:
    config = read_info(weights)["config"]
    assert 0 < config["presence_threshold"] < 1


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_they_segment_right_after_the_install(repository: Path, tmp_path: Path, suffix: str) -> None:
    phantom = make_phantom(SEED)
    image = tmp_path / f"phantom{suffix}"
    if suffix == ".png":
        Image.fromarray(phantom.image).save(image)
    else:
        grey = np.array(Image.fromarray(phantom.image).convert("L"))
        nib.save(nib.Nifti1Image(grey.T, np.diag([-1.0, -1.0, 1.0, 1.0])), image)
    arguments = ["segment", image, "-p", "Segment the vessels.", "-o", tmp_path / "out"]
    arguments += ["--bundle", repository / "bundle", "--device", "cpu"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    (report,) = (tmp_path / "out").glob("*/report.json")
    assert json.loads(report.read_text())["objects"][0]["label"] == "vessels"
    mask = np.asarray(nib.load(report.parent / "vessels.nii.gz").dataobj).squeeze().T > 0
    truth = phantom.label == LABEL_VALUES["vessels"]
    # the fundus is a colour picture: what is left of it in grey is harder
    assert calculate_dice(mask, truth) > (0.7 if suffix == ".png" else 0.3)


def test_a_box_shows_an_object(segmenter: Segmenter) -> None:
    phantom = make_phantom(SEED)
    truth = phantom.label == LABEL_VALUES["optic disc"]
    (top, left), (bottom, right) = np.argwhere(truth).min(0), np.argwhere(truth).max(0)
    found = segmenter.segment(phantom.image, boxes=[left, top, right, bottom])
    assert calculate_dice(found.masks[0], truth) > 0.65


@pytest.mark.parametrize(("seed", "name"), [(9043, "lesion"), (9040, "lesion"), (9043, "liver")])
def test_a_click_corrects_what_a_sentence_left(segmenter: Segmenter, seed: int, name: str) -> None:
    phantom = make_phantom(seed)
    truth = phantom.label == LABEL_VALUES[name]
    sentence = f"Segment the {name}."
    before = segmenter.segment(phantom.image, sentence).masks[0]
    # in the middle of the thickest error
    depth = ndimage.distance_transform_edt(before ^ truth)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    after = segmenter.segment(phantom.image, sentence, points=[[x, y, int(truth[y, x])]]).masks[0]
    assert calculate_dice(after, truth) > calculate_dice(before, truth) + 0.04


def test_what_is_foreign_is_not_there(segmenter: Segmenter) -> None:
    found = segmenter.segment(make_phantom(SEED).image, "Segment the liver.")
    assert not found.masks.any()
    assert found.scores[0] < 0.5
