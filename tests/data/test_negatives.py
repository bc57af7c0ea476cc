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

from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.negatives import with_negatives
from monai_sa2va.data.phantom_scene import STRUCTURES
from monai_sa2va.data.phantoms import SYNONYMS, write_phantoms
from monai_sa2va.errors import DatalistError

EYE = {
    "image": "a",
    "family": "eye",
    "prompts": {"1": ["vessels", "veins"], "2": ["disc", "papilla"]},
    "absent": ["macula"],
}
EYE_2 = {
    "image": "b",
    "family": "eye",
    "prompts": {"3": ["macula", "yellow spot"], "1": ["Vessels"]},
    "absent": ["Disc"],
}
BELLY = {
    "image": "c",
    "family": "belly",
    "prompts": {"1": ["vessels"], "5": ["liver", "hepatic tissue"]},
    "absent": [],
}


def _groups(entry: dict[str, Any]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return entry["missing"], entry["foreign"]


def test_the_missing_have_all_their_phrases_and_the_foreign_are_of_other_families() -> None:
    eye, other, belly = with_negatives([EYE, EYE_2, BELLY])
    assert _groups(eye) == ([("macula", "yellow spot")], [("liver", "hepatic tissue")])
    assert _groups(other) == ([("disc", "papilla")], [("liver", "hepatic tissue")])
    # vessels are in both families
    assert _groups(belly) == ([], [("disc", "papilla"), ("macula", "yellow spot")])
    assert set(EYE) == {"image", "family", "prompts", "absent"}
    assert eye["prompts"] is EYE["prompts"]


def test_a_text_is_one_foreign_phrase_and_not_its_letters() -> None:
    (entry,) = with_negatives([EYE], "spleen")
    assert entry["foreign"] == [("spleen",)]


def test_own_phrases_are_never_asked_for_as_absent() -> None:
    """A slice that shows the fovea has it under another structure's name in the other entries."""
    entry = {"image": "d", "family": "eye", "prompts": {"1": ["papilla"]}, "absent": ["disc", "cup"]}
    found = with_negatives([EYE, entry, {**BELLY, "prompts": {"1": ["liver", "Papilla"]}}])[1]
    assert _groups(found) == ([("cup",)], [])


def test_without_a_family_nothing_is_known_to_be_foreign(caplog: pytest.LogCaptureFixture) -> None:
    homeless = {key: value for key, value in BELLY.items() if key != "family"}
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        eye, belly = with_negatives([EYE, homeless], ["pacemaker"])
    assert _groups(eye) == ([("macula",)], [("pacemaker",)])
    assert _groups(belly) == ([], [("pacemaker",)])
    assert "1 of 2 entries have no 'family'" in caplog.text


def test_nothing_is_added_where_it_is_off() -> None:
    assert with_negatives([EYE], ["vessels"], enabled=False) == [EYE]


@pytest.mark.parametrize(
    ("entries", "phrases", "message"),
    [
        ([{**EYE, "family": 3}], (), "image a: family is 3; give a text"),
        ([{**EYE, "family": " "}], (), "family is ' '"),
        ([EYE], ["Veins"], "foreign_phrases: 'Veins' is among the prompts"),
        ([EYE], [""], "foreign_phrases: a phrase is text"),
    ],
)
def test_refusals(entries: list[dict[str, Any]], phrases: list[str], message: str) -> None:
    with pytest.raises(DatalistError, match=message):
        with_negatives(entries, phrases)


def test_phantoms_say_their_family(tmp_path: Any) -> None:
    write_phantoms(tmp_path / "made", 12, 0, 64, splits={"training": 1.0})
    entries = with_negatives(load_datalist(tmp_path / "made" / "datalist.json"))
    assert {entry["family"] for entry in entries} == set(STRUCTURES)
    for entry in entries:
        own = STRUCTURES[entry["family"]]
        missing, foreign = _groups(entry)
        shown = {phrases[0] for phrases in entry["prompts"].values()}
        assert {group[0] for group in missing} == set(own) - shown
        assert {group[0] for group in foreign} == set(SYNONYMS) - set(own)
        assert all(group == SYNONYMS[group[0]] for group in foreign)
