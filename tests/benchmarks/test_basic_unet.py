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

"""The BasicUNet baseline: that it learns, that its sums are right, and that the script runs."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet

from monai_sa2va.errors import DataError

SMALL = (4, 4, 8, 8, 16, 4)


@pytest.fixture
def unet(scoring):
    return importlib.import_module("basic_unet")


def run(unet, monkeypatch, *arguments):
    threads = str(torch.get_num_threads())  # which are the process's
    monkeypatch.setattr(sys, "argv", ["basic_unet.py", "--threads", threads, *map(str, arguments)])
    unet.main()


def bright_squares(scoring, rng, count, name="liver"):
    """Images whose bright part is the structure."""
    cases = []
    for number in range(count):
        mask = np.zeros((32, 32), bool)
        x, y = rng.integers(0, 20, 2)
        mask[y : y + 12, x : x + 12] = True
        picture = (40 + 160 * mask + rng.integers(0, 20, mask.shape)).astype(np.uint8)
        cases.append(scoring.Case(f"ct_{number:06d}", np.repeat(picture[..., None], 3, 2), {name: mask}))
    return cases


@pytest.mark.parametrize("kind", ["one_per_structure", "one_for_all"])
def test_it_learns_what_can_be_learnt(unet, scoring, rng, kind):
    result = getattr(unet, kind)(bright_squares(scoring, rng, 16), bright_squares(scoring, rng, 4), 4.0, SMALL)
    assert result["mean_dice"] > 0.6  # painting everything reaches 0.25
    assert result["by_prompt"]["liver"]["n"] == 4
    assert result["steps"] > 1


def test_training_stops_in_time_and_takes_one_step_at_least(unet, scoring, rng):
    cases = bright_squares(scoring, rng, 3)
    inputs, truth = unet.to_inputs(cases), torch.zeros(3, 1, 32, 32)
    torch.manual_seed(0)
    network = BasicUNet(2, 3, 1, SMALL)
    before = [parameter.clone() for parameter in network.parameters()]
    assert unet.fit(network, inputs, truth, DiceCELoss(sigmoid=True), 1e-6, 0) == 1
    start = time.perf_counter()
    unet.fit(network, inputs, truth, DiceCELoss(sigmoid=True), 0.3, 0)
    assert 0.3 <= time.perf_counter() - start < 5
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not network.training
    assert unet.predict(network, inputs).shape == (3, 1, 32, 32)


def test_inputs_are_normalised_as_those_of_sam2(unet, scoring):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:] = (0, 255, 51)
    values = unet.to_inputs([scoring.Case("ct_1", picture, {})])
    assert values.shape == (1, 3, 32, 32)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(values[0, :, 5, 5], expected, atol=1e-6)


@pytest.mark.parametrize("shapes", [[], [(8, 8), (8, 9)], [(8, 9)]])
def test_pictures_of_other_shapes_are_refused(unet, scoring, shapes):
    cases = [scoring.Case("ct_1", np.zeros((*shape, 3), np.uint8), {}) for shape in shapes]
    with pytest.raises(DataError, match="square ones of one size"):
        unet.to_inputs(cases)


def test_what_is_painted_where_nothing_is(unet, scoring):
    left, none = np.zeros((2, 10, 10), bool)
    left[:, :5] = True
    few = np.zeros((10, 10), bool)
    few[0] = True
    picture = np.zeros((10, 10, 3), np.uint8)
    cases = [
        scoring.Case("ct_1", picture, {"liver": left, "spine": left}),
        scoring.Case("ct_2", picture, {"spine": left}),
        scoring.Case("ct_3", picture, {"spine": left}),
        scoring.Case("ct_4", picture, {"spine": left}),
    ]
    found = [{"liver": mask, "spine": left} for mask in (~none, left, few, none)]
    result = unet.summarise(cases, found)
    assert result["by_prompt"] == {
        "liver": {
            "n": 1,
            "dice": pytest.approx(2 / 3),
            "images_without": 3,
            "painted": pytest.approx(1 / 3),  # 50 pixels, 10 and none
            "area": pytest.approx(0.2),
        },
        "spine": {"n": 4, "dice": 1.0, "images_without": 0, "painted": None, "area": None},
    }
    assert result["mean_dice"] == pytest.approx(5 / 6)


def test_a_structure_without_training_images_is_named(unet, scoring, rng):
    with pytest.raises(DataError, match="'spine'"):
        unet.one_per_structure(bright_squares(scoring, rng, 2), bright_squares(scoring, rng, 1, "spine"), 0.1, SMALL)


def test_the_whole_script(unet, demo, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("models", "eval"))
    report = {"mean_dice": 0.625, "by_prompt": {"vessels": {"n": 3, "dice": 0.875}}, "training_seconds": 1.5}
    (folder / "report.json").write_text(json.dumps(report))
    run(unet, monkeypatch, "--demo", folder, "--shared", "--features", *SMALL)
    result = json.loads((folder / "basic_unet.json").read_text())
    assert result["seconds"] == 1.5
    names = set(result["per_structure"]["by_prompt"])
    assert names == set(result["shared"]["by_prompt"]) >= {"vessels", "macula"}
    assert result["per_structure"]["by_prompt"]["macula"]["images_without"] == 2
    out = capsys.readouterr().out
    assert "0.875" in out
    assert f"{result['shared']['mean_dice']:.3f}" in out
    assert "never asked" in out.replace("\n", " ")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        *((text, "run 'make demo'") for text in (None, "{}", "[1]", "{")),
        ('{"by_prompt": {}, "mean_dice": 1, "training_seconds": null}', "give --seconds"),
    ],
)
def test_a_bad_report_is_one_line(unet, tmp_path, monkeypatch, report, message):
    if report is not None:
        (tmp_path / "report.json").write_text(report)
    with pytest.raises(SystemExit) as error:
        run(unet, monkeypatch, "--demo", tmp_path)
    assert str(error.value).startswith("basic_unet.py: [")
    assert "report.json" in str(error.value)
    assert message in str(error.value)
