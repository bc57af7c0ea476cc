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
import shutil

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from monai_sa2va.preflight.evaluation import check_questions, check_samples, check_thresholds, check_truth
from monai_sa2va.preflight.settings import Settings


@pytest.fixture
def folder(tmp_path):
    """12 images of 12 patients for testing, of which the first shows vessels."""
    Image.fromarray(np.full((6, 8), 99, np.uint8)).save(tmp_path / "image.png")
    label = np.zeros((6, 8), np.uint8)
    Image.fromarray(label).save(tmp_path / "empty.png")
    label[2] = 1
    Image.fromarray(label).save(tmp_path / "shown.png")
    entry = {"image": "image.png", "prompts": {"1": "vessels"}}
    names = ["shown.png"] + 11 * ["empty.png"]
    write(tmp_path, [{**entry, "label": name, "patient": f"P{number}"} for number, name in enumerate(names)])
    return tmp_path


def write(folder, entries):
    (folder / "datalist.json").write_text(json.dumps({"testing": entries}))


def read(folder):
    return json.loads((folder / "datalist.json").read_text())["testing"]


def lines(folder, *checks, **more):
    content = {
        "imports": [
            "$from monai_sa2va.data.datalist import load_datalist",
            "$from monai_sa2va.data.groups import number_groups",
        ],
        "datalist": str(folder / "datalist.json"),
        "dataset_dir": str(folder),
        "dataset": {"_target_": "Dataset", "data": "$number_groups(load_datalist(@datalist, 'testing'))"},
        **more,
    }
    settings = Settings(ConfigParser(content))
    return [[f"{status} {text}" for status, text in check(settings)] for check in checks][-1]


def test_truth_that_is_there_passes(folder):
    assert lines(folder, check_truth) == [
        "pass testing: 12 images open and their labels fit",
        "warn testing: the labels of 11 of 12 cases hold no value of their prompts (image.png), which then counts as "
        "not there; correct labels or keys, unless it is so",
        "pass testing: vessels in 1 of 12",
    ]


def test_truth_that_is_empty_fails(folder):
    write(folder, read(folder)[1:])
    assert lines(folder, check_truth)[-1] == ("fail testing: all true masks are empty; correct the keys of the prompts")


def test_truth_that_is_missing_is_told(folder):
    entries = read(folder)
    for entry in entries[1:3]:
        del entry["label"]
    write(folder, entries)
    assert lines(folder, check_truth)[0] == (
        "warn testing: 2 of 12 entries have no truth (image.png, ...) and will not be scored; "
        "give them label and prompts"
    )
    for entry in entries:
        entry.pop("label", None)
    write(folder, entries)
    assert lines(folder, check_truth) == ["fail testing: no entry has a label and prompts; name them in the datalist"]


def test_empty_labels_are_named(folder):
    entries = read(folder)[:1]
    for number in range(5):
        shutil.copy(folder / "image.png", folder / f"{number}.png")
        label = "empty.png" if number else "shown.png"
        entries.append({"image": f"{number}.png", "label": label, "prompts": {"1": "vessels"}})
    write(folder, entries)
    _, line, _ = lines(folder, check_truth)
    assert line.startswith(
        "warn testing: the labels of 4 of 6 cases hold no value of their prompts (1.png, 2.png, 3.png, "
    )
    write(folder, entries[:2])
    assert [line.split()[0] for line in lines(folder, check_truth)] == ["pass", "pass"]


def test_files_that_are_missing_warn_as_long_as_one_is_there(folder):
    entries = read(folder)[:3]
    entries[1]["image"], entries[2]["label"] = "gone.png", "gone_label.png"
    write(folder, entries)
    first, *_ = lines(folder, check_truth)
    assert first.startswith("warn testing: [DATA] gone.png can't be read: ")
    assert "gone_label.png can't be read" in first
    assert first.endswith("; what can't be read will not be scored")
    write(folder, entries[1:])
    assert lines(folder, check_truth)[0].startswith("fail testing: [DATA] gone.png can't be read: ")


def test_what_is_said_to_be_absent_is_truth(folder):
    entries = read(folder)
    entries[1] = {"image": "image.png", "absent": ["disc"]}
    write(folder, entries)
    assert lines(folder, check_truth)[0].startswith("pass")
    assert lines(folder, check_truth, include_absent=False)[0].startswith("warn testing: 1 of 12 entries have no truth")


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("Segment the {}.", "pass 'Segment the {}.' for vessels"),
        ("Segment.", "fail question is 'Segment.'; give a sentence with one {} where the phrase goes"),
        ("{} or {}", "fail question is '{} or {}'; give a sentence with one {} where the phrase goes"),
        ("{} or {x}", "fail question is '{} or {x}'; give a sentence with one {} where the phrase goes"),
        (3, "fail question is 3; give a sentence with one {} where the phrase goes"),
    ],
)
def test_questions(folder, question, line):
    assert lines(folder, check_truth, check_questions, question=question) == [line]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"confidence": 0.9, "surface_tolerance": 0, "resamples": 1},
            "pass confidence 0.9, surface_tolerance 0, resamples 1",
        ),
        ({"confidence": 1}, "fail confidence is 1; give a share between 0 and 1, such as 0.95"),
        ({"confidence": "0.9"}, "fail confidence is '0.9'; give a share between 0 and 1, such as 0.95"),
        ({"surface_tolerance": float("inf")}, "fail surface_tolerance is inf; give 0 or more, in mm"),
        ({"resamples": 1.5}, "fail resamples is 1.5; give a whole number of at least 1, such as 1000"),
        ({"resamples": True}, "fail resamples is True; give a whole number of at least 1, such as 1000"),
    ],
)
def test_thresholds(folder, values, line):
    assert lines(folder, check_thresholds, **values) == [line]


def test_patients_are_counted_not_images(folder):
    assert lines(folder, check_truth, check_samples) == ["pass 12 images of 12 patients or groups"]
    write(folder, [{**entry, "patient": f"P{number // 3}"} for number, entry in enumerate(read(folder))])
    assert lines(folder, check_truth, check_samples) == [
        "warn 12 images of 4 patients or groups; intervals of fewer than 10 say little; add some"
    ]


def test_a_list_that_cant_be_read_is_told_once(folder):
    (folder / "datalist.json").write_text("{}")
    assert lines(folder, check_samples) == []
