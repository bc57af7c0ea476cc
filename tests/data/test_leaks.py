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

import pytest

from monai_sa2va.data.leaks import leak_between_sections
from monai_sa2va.data.splits import group_of, split_by_fraction

TEN = [f"{patient:02d}" for patient in range(1, 11)]


def test_the_warning_names_two_images_and_what_to_give():
    sections = {"Image_01L": "training", "Image_01R": "testing", "Image_02L": "training", "Image_02R": "training"}
    assert leak_between_sections(sections) == (
        "Image_01L (training) and Image_01R (testing) may be one patient's, which makes scores too good (1 such "
        r"group(s) are split); to keep them together give --group-regex '(\d+)[LR]'"
    )


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"Image_{p}{eye}" for p in TEN for eye in "LR"], r"(\d+)[LR]"),
        ([f"{p}_{eye}" for p in TEN for eye in ("OD", "OS")], r"^(.+?)[-_. /]*(?:OD|OS)$"),
        ([f"{p}/{eye}" for p in TEN for eye in ("left", "right")], r"^(.+?)[-_. /]*(?:left|right)$"),
        ([f"left_{p}" for p in TEN] + [f"right_{p}" for p in TEN], r"(?:left|right)[-_. /]*(.+)$"),
        ([f"{p}{eye}_{k}" for p in TEN for eye in "lr" for k in (1, 2)], r"(\d+)[lr]"),
        ([f"{p}_{eye}_macula" for p in TEN for eye in "LR"], r"^(.+?)[-_. /]*[LR]"),
        # one site has the left eyes only
        (
            [f"siteA_{p}L" for p in TEN] + [f"siteB_{p}{eye}" for p in TEN for eye in "LR"],
            r"^(.+?)[-_. /]*[LR]$",
        ),
        ([f"p{p}_{k:03d}" for p in TEN for k in range(5)], r"^(.+?)[-_. ]+\d+$"),
        ([f"p{p}-{k}" for p in TEN for k in range(5)], r"^(.+?)[-_. ]+\d+$"),
        ([f"p{p} ({k})" for p in TEN for k in range(5)], r"^(.+?)[-_. ]*\(\d+\)$"),
        ([f"p{p}/slice_{k}" for p in TEN for k in range(5)], r"^(.+?)[-_. ]+\d+$"),
    ],
)
def test_what_it_advises_stops_the_leak(names, pattern):
    warning = leak_between_sections(split_by_fraction(names))
    assert warning is not None
    assert warning.endswith(f"--group-regex '{pattern}'")
    groups = {name: group_of(name, pattern) for name in names}
    section_of = split_by_fraction([group for group in groups.values() if group])
    assert leak_between_sections({name: section_of[group] for name, group in groups.items()}) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{number:03d}" for number in range(40)],
        [f"Image_{p}" for p in TEN],
        [f"p{p}_FLAIR" for p in TEN],
        [f"case_{p}_0000" for p in TEN],
        [f"{p}L" for p in TEN],
        [f"{p}_OD" for p in TEN] + [f"x{p}_L" for p in TEN],
    ],
)
def test_names_that_tell_nothing_are_left_alone(names):
    assert leak_between_sections(split_by_fraction(names)) is None


def test_what_is_in_one_section_does_not_leak():
    assert leak_between_sections({"a_1": "training", "a_2": "training", "b_1": "testing"}) is None


def test_names_that_no_plain_expression_sorts_are_told_in_words():
    names = [*(f"{p}L" for p in TEN), *(f"R_{p}" for p in TEN), "01R", "L_01"]
    sections = dict.fromkeys(names, "training") | {"01R": "testing"}
    assert str(leak_between_sections(sections)).endswith("give a --group-regex whose first (...) matches the patient")


def test_folders_are_named_only_where_asked_for():
    sections = {"Doe/left": "training", "Doe/right": "testing", "Roe/left": "training", "Roe/right": "training"}
    assert str(leak_between_sections(sections)).startswith("left (training) and right (testing) may be one patient's")
    shown = str(leak_between_sections(sections, include_patient=True))
    assert shown.startswith("Doe/left (training) and Doe/right (testing) may be one patient's")
