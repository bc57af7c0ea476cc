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

"""Files of rules."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from monai_sa2va.batch.rules import first_match, load_rules
from monai_sa2va.errors import ConfigError

NEEDS_PYDICOM = pytest.mark.skipif(find_spec("pydicom") is None, reason="pydicom is not installed")
"""Where keywords of DICOM are looked up."""


@NEEDS_PYDICOM
@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_json_and_yaml(tmp_path: Path, suffix: str) -> None:
    yaml = "- modality: CT\n  where: {BodyPartExamined: [CHEST, LUNG*]}\n  prompts: [the lungs]\n  window: lung\n- {}\n"
    entries = [
        {
            "modality": "CT",
            "where": {"BodyPartExamined": ["CHEST", "LUNG*"]},
            "prompts": ["the lungs"],
            "window": "lung",
        },
        {},
    ]
    path = tmp_path / f"rules{suffix}"
    path.write_text(json.dumps(entries) if suffix == ".json" else yaml)
    first, last = load_rules(path)
    assert first.where.conditions == {"Modality": ("CT",), "BodyPartExamined": ("CHEST", "LUNG*")}
    assert (first.prompts, first.window, first.plane) == (("the lungs",), "lung", None)
    assert (last.prompts, last.where.conditions) == (None, {})
    # what is no DICOM has no modality
    assert first_match([first, last], None, "a.png") is last
    assert first_match([first], None, "a.png") is None


def test_plain_files_by_their_names() -> None:
    rules = load_rules([{"file": "chest_*", "prompts": "a"}, {"file": "*.png", "prompts": "b"}])
    found = [first_match(rules, None, name) for name in ("Chest_1.png", "1.png", "1.nii.gz")]
    assert [rule and rule.prompts for rule in found] == [("a",), ("b",), None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "rules holds no list of rules"),
        ([], "rules holds no list of rules"),
        ("[", None),
        (["x"], "rule 1 of rules is a str; give an object with modality, description, where, file, prompts"),
        ([{}, {"promts": "x"}], r"rule 2 of rules has the key 'promts'; did you mean prompts\?"),
        ([{"zzz": 1}], "rule 1 of rules has the key 'zzz'; allowed: modality, "),
        ([{"prompts": [" "]}], "rule 1 of rules: the prompt is empty"),
        ([{"window": "lungs"}], "rule 1 of rules: window is 'lungs'; allowed: "),
        ([{"plane": "oblique"}], "rule 1 of rules: plane is 'oblique'; allowed: auto, axial, coronal, sagittal"),
        ([{"modality": 3}], "rule 1 of rules: Modality is 3; give a pattern such as 'CT'"),
        pytest.param(
            *([{"where": {"Modalty": "CT"}}], "rule 1 of rules has 'Modalty', which is no keyword of DICOM"),
            marks=NEEDS_PYDICOM,
        ),
        ([{"where": "Modality=CT"}], "rule 1 of rules: where is a str; give keywords with patterns"),
        ([{"file": []}], r"rule 1 of rules: file is \[\]; give a pattern"),
    ],
)
def test_rules_that_cant_be_used(content: Any, message: str | None, tmp_path: Path) -> None:
    if message is None:
        (tmp_path / "rules.json").write_text(content)
        with pytest.raises(ConfigError, match=r"rules rules\.json can't be read: "):
            load_rules(tmp_path / "rules.json")
        return
    with pytest.raises(ConfigError, match=message):
        load_rules(content)


def test_files_that_cant_be_used(tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text("[]")
    for name, message in (("gone.json", "is no file that is there"), ("rules.txt", "is none of .json, .yaml and .yml")):
        with pytest.raises(ConfigError, match=f"rules {name} {message}"):
            load_rules(tmp_path / name)
