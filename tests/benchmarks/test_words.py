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

"""``benchmarks/words.py``: names that training never used."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.errors import PromptError


@pytest.fixture(scope="module")
def words(scoring: Any) -> Any:
    return importlib.import_module("words")


def test_every_way_names_every_structure_and_no_name_was_learnt(words: Any) -> None:
    learnt = {phrase.casefold() for phrases in SYNONYMS.values() for phrase in phrases}
    for names in words.WORDS.values():
        assert list(names) == list(SYNONYMS)
        assert not learnt & {name.casefold() for name in names.values()}


def test_what_cannot_be_read_is_an_empty_mask(words: Any, scoring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.ones((4, 4), bool)
    case = scoring.Case("ct_000001", np.zeros((4, 4, 3), np.uint8), {"liver": mask, "spine": mask})

    def ask(_: Any, __: Any, sentences: list[str]) -> Any:
        if sentences == ["Segment the foie."]:
            return [mask], [["foie"]]
        raise PromptError("no name")

    monkeypatch.setattr(words, "ask", ask)
    found = words.measure(None, [case], words.WORDS["French"])
    assert found.by_name == {"liver": 1.0, "spine": 0.0}
