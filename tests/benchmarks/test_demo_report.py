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

"""The demo's report: its sentences, its sums, and a whole run on a network that never learnt."""

from __future__ import annotations

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.sentences import QUESTIONS, parse_phrases
from monai_sa2va.writers.results import folder_name


@pytest.fixture
def report(scoring):
    return importlib.import_module("demo_report")


def run(report, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["demo_report.py", *map(str, arguments)])
    report.main()


def test_unseen_sentences_are_unseen_and_of_both_kinds(report):
    def plain(text):
        return "".join(c for c in text.casefold() if c.isalpha() or c in "{}")

    assert len(report.UNSEEN) >= 10
    assert not {plain(text) for text in report.UNSEEN} & {plain(text) for text in QUESTIONS}
    assert len({plain(text) for text in report.UNSEEN}) == len(report.UNSEEN)
    assert all(text.count("{}") == 1 for text in report.UNSEEN)
    parsed = 0
    for text in report.UNSEEN:
        found = [parse_phrases(text.format(name)) for name in SYNONYMS]
        # a sentence is parsed whatever it names, and then rightly, or never
        assert found in ([[name] for name in SYNONYMS], [None] * len(SYNONYMS)), text
        parsed += found[0] is not None
    assert 4 <= parsed <= len(report.UNSEEN) - 4


def test_masks_are_read_from_the_files_of_inference(report, scoring, demo, segmenter):
    case = scoring.read_cases(demo / "unseen" / "datalist.json", "testing")[0]
    assert "optic disc" in case.masks  # its file is called otherwise
    masks = report.read_masks(demo / "masks", case)
    asked, _ = scoring.ask(segmenter, case, [scoring.PLAIN.format(name) for name in case.masks])
    assert list(masks) == list(case.masks)
    for mask, expected in zip(masks.values(), asked, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_masks_are_found_under_the_files_own_name(report, scoring, tmp_path):
    truth = np.ones((8, 8), bool)
    folder = tmp_path / folder_name("CT 07.png")
    folder.mkdir()
    Image.fromarray(truth.astype(np.uint8) * 255).save(folder / "liver.png")
    case = scoring.Case("CT 07", np.zeros((8, 8, 3), np.uint8), {"liver": truth})
    assert report.read_masks(tmp_path, case)["liver"].all()


@pytest.mark.parametrize("fault", ["missing", "size", "broken"])
def test_a_bad_mask_file_is_named(report, scoring, tmp_path, fault):
    case = scoring.Case("ct_000001", np.zeros((8, 8, 3), np.uint8), {"liver": np.ones((8, 8), bool)})
    (tmp_path / "ct_000001").mkdir()
    path = tmp_path / "ct_000001" / "liver.png"
    if fault == "size":
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(path)
    elif fault == "broken":
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"liver\.png .*run the demo's inference"):
        report.read_masks(tmp_path, case)


def test_dice_and_overlap_of_a_hand_made_case(report, scoring):
    left, right, none = np.zeros((3, 2, 4), bool)
    left[:, :2], right[:, 2:] = True, True
    picture = np.zeros((2, 4, 3), np.uint8)
    cases = [
        scoring.Case("ct_1", picture, {"liver": left, "spine": right}),
        scoring.Case("ct_2", picture, {"liver": left, "kidney": right}),
    ]
    masks = [{"liver": left | right, "spine": right}, {"liver": none, "kidney": none}]
    scores = report.score_masks(cases, masks)
    assert scores["by_prompt"] == {
        "kidney": {"n": 1, "dice": 0.0},
        "liver": {"n": 2, "dice": pytest.approx(1 / 3)},  # 2 * 4 / (8 + 4), and 0
        "spine": {"n": 1, "dice": 1.0},
    }
    assert scores["mean_dice"] == pytest.approx(4 / 9)
    assert scores["dice_of_objects"] == pytest.approx((2 / 3 + 1) / 4)
    # 4 of 8 pixels; two empty masks share nothing
    assert scores["overlap"] == {
        "max": 0.5,
        "mean": 0.25,
        "pairs": 2,
        "too_much": 1,
        "worst_names": ("liver", "spine"),
        "worst": 0.5,
    }


