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

"""What the benchmarks share."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from monai_sa2va.data.phantoms import make_phantom
from monai_sa2va.errors import CheckpointError, DataError


def test_what_is_read_is_what_was_made(scoring, demo):
    read = scoring.read_cases(demo / "unseen" / "datalist.json", "testing")
    made = scoring.make_cases(3, 9000, 64)
    assert [case.name for case in read] == [case.name for case in made]
    assert [case.look for case in read] == ["fundus", "ct", "ultrasound"]
    for a, b in zip(read, made, strict=True):
        np.testing.assert_array_equal(a.picture, b.picture)
        assert a.masks.keys() == b.masks.keys()
        for name, mask in a.masks.items():
            np.testing.assert_array_equal(mask, b.masks[name])


def test_made_cases_are_the_phantoms(scoring):
    case = scoring.make_cases(1, 4, 48)[0]
    np.testing.assert_array_equal(case.picture, make_phantom(4, size=48).image)
    assert case.name == "ct_000004"


@pytest.mark.parametrize("fault", ["size", "broken"])
def test_bad_labels_are_named(scoring, tmp_path, fault):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 7), np.uint8)).save(tmp_path / "b.png")
    if fault == "broken":
        (tmp_path / "b.png").write_bytes(b"no picture")
    entry = {"image": "a.png", "label": "b.png", "prompts": {"1": "vessels"}}
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": [entry]}))
    with pytest.raises(DataError, match=r"a\.png"):
        scoring.read_cases(tmp_path / "datalist.json", "testing")


def test_scores_are_grouped_by_name(scoring):
    half, whole = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    half[0] = True
    scores = scoring.score([("liver", half, whole), ("liver", whole, whole), ("spine", half, ~half)])
    assert scores.by_name == pytest.approx({"liver": (2 / 3 + 1) / 2, "spine": 0.0})
    assert scores.mean == pytest.approx(5 / 12)
    assert scores.counts == {"liver": 2, "spine": 1}


def test_one_mask_a_sentence_whatever_it_names(scoring, segmenter):
    case = scoring.make_cases(1, 0, 48)[0]
    both, vessels, disc = "Segment the vessels and the optic disc.", "Segment the vessels.", "Segment the optic disc."
    masks, names = scoring.ask(segmenter, case, [both, vessels, disc])
    assert names == [["vessels", "optic disc"], ["vessels"], ["optic disc"]]
    assert [mask.shape for mask in masks] == [(48, 48)] * 3
    parts = segmenter.segment(case.picture, [both]).masks
    assert len(parts) == 2
    np.testing.assert_array_equal(masks[0], parts[0] | parts[1])


def test_a_loaded_network_has_the_saved_weights(scoring, segmenter, demo):
    loaded = scoring.load_segmenter(demo / "models" / "model.pt").network.state_dict()
    assert all(bool((value == loaded[key]).all()) for key, value in segmenter.network.state_dict().items())
    with pytest.raises(CheckpointError, match="nowhere"):
        scoring.load_segmenter("nowhere.pt")


def test_a_table_shows_numbers_and_dashes(scoring, capsys):
    scoring.print_table("Title [with] brackets", ["prompt", "Dice"], [["liver", 0.12345], ["spine", None]], ["mean", 1])
    lines = capsys.readouterr().out.splitlines()
    assert "Title [with] brackets" in lines
    cells = [line.replace("│", " ").split() for line in lines]
    assert ["liver", "0.123"] in cells
    assert ["spine", "–"] in cells
    assert ["mean", "1"] in cells
