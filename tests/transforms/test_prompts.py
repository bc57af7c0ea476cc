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

from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.prompts import (
    AskAllD,
    AskAlld,
    AskAllDict,
    RandAskD,
    RandAskd,
    RandAskDict,
)
from monai_sa2va.transforms.sentences import FREE_QUESTIONS, QUESTIONS, parse_phrases

NAMES = ["vessels", "optic disc", "macula", "lesion"]
SYNONYMS = [["vessels", "vasculature"], ["optic disc", "papilla"], "macula", ["lesion"]]


@pytest.fixture
def entry() -> dict[str, Any]:
    """Mask i is full of i + 1, so that it can be told."""
    return {
        "gt_masks": np.stack([np.full((2, 2), i + 1, dtype=np.uint8) for i in range(4)]),
        "phrases": SYNONYMS,
        "names": NAMES,
        "image": "kept",
    }


def _told(answer: list[str]) -> list[str]:
    """Phrases of a named answer."""
    return [answer[i + 1] for i, piece in enumerate(answer) if piece == "<p>"]


def _segs(result: dict[str, Any]) -> int:
    return sum(piece == "[SEG]" for _, answer in result["turns"] for piece in answer)


class TestRandAsk:
    @pytest.mark.parametrize("joint", [0.0, 1.0])
    def test_one_seg_a_mask_in_order(self, entry: dict[str, Any], joint: float) -> None:
        ask = RandAskd(max_objects=3, joint_prob=joint, named_prob=1.0, questions=QUESTIONS)
        ask.set_random_state(0)
        seen = set()
        for _ in range(40):
            result = ask(entry)
            asked = [phrase for _, answer in result["turns"] for phrase in _told(answer)]
            values = [int(mask.max()) for mask in result["gt_masks"]]
            assert len(values) == len(set(values)) == _segs(result) == len(asked) == 3
            assert result["names"] == [NAMES[value - 1] for value in values]
            assert result["phrases"] == asked
            for value, phrase in zip(values, asked, strict=True):
                assert phrase in SYNONYMS[value - 1]
            # the questions name what the answers name
            if joint:
                assert len(result["turns"]) == 1
            else:
                assert len(result["turns"]) == 3
            assert [name for question, _ in result["turns"] for name in parse_phrases(question) or []] == asked
            seen.add(tuple(values))
        assert len(seen) > 10

    def test_synonyms_are_all_used(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(max_objects=4)
        ask.set_random_state(0)
        phrases = {phrase for _ in range(30) for phrase in ask(entry)["phrases"]}
        assert phrases == {"vessels", "vasculature", "optic disc", "papilla", "macula", "lesion"}

    def test_joint_share(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(joint_prob=0.25)
        ask.set_random_state(0)
        turns = [len(ask(entry)["turns"]) for _ in range(400)]
        assert set(turns) == {1, 3}
        assert turns.count(1) / 400 == pytest.approx(0.25, abs=0.06)

    def test_named_share(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(named_prob=0.9)
        ask.set_random_state(0)
        named = sum(any("<p>" in answer for _, answer in ask(entry)["turns"]) for _ in range(400))
        assert named / 400 == pytest.approx(0.9, abs=0.05)

    def test_unnamed_answers_are_official(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(named_prob=0.0, joint_prob=0.0)
        ask.set_random_state(0)
        answers = {"".join(answer) for _ in range(60) for _, answer in ask(entry)["turns"]}
        assert answers == {
            "Sure, [SEG].", "It is [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG].",
        }  # fmt: skip

    def test_every_question_is_used(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(joint_prob=0.0)
        ask.set_random_state(0)
        asked = [
            (q, p) for _ in range(300) for r in [ask(entry)] for (q, _), p in zip(r["turns"], r["phrases"], strict=True)
        ]
        assert {question.replace(phrase, "{}", 1) for question, phrase in asked} == {*QUESTIONS, *FREE_QUESTIONS}

    def test_reproducible(self, entry: dict[str, Any]) -> None:
        def run(seed: int) -> list[Any]:
            ask = RandAskd()
            ask.set_random_state(seed)
            return [ask(entry)["turns"] for _ in range(10)]

        assert run(3) == run(3)
        assert run(3) != run(4)

    def test_a_composition_seeds_it(self, entry: dict[str, Any]) -> None:
        first, second = (Compose([RandAskd()]).set_random_state(5)(entry)["turns"] for _ in range(2))
        assert first == second

    def test_entry_is_left_alone(self, entry: dict[str, Any]) -> None:
        result = RandAskd(max_objects=1)(entry)
        assert set(entry) == {"gt_masks", "phrases", "names", "image"}
        assert entry["gt_masks"].shape == (4, 2, 2)
        assert result["image"] == "kept"

    def test_tensors(self, entry: dict[str, Any]) -> None:
        entry["gt_masks"] = torch.from_numpy(entry["gt_masks"])
        result = RandAskd(max_objects=2)(entry)
        assert isinstance(result["gt_masks"], torch.Tensor)
        assert result["gt_masks"].shape == (2, 2, 2)

    def test_braces_in_a_phrase(self, entry: dict[str, Any]) -> None:
        entry["phrases"] = ["{0} {x}"] * 4
        result = RandAskd(max_objects=1)(entry)
        assert "{0} {x}" in result["turns"][0][0]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"gt_masks": np.zeros((0, 2, 2)), "phrases": [], "names": []}, "without any structure can't be asked"),
            ({"phrases": SYNONYMS[:3]}, "has 4 masks, 3 phrases and 4 names"),
            ({"names": NAMES[:2]}, "has 4 masks, 4 phrases and 2 names"),
        ],
    )
    def test_bad_entries(self, entry: dict[str, Any], changes: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            RandAskd()({**entry, **changes})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"max_objects": 0}, "max_objects is 0; at least 1"),
            ({"joint_prob": 1.5}, "joint_prob is 1.5; give a probability"),
            ({"named_prob": -0.1}, "named_prob is -0.1"),
            ({"questions": []}, "questions is empty"),
            ({"questions": ["Segment it."]}, "question 'Segment it.' has no single {}"),
            ({"questions": ["Segment {name}."]}, "has no single {}"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            RandAskd(**settings)


class TestAskAll:
    def test_each_by_its_first_phrase(self, entry: dict[str, Any]) -> None:
        result = AskAlld()(entry)
        assert [(question, "".join(answer)) for question, answer in result["turns"]] == [
            (f"Segment the {name}.", f"Sure, <p>{name}</p> [SEG].") for name in NAMES
        ]
        assert result["gt_masks"] is entry["gt_masks"]
        assert "turns" not in entry

    def test_another_question_and_form(self, entry: dict[str, Any]) -> None:
        result = AskAlld(question="{}?", named=False)(entry)
        assert result["turns"][0][0] == "vessels?"
        assert "".join(result["turns"][0][1]) == "Sure, [SEG]."

    def test_refusals(self, entry: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="without any structure"):
            AskAlld()({**entry, "gt_masks": np.zeros((0, 2, 2))})
        with pytest.raises(DataError, match="4 masks, 3 phrases"):
            AskAlld()({**entry, "phrases": SYNONYMS[:3]})
        with pytest.raises(ConfigError, match=r"no single \{\}"):
            AskAlld(question="Segment all.")


def test_spellings_and_json() -> None:
    assert RandAskD is RandAskDict is RandAskd
    assert AskAllD is AskAllDict is AskAlld
    parser = ConfigParser({"ask": {"_target_": "monai_sa2va.transforms.RandAskd", "max_objects": 2}})
    assert parser.get_parsed_content("ask").max_objects == 2