def test_what_other_words_cost(report, scoring, knowing):
    cases = scoring.make_cases(3, 9000, 64)
    sentences = ("Kindly delineate the {} in the scan.", "The {} interests me.", "Is there a {} here? Colour it.")
    assert [parse_phrases(text.format("liver")) for text in sentences] == [["liver"], None, None]
    found = report.compare_sentences(knowing(cases, misreads=["Colour it"]), cases, sentences)
    assert found["plain_dice"] == 1.0
    assert found["by_sentence"] == {
        sentences[0]: {"dice": 1.0, "read_right": None},
        sentences[1]: {"dice": 1.0, "read_right": 1.0},
        sentences[2]: {"dice": 0.0, "read_right": 0.0},
    }
    assert found["lost"] == pytest.approx(1 / 3)
    assert found["read_right"] == 0.5
    assert found["objects"] == sum(len(case.masks) for case in cases)


def test_a_sentence_that_cannot_be_read_is_an_empty_mask(report, scoring, segmenter):
    case = scoring.make_cases(1, 9000, 64)[0]
    found = report.compare_sentences(segmenter, [case], ["Which part of the picture is the {}?"])
    # random weights read no name
    assert list(found["by_sentence"].values()) == [{"dice": 0.0, "read_right": 0.0}]
    plain, _ = scoring.ask(segmenter, case, [scoring.PLAIN.format(name) for name in case.masks])
    triples = zip(case.masks, plain, case.masks.values(), strict=True)
    assert found["plain_dice"] == pytest.approx(scoring.score(triples).mean)


def test_training_time_is_read_from_tensorboard(report, demo, tmp_path):
    assert report.training_seconds(demo / "eval" / "tensorboard") == pytest.approx(400, abs=5)
    assert report.training_seconds(tmp_path) is None


def test_the_whole_report(report, demo, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    # reading a sentence with random weights takes as many tokens as are allowed: two of each kind will do
    monkeypatch.setattr(report, "UNSEEN", report.UNSEEN[3:7])
    run(report, monkeypatch, "--demo", folder, "--sentence-images", 1)
    result = json.loads((folder / "report.json").read_text())
    assert list(result["sentences"]["by_sentence"]) == list(report.UNSEEN)
    assert result["images"] == 3
    assert result["by_prompt"]["vessels"]["n"] == 3
    assert result["met"] == {
        "mean Dice over prompts": False,
        "Dice of vessels": False,
        report.OVERLAP: result["overlap"]["max"] < 0.2,
        "Dice lost by unseen sentences": result["sentences"]["lost"] <= 0.05,
    }
    assert result["training_seconds"] == pytest.approx(400, abs=5)
    assert 500 <= result["seconds_since_start"] < 1500
    with Image.open(folder / "overview.png") as picture:
        assert picture.width == 600  # one image of each look is there
    out = capsys.readouterr().out
    assert "│ vessels " in out
    assert f"{result['mean_dice']:.3f}" in out
    assert "missed" in out
    assert str(folder / "overview.png") in out


@pytest.mark.parametrize("lost", ["unseen/datalist.json", "models/model.pt", "masks"])
def test_what_is_missing_is_said_in_one_line(report, demo, tmp_path, monkeypatch, lost):
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    (shutil.rmtree if lost == "masks" else lambda path: path.unlink())(folder / lost)
    with pytest.raises(SystemExit) as error:
        run(report, monkeypatch, "--demo", folder, "--sentence-images", 1)
    assert str(error.value).startswith("demo_report.py: [")
    assert lost in str(error.value)
    assert "\n" not in str(error.value)
