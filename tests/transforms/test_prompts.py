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
from monai_sa2va.transforms.chat import Unlearnt, UnlearntControl
from monai_sa2va.transforms.prompts import (
    AskAllD,
    AskAlld,
    AskAllDict,
    RandAskD,
    RandAskd,
    RandAskDict,
)
from monai_sa2va.transforms.sentences import CHAT_QUESTIONS, FREE_QUESTIONS, QUESTIONS, parse_phrases

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
            *(({"max_objects": n}, f"max_objects is {n!r}; a whole number of at least 1") for n in (0, 2.5, True, "3")),
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


class TestAbsent:
    """What is asked for though it is not there."""

    @pytest.fixture
    def entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Vessels and disc are there, the macula's mask is empty, two more are missing, two are foreign."""
        entry["gt_masks"][2:] = 0
        missing, foreign = [("lesion", "abnormality"), ("cyst",)], [("liver", "hepatic tissue"), ("spine",)]
        return {**entry, "missing": missing, "foreign": foreign}

    @staticmethod
    def _asked(result: dict[str, Any]) -> list[tuple[str, bool]]:
        """Each [SEG]'s name, and whether its mask has a pixel."""
        return [(name, bool(mask.any())) for name, mask in zip(result["names"], result["gt_masks"], strict=True)]

    def test_none_is_asked_for_by_default(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(max_objects=4)
        ask.set_random_state(0)
        for _ in range(20):
            assert sorted(self._asked(ask(entry))) == [("optic disc", True), ("vessels", True)]

    @pytest.mark.parametrize("joint", [0.0, 1.0])
    def test_its_answer_has_an_empty_mask_and_is_not_learnt(self, entry: dict[str, Any], joint: float) -> None:
        ask = RandAskd(absent_prob=0.5, chat_absent_prob=0.0, joint_prob=joint, named_prob=1.0)
        ask.set_random_state(1)
        seen = set()
        for _ in range(60):
            result = ask(entry)
            pieces = [piece for _, answer in result["turns"] for piece in answer]
            learnt = [not isinstance(p, UnlearntControl) for p in pieces if p == "[SEG]"]
            assert [there for _, there in self._asked(result)] == learnt
            assert [piece for piece in pieces if piece in result["phrases"]] == result["phrases"]
            assert len(result["turns"]) == (1 if joint else 2)
            for _, answer in result["turns"]:
                marked = [isinstance(piece, (Unlearnt, UnlearntControl)) for piece in answer]
                segs = [isinstance(piece, UnlearntControl) for piece in answer if piece == "[SEG]"]
                assert all(marked) == all(segs)
            seen |= set(self._asked(result))
        # both kinds, those with empty masks among the missing
        assert seen == {
            *((name, True) for name in ("vessels", "optic disc")),
            *((name, False) for name in ("macula", "lesion", "cyst", "liver", "spine")),
        }

    def test_shares(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(absent_prob=0.3, foreign_prob=0.25, chat_absent_prob=0.4)
        ask.set_random_state(2)
        results = [ask(entry) for _ in range(600)]
        segs = [item for result in results for item in self._asked(result)]
        chats = [answer[0] for result in results for _, answer in result["turns"] if len(answer) == 1]
        absent = [name for name, there in segs if not there]
        assert len(segs) + len(chats) == 1200
        assert (len(absent) + len(chats)) / 1200 == pytest.approx(0.3, abs=0.04)
        assert len(chats) / (len(absent) + len(chats)) == pytest.approx(0.4, abs=0.06)
        assert sum(name in ("liver", "spine") for name in absent) / len(absent) == pytest.approx(0.25, abs=0.08)

    def test_a_chat_says_so_without_seg(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(absent_prob=1.0, chat_absent_prob=1.0, joint_prob=1.0, foreign_prob=1.0)
        ask.set_random_state(3)
        answers, questions = set(), set()
        for _ in range(200):
            result = ask(entry)
            assert (len(result["gt_masks"]), result["names"], result["phrases"]) == (0, [], [])
            assert result["gt_masks"].shape == (0, 2, 2)
            assert len(result["turns"]) == 2
            for question, (answer,) in result["turns"]:
                assert type(answer) is str
                answers.add(answer)
                questions.add(question.replace(answer[len("There is no ") : -len(" in this image.")], "{}"))
        named = ("liver", "hepatic tissue", "spine")
        assert answers == {f"There is no {name} in this image." for name in named}
        assert questions == {*QUESTIONS, *FREE_QUESTIONS, *CHAT_QUESTIONS}

    def test_what_is_there_is_asked_for_in_the_same_ways(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(absent_prob=0.1, joint_prob=0.0)
        ask.set_random_state(4)
        asked = set()
        for _ in range(400):
            for question, answer in ask(entry)["turns"]:
                if not isinstance(answer[0], Unlearnt) and len(answer) > 1:
                    asked |= {question.replace(phrase, "{}") for phrase in ("vessels", "vasculature", "papilla")}
        assert set(CHAT_QUESTIONS) <= asked

    def test_an_image_that_shows_nothing(self, entry: dict[str, Any]) -> None:
        entry["gt_masks"][:] = 0
        for share in (0.0, 0.5):
            ask = RandAskd(absent_prob=share, chat_absent_prob=0.0)
            ask.set_random_state(5)
            for _ in range(10):
                ((_, there),) = self._asked(ask(entry))
                assert not there

    def test_too_few_negatives_leave_the_rest(self, entry: dict[str, Any]) -> None:
        ask = RandAskd(absent_prob=1.0, chat_absent_prob=0.0)
        ask.set_random_state(6)
        bare = {key: entry[key][:3] for key in ("gt_masks", "phrases", "names")}
        assert sorted(self._asked(ask(bare))) in (
            [("macula", False), ("optic disc", True)],
            [("macula", False), ("vessels", True)],
        )

    def test_tensors(self, entry: dict[str, Any]) -> None:
        entry["gt_masks"] = torch.from_numpy(entry["gt_masks"])
        ask = RandAskd(absent_prob=1.0, chat_absent_prob=0.5)
        ask.set_random_state(7)
        for _ in range(10):
            result = ask(entry)
            assert isinstance(result["gt_masks"], torch.Tensor)
            assert result["gt_masks"].shape == (_segs(result), 2, 2)
            assert result["gt_masks"].dtype == torch.uint8

    @pytest.mark.parametrize("key", ["absent_prob", "foreign_prob", "chat_absent_prob"])
    def test_bad_shares(self, key: str) -> None:
        with pytest.raises(ConfigError, match=f"{key} is 1.5; give a probability"):
            RandAskd(**{key: 1.5})


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
