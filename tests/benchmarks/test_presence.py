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


"""``benchmarks/presence.py``: rates of empty masks, and how far presence can be trusted."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from monai_sa2va.errors import DataError


@pytest.fixture(scope="module")
def benchmark(scoring):
    return importlib.import_module("presence")


def _answers(benchmark, *rows):
    return [benchmark.Answer("a", *row) for row in rows]


def test_what_is_asked_of_a_fundus(benchmark, scoring):
    mask = np.ones((4, 4), bool)
    case = scoring.Case("fundus_000001", np.zeros((4, 4, 3), np.uint8), {"vessels": mask, "macula": mask})
    assert benchmark.questions(case, ("tooth",)) == {
        **dict.fromkeys(("vessels", "macula"), "present"),
        **dict.fromkeys(("optic disc", "lesion"), "missing"),
        **dict.fromkeys(("liver", "kidney", "spine", "cyst", "nodule"), "foreign"),
        "tooth": "unknown",
    }


def test_rates_and_curves_by_hand(benchmark):
    answers = _answers(
        benchmark,
        ("vessels", "present", 0.9, False),
        ("vessels", "present", 0.7, True, True),
        ("cyst", "missing", 0.8, False),
        ("cyst", "missing", 0.1, True, True),
        ("liver", "foreign", 0.0, True),
        ("tooth", "unknown", 1.0, False),
    )
    report = benchmark.summarise(answers, bins=2)
    assert report["kinds"] == {
        "present": {"asked": 2, "empty": 1, "rate": 0.5, "below": 1},
        "missing": {"asked": 2, "empty": 1, "rate": 0.5, "below": 1},
        "foreign": {"asked": 1, "empty": 1, "rate": 1.0, "below": 0},
        "unknown": {"asked": 1, "empty": 0, "rate": 0.0, "below": 0},
    }
    assert report["acceptance"] == {
        "foreign": {"rate": 1.0, "limit": "at least 0.9", "met": True},
        "missing": {"rate": 0.5, "limit": "at least 0.75", "met": False},
        "present": {"rate": 0.5, "limit": "at most 0.05", "met": False},
    }
    # 0.9 beats both missing ones, 0.7 one of them; the unknown one is above both
    assert report["auc"] == {"missing": 0.75, "foreign": 1.0, "unknown": 0.0}
    # of one image the first missing phrase, at 0.8, and the foreign one
    low, high = report["reliability"]
    assert (low["count"], low["observed"]) == (1, 0.0)
    assert (high["count"], high["observed"]) == (3, pytest.approx(2 / 3))
    assert report["calibration_error"] == pytest.approx((0.0 + 3 * (0.8 - 2 / 3)) / 4)
    assert report["roc"]["true"] == [0, 0.5, 0.5, 1, 1, 1]
    assert report["phrases"]["missing"] == {"cyst": {"asked": 2, "empty": 1, "rate": 0.5, "below": 1}}


def test_nothing_absent_is_an_error(benchmark):
    with pytest.raises(DataError, match="1 objects are there and 0 are not"):
        benchmark.summarise(_answers(benchmark, ("vessels", "present", 0.9, False)))


def test_several_objects_of_a_sentence_count_as_one(benchmark, scoring):
    case = scoring.Case("ct_000001", np.zeros((2, 2, 3), np.uint8), {"liver": np.ones((2, 2), bool)})
    asked = list(benchmark.questions(case, ()))

    class Twice:
        def segment(self, image, prompts):
            masks = np.zeros((2 * len(prompts), 2, 2), bool)
            masks[1] = True
            scores = np.linspace(0, 0.9, 2 * len(prompts))
            twice = [p for p in prompts for _ in range(2)]
            return SimpleNamespace(masks=masks, scores=scores, prompts=twice, presence_threshold=0.5)

    answers = benchmark.collect(Twice(), [case], ())
    assert [answer.phrase for answer in answers] == asked
    assert (answers[0].kind, answers[0].empty) == ("present", False)
    assert answers[0].presence == pytest.approx(0.9 / (2 * len(asked) - 1))
    assert all(answer.empty for answer in answers[1:])
    assert (answers[0].below, answers[-1].below) == (True, False)


def test_the_picture_shows_bars_and_curves(benchmark):
    answers = _answers(benchmark, ("a", "present", 0.95, False), ("b", "missing", 0.05, True))
    picture = np.asarray(benchmark.draw(answers, benchmark.summarise(answers)))
    assert picture.shape == (456, 912, 3)
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert (200, 80, 60) in colours
    assert (40, 110, 190) not in colours  # nothing foreign was asked for
    # a bar over the highest stretch up to the top, none over the lowest
    assert picture[100, 48 + 350].tolist() == [150, 190, 225]
    assert picture[100, 48 + 10].tolist() == [255, 255, 255]


def test_a_whole_run_on_random_weights(benchmark, demo, tmp_path, monkeypatch, capsys):
    arguments = ["--checkpoint", str(demo / "models" / "model.pt"), "--count", "1", "--size", "64"]
    monkeypatch.setattr(sys, "argv", ["presence.py", *arguments, "--output", str(tmp_path / "out")])
    benchmark.main()
    out = capsys.readouterr().out
    assert "at least 0.9" in out
    assert "at least 0.75" in out
    assert "at most 0.05" in out
    report = json.loads((tmp_path / "out" / "presence.json").read_text())
    assert (report["checkpoint"], report["presence_threshold"]) == ("model.pt", None)
    assert sum(kind["asked"] for kind in report["kinds"].values()) == len(report["answers"]) == 15
    with Image.open(tmp_path / "out" / "presence.png") as picture:
        assert picture.size == (912, 456)


def test_a_missing_checkpoint_is_one_line(benchmark, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["presence.py", "--checkpoint", "nowhere.pt"])
    with pytest.raises(SystemExit, match=r"presence\.py: \[CHECKPOINT\] .*nowhere\.pt"):
        benchmark.main()
