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

import logging
from typing import Any

import pytest

from monai_sa2va.data.groups import number_groups
from monai_sa2va.errors import DatalistError


def numbers(*fields: dict[str, Any]) -> list[int]:
    entries = [{"image": f"{number}.png", **entry} for number, entry in enumerate(fields)]
    return [entry["group"] for entry in number_groups(entries)]


def test_patients_become_numbers_in_their_order() -> None:
    assert numbers({"patient": "Doe"}, {"patient": "Roe"}, {"patient": " Doe "}) == [1, 2, 1]
    assert numbers({"group": 7}, {"group": 3}, {"group": "7"}) == [1, 2, 1]


def test_the_patient_comes_before_the_group() -> None:
    fields = [{"patient": "x", "group": "left"}, {"patient": "x", "group": "right"}, {"patient": "y", "group": "left"}]
    assert numbers(*fields) == [1, 1, 2]
    # a patient and a group of one name are two
    assert numbers({"patient": "x"}, {"group": "x"}) == [1, 2]


def test_no_name_is_left() -> None:
    entries = [{"image": "a.png", "patient": "Doe", "licence": "CC0"}]
    assert number_groups(entries) == [{"image": "a.png", "group": 1, "licence": "CC0"}]
    assert entries[0]["patient"] == "Doe"


def test_images_without_a_name_are_their_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert numbers({}, {"patient": "Doe"}, {"patient": None, "group": None}, {"patient": "Doe"}) == [1, 2, 3, 2]
    assert "4 images of 3 patients or groups" in caplog.text
    assert "2 of 4 entries have neither 'patient' nor 'group'" in caplog.text
    assert "Doe" not in caplog.text


def test_entries_of_one_image_are_of_one_patient() -> None:
    assert numbers({"image": "a.png"}, {"image": "b.png"}, {"image": "a.png"}) == [1, 2, 1]


def test_all_named_means_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    # another test of this process may have switched information on
    with caplog.at_level(logging.WARNING):
        numbers({"patient": "Doe"}, {"group": 1})
    assert not caplog.records


@pytest.mark.parametrize("value", ["", "  ", 1.5, True, ["Doe"], {"name": "Doe"}])
def test_strange_names_are_refused_and_not_repeated(value: Any) -> None:
    with pytest.raises(DatalistError, match=r"entry 1\.patient: give text or a whole number") as caught:
        numbers({"patient": "Roe"}, {"patient": value})
    assert "Doe" not in str(caught.value)


def test_names_stay_where_they_are_asked_for() -> None:
    entries = [{"image": "a.png", "patient": " Doe "}, {"image": "b.png", "group": 7}, {"image": "c.png"}]
    assert number_groups(entries, include_patient=True) == [
        {"image": "a.png", "patient": "Doe", "group": 1},
        {"image": "b.png", "patient": "7", "group": 2},
        {"image": "c.png", "group": 3},
    ]
