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

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from monai_sa2va.preflight.data import check_datalist, check_files, check_prompts_occur, read_section, scan, summed
from monai_sa2va.preflight.settings import Settings


@pytest.fixture
def folder(tmp_path):
    """Two images for training, whose labels hold 1 and 2 and 1 alone, and one for validation that holds 2."""
    entries = []
    for number, values in enumerate(((1, 2), (1,), (2,))):
        label = np.zeros((6, 8), np.uint8)
        label[0, : len(values)] = values
        Image.fromarray(np.full((6, 8), 99, np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(label).save(tmp_path / f"{number}_label.png")
        prompts = {"1": "vessels", "2": "disc"}
        entries.append({"image": f"{number}.png", "label": f"{number}_label.png", "prompts": prompts})
    write(tmp_path, training=entries[:2], validation=entries[2:])
    return tmp_path


def write(folder, **sections):
    (folder / "datalist.json").write_text(json.dumps(sections))


def change(folder, section, **values):
    content = json.loads((folder / "datalist.json").read_text())
    for entry in content[section]:
        entry.update(values)
    write(folder, **content)


def settings_of(folder, **more):
    content = {"dataset_dir": str(folder), "datalist": str(folder / "datalist.json"), **more}
    return Settings(ConfigParser(content))


def lines(folder, *checks, **more):
    settings = settings_of(folder, **more)
    found = [[f"{status} {text}" for status, text in check(settings)] for check in checks]
    return found[-1]


def test_sections_are_read(folder):
    assert lines(folder, check_datalist) == ["pass 2 entries for training, 1 for validation"]
    content = json.loads((folder / "datalist.json").read_text())
    write(folder, training=content["training"])
    first, second = lines(folder, check_datalist)
    assert first.startswith("warn there is no validation section")
    assert second == "pass 2 entries for training, 0 for validation"


def test_data_that_the_run_would_make_are_not_made(folder):
    missing = folder / "none"
    more = {"datalist": None, "resolved_datalist": "$1 / 0"}
    (line,) = lines(missing, check_datalist, **more)
    assert line.startswith(f"warn dataset_dir {missing} does not exist: training makes phantoms there")
    assert not missing.exists()


def test_files_are_read(folder):
    assert lines(folder, check_datalist, check_files) == [
        "pass training: 2 images open and their labels fit",
        "pass validation: 1 images open and their labels fit",
    ]
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(folder / "1_label.png")
    assert lines(folder, check_datalist, check_files)[0] == (
        "fail training: [DATA] mask 1_label.png doesn't fit: shape 8 x 6 of the image is not 6 x 8 of its label"
    )


def test_names_and_values_are_compared(folder):
    assert lines(folder, check_datalist, check_prompts_occur) == [
        "pass training: vessels in 2, disc in 1 of 2",
        "warn validation: no label holds the value of vessels; correct the keys, or leave them out",
        "pass validation: disc in 1 of 1",
    ]
    change(folder, "training", prompts={"1": "vessels"})
    assert lines(folder, check_datalist, check_prompts_occur) == [
        "warn training: label values without a prompt are background (2 in 1 entries); name them in prompts",
        "pass training: vessels in 2 of 2",
        "warn validation: no label holds the value of vessels; correct the keys, or leave them out",
        "pass validation: disc in 1 of 1",
        "warn validation asks for disc, which training never shows",
    ]
    change(folder, "training", prompts={"7": "liver"})
    assert lines(folder, check_datalist, check_prompts_occur)[0] == (
        "fail training: no label holds a value that a prompt names (liver); correct the keys"
    )


def test_one_mask_a_file_is_read_as_such(folder):
    white = np.zeros((6, 8), np.uint8)
    white[2] = 255
    for name in ("a", "b"):
        Image.fromarray(white if name == "a" else white * 0).save(folder / f"{name}.png")
    change(folder, "training", label=["a.png", "b.png"])
    found = scan(read_section(settings_of(folder), folder / "datalist.json", "training"))
    assert dict(found.shown) == {"vessels": 2}
    assert dict(found.asked) == {"vessels": 2, "disc": 2}
    assert not found.unnamed
    assert not found.faults
    assert found.pixels == 2 * 6 * 8


def test_a_black_and_white_label_needs_no_number(folder):
    white = np.zeros((6, 8), np.uint8)
    white[2] = 255
    for number in (0, 1):
        Image.fromarray(white).save(folder / f"{number}_label.png")
    change(folder, "training", prompts={"1": "vessels"})
    found = scan(read_section(settings_of(folder), folder / "datalist.json", "training"))
    assert (dict(found.shown), dict(found.unnamed)) == ({"vessels": 2}, {})


def test_few_of_many_faults_are_told():
    assert summed(["a", "b", "a", "c"]) == "a; b; c"
    assert summed(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"
