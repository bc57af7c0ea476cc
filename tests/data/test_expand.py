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
from monai.data import CacheDataset
from monai.transforms import Transform

from monai_sa2va.data.expand import OnePromptEach, ask_for, askable
from monai_sa2va.transforms.sentences import parse_phrases

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
    asked = OnePromptEach(CacheDataset(ENTRIES, transform=[], progress=False))
    assert len(asked) == 2
    assert list(asked) == [
        {"image": "a.png", "label": "la.png", "prompts": {"1": ["vessels", "blood vessels"]}, "slice": 4},
        {"image": "a.png", "label": "la.png", "prompts": {"3": ["optic disc"]}, "slice": 4},
    ]
    assert ENTRIES[0]["absent"] == ["lesion"]
    assert len(ENTRIES[0]["prompts"]) == 2


def test_what_a_dataset_caches_is_held_once() -> None:
    planes = CacheDataset(ENTRIES, transform=[_Loaded()], progress=False, copy_cache=False)
    assert _Loaded.count == 2
    first, second = OnePromptEach(planes)
    assert first["plane"] is second["plane"]
    assert _Loaded.count == 2


class _Loaded(Transform):
    """Something to cache, and how often it was made."""

    count = 0

    def __call__(self, data: dict) -> dict:
        _Loaded.count += 1
        return {**data, "plane": object()}


def test_sentences_ask_by_the_first_phrase() -> None:
    assert ask_for(ENTRIES, "Outline the {}!") == [
        {"image": "a.png", "prompts": ["Outline the vessels!", "Outline the optic disc!"]},
        {"image": "b.png"},
    ]


def test_a_name_with_a_negation_is_quoted() -> None:
    asked = ask_for([{"image": "a.png", "prompts": {"1": ["liver without tumour"]}}])
    assert asked == [{"image": "a.png", "prompts": ['Segment the "liver without tumour".']}]
    assert parse_phrases(asked[0]["prompts"][0]) == ["liver without tumour"]


def test_an_entry_without_a_question_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    negative = {"image": "c.png", "prompts": {}, "absent": ["lesion"]}
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        assert askable([ENTRIES[0], negative]) == [ENTRIES[0]]
    assert "1 of 2 entries" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        assert askable([ENTRIES[0], negative], include_absent=True) == [ENTRIES[0], negative]
    assert not caplog.records


def test_patients_are_kept_where_they_are_asked_for() -> None:
    entries = [{"image": "a.png", "prompts": {}, "patient": "Doe"}, {"image": "b.png", "prompts": {}}]
    assert ask_for(entries) == [{"image": "a.png"}, {"image": "b.png"}]
    assert ask_for(entries, include_patient=True) == [{"image": "a.png", "patient": "Doe"}, {"image": "b.png"}]
