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

import pytest

from monai_sa2va.data.expand import ask_for, askable, one_prompt_each

ENTRIES = [
    {
        "image": "a.png",
        "label": "la.png",
        "prompts": {"1": ["vessels", "blood vessels"], "3": ["optic disc"]},
        "absent": ["lesion"],
        "slice": 4,
    },
    {"image": "b.png", "label": "lb.png", "prompts": {}},
]


def test_each_prompt_gets_an_entry_of_its_own() -> None:
    assert one_prompt_each(ENTRIES) == [
        {"image": "a.png", "label": "la.png", "prompts": {"1": ["vessels", "blood vessels"]}, "slice": 4},
        {"image": "a.png", "label": "la.png", "prompts": {"3": ["optic disc"]}, "slice": 4},
    ]


def test_the_entries_given_are_left_alone() -> None:
    one_prompt_each(ENTRIES)
    assert ENTRIES[0]["absent"] == ["lesion"]
    assert len(ENTRIES[0]["prompts"]) == 2


def test_sentences_ask_by_the_first_phrase() -> None:
    assert ask_for(ENTRIES, "Outline the {}!") == [
        {"image": "a.png", "prompts": ["Outline the vessels!", "Outline the optic disc!"]},
        {"image": "b.png"},
    ]


def test_an_entry_without_a_question_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    negative = {"image": "c.png", "prompts": {}, "absent": ["lesion"]}
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        assert askable([ENTRIES[0], negative]) == [ENTRIES[0]]
    assert "1 of 2 entries" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        assert askable([ENTRIES[0], negative], include_absent=True) == [ENTRIES[0], negative]
    assert not caplog.records
