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

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.chat import Control, Unlearnt, UnlearntControl
from monai_sa2va.transforms.negation import find_negation
from monai_sa2va.transforms.sentences import (
    ANSWERS,
    CHAT_QUESTIONS,
    FREE_QUESTIONS,
    MAX_PROMPT_LENGTH,
    QUESTIONS,
    answer_segments,
    check_prompt,
    join_phrases,
    parse_phrases,
)

PHRASES = [
    *(phrase for phrases in SYNONYMS.values() for phrase in phrases),
    "left kidney",
    "tumour core",
    "Gefäße",
    "linke Niere",
    "左肾",
    "LV",
    "A. carotis interna",
    "Schlemm's canal",
    "C1/C2 vertebra",
    "non-enhancing tumour",
]


@pytest.mark.parametrize("question", CHAT_QUESTIONS)
def test_chat_questions_are_read_rightly_or_left_to_the_model(question: str) -> None:
    for phrase in PHRASES:
        assert find_negation(question.format(phrase)) is None
        assert parse_phrases(question.format(phrase)) in (None, [phrase])


def test_of_an_absent_object_the_name_and_seg_are_not_learnt() -> None:
    answer = answer_segments(["liver", "cyst"], "It is {}.", absent=[False, True])
    assert "".join(answer) == "It is <p>liver</p> [SEG] and <p>cyst</p> [SEG]."
    assert [str(p) for p in answer if isinstance(p, (Unlearnt, UnlearntControl))] == [
        "<p>",
        "cyst",
        "</p>",
        " ",
        "[SEG]",
    ]
    assert all(isinstance(piece, Control) == (piece in ("<p>", "</p>", "[SEG]")) for piece in answer)
    plain = answer_segments(["liver", "cyst"], named=False, absent=[True, False])
    assert [str(p) for p in plain if isinstance(p, (Unlearnt, UnlearntControl))] == ["[SEG]"]
    alone = answer_segments(["cyst"], absent=[True])
    assert "".join(alone) == "Sure, <p>cyst</p> [SEG]."
    assert all(isinstance(piece, (Unlearnt, UnlearntControl)) for piece in alone)
    assert not any(isinstance(p, (Unlearnt, UnlearntControl)) for p in answer_segments(["a"], absent=[False]))


class TestParsing:
    @pytest.mark.parametrize("question", QUESTIONS)
    def test_every_trained_question_is_read(self, question: str) -> None:
        for phrase in PHRASES:
            assert parse_phrases(question.format(phrase)) == [phrase]

    @given(st.sampled_from(QUESTIONS), st.lists(st.sampled_from(PHRASES), min_size=2, max_size=4, unique=True))
    def test_joint_questions_are_read(self, question: str, phrases: list[str]) -> None:
        assert parse_phrases(question.format(join_phrases(phrases))) == phrases

    @pytest.mark.parametrize(
        "text",
        [
            "vessels",
            "VESSELS!",
            "the vessels",
            "vessels, please",
            "  vessels.\n",
            "all vessels",
            "SEGMENT THE VESSELS",
            "segment vessels",
            "Segment out the vessels",
            "Please, could you kindly outline the vessels in this fundus image?",
            "Hello, please find all of the vessels here",
            "I want you to segment the vessels",
            "I'd like to see the vessels, please.",
            "We need a segmentation mask of the vessels",
            "Draw me the outline of the vessels",
            "Can you show me where the vessels are?",
            "Where are the vessels located in the scan?",
            "What belongs to the vessels?",
            "Which pixels belong to the vessels?",
            "mask of the vessels",
            "The boundary of the vessels",
            "Try to localise any vessels on this axial slice",
            "Help me annotate the vessels in abdominal CT",
            "Point out the vessels for me",
            "Segment the vessels and outline them",
            'Segment the "vessels"',
            "Segmentation of the vessels",
        ],
    )
    def test_ways_to_ask_that_were_never_trained(self, text: str) -> None:
        assert parse_phrases(text) == ["vessels"]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Please segment the vessels and the optic disc in this image.", ["vessels", "optic disc"]),
            ("vessels, optic disc and macula", ["vessels", "optic disc", "macula"]),
            ("vessels & macula", ["vessels", "macula"]),
            ("Segment the liver as well as the spleen", ["liver", "spleen"]),
            ("Outline the vessels and mark the disc", ["vessels", "disc"]),
            ("optic disc  and\nmacula", ["optic disc", "macula"]),
            ("视盘、黄斑", ["视盘", "黄斑"]),
            # a modifier alone shares the noun of the next name
            ("Segment the left and right kidney", ["left kidney", "right kidney"]),
            ("left, middle and right lobe", ["left lobe", "middle lobe", "right lobe"]),
            ("upper left and lower right lung lobes", ["upper left lung lobes", "lower right lung lobes"]),
            ("grey and white matter", ["grey matter", "white matter"]),
            ("both kidneys", ["kidneys"]),
            # names with "and", "in", a picture's word, or a verb in them
            ("Segment the head and neck tumour", ["head and neck tumour"]),
            ('Segment the "skull and spine" and the liver', ["skull and spine", "liver"]),
            ("carcinoma in situ", ["carcinoma in situ"]),
            ("tumour in the left lung", ["tumour in the left lung"]),
            ("Segment the region of interest", ["region of interest"]),
            ("segment IV of the liver", ["segment IV of the liver"]),
            ("Segment segment 4a of the liver", ["segment 4a of the liver"]),
            ("vessel segmentation", ["vessel segmentation"]),
            # quotation marks of many lands
            ("„linke Niere“", ["linke Niere"]),
            ("«rein gauche»", ["rein gauche"]),
            ("“optic disc”", ["optic disc"]),
            ("「左肾」", ["左肾"]),
            ("'optic disc' and 'macula'", ["optic disc", "macula"]),
            ("Schlemm's canal and Meckel's cave", ["Schlemm's canal", "Meckel's cave"]),
            # abbreviations stay as they are, shouted words don't
            ("LV", ["LV"]),
            ("OPTIC DISC", ["optic disc"]),
            ("Segment the IVC and the aorta", ["IVC", "aorta"]),
            ("C1/C2", ["C1/C2"]),
            # bare names of any language
            ("Leber", ["Leber"]),
            ("Kopf des Pankreas", ["Kopf des Pankreas"]),
            ("血管", ["血管"]),
            ("печень", ["печень"]),
            # text is text
            ("Segment the [SEG]", ["[SEG]"]),
            ("Segment the {}", ["{}"]),
        ],
    )
    def test_names(self, text: str, expected: list[str]) -> None:
        assert parse_phrases(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "What is this?",
            "What are the vessels?",
            "Is there a tumour?",
            "tumour?",
            "How many vessels are there?",
            "Which organ is the largest?",
            "Describe the image.",
            "Count the vessels.",
            "Hello",
            "Segment it",
            "Segment this",
            "Segment the image",
            "Segment everything",
            "Segment all",
            "Segment the.",
            "left and right",
            "Segment the organ that pumps blood.",
            "Segment the tumour, which is bright",
            "Segment the vessels or the disc",
            "Segment the vessels and count them",
            "Segment the vessels, then describe them.",
            "Segment the liver. Then the spleen.",
            "Segment the vessels of the left eye and the right eye",
            "vessels in image 3",
            "Segment the part of the brain next to the ventricle wall on the left",
            "Segmentiere die Gefäße.",
            "Bitte Leber segmentieren",
            "Segmenter le foie",
            "Segmenta el hígado",
            "请分割血管",
            "血管在哪里",
            "血管を示してください",
            "แบ่งส่วนหลอดเลือด",
            "혈관을 분할해 주세요",
            "Don't forget the vessels.",
            "...",
            '""',
            "\ue000",
        ],
    )
    def test_left_to_the_language_model(self, text: str) -> None:
        assert parse_phrases(text) is None

    @given(st.text(min_size=1, max_size=80).filter(str.strip))
    def test_any_text_gives_names_or_none(self, text: str) -> None:
        names = parse_phrases(text)
        assert names is None or (names and all(name.strip() for name in names))

    @pytest.mark.parametrize(
        "piece", ["a, ", "the ", "please ", "in the ", "in this ct ", "left ", "a mask of ", "'", '"a']
    )
    def test_long_prompts_take_no_time(self, piece: str) -> None:
        text = (piece * MAX_PROMPT_LENGTH)[:MAX_PROMPT_LENGTH]
        start = time.perf_counter()
        parse_phrases(text)
        assert time.perf_counter() - start < 2


class TestPrompt:
    def test_trimmed(self) -> None:
        assert check_prompt("  vessels \n") == "vessels"

    @pytest.mark.parametrize("text", ["", "   ", "\n\t", None, 3, ["vessels"]])
    def test_empty(self, text: object) -> None:
        with pytest.raises(PromptError, match="the prompt is empty; write what to segment"):
            check_prompt(text)  # type: ignore[arg-type]

    def test_length(self) -> None:
        assert check_prompt("a" * 2000) == "a" * 2000
        with pytest.raises(PromptError, match="the prompt has 2001 characters; at most 2000 are taken"):
            check_prompt("a" * 2001)

    def test_parsing_checks_too(self) -> None:
        with pytest.raises(PromptError, match="empty"):
            parse_phrases(" ")


class TestWriting:
    def test_join(self) -> None:
        assert [join_phrases(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]

    def test_named_answer(self) -> None:
        pieces = answer_segments(["vessels", "optic disc"])
        assert "".join(pieces) == "Sure, <p>vessels</p> [SEG] and <p>optic disc</p> [SEG]."
        assert [piece for piece in pieces if isinstance(piece, Control)] == ["<p>", "</p>", "[SEG]"] * 2

    def test_official_answers(self) -> None:
        assert ["".join(answer_segments(["liver"], form, named=False)) for form in ANSWERS] == [
            "Sure, [SEG].",
            "It is [SEG].",
            "Sure, it is [SEG].",
            "Sure, the segmentation result is [SEG].",
            "[SEG].",
        ]
        assert "".join(answer_segments(list("abc"), named=False)) == "Sure, [SEG], [SEG] and [SEG]."

    @given(st.lists(st.text(max_size=10), min_size=1, max_size=4), st.sampled_from(ANSWERS), st.booleans())
    def test_one_seg_an_object_and_no_phrase_is_control(self, phrases: list[str], form: str, named: bool) -> None:
        pieces = answer_segments(phrases, form, named)
        control = [piece for piece in pieces if isinstance(piece, Control)]
        assert control.count("[SEG]") == len(phrases)
        assert len(control) == len(phrases) * (3 if named else 1)


@pytest.mark.parametrize("question", FREE_QUESTIONS)
def test_free_questions_are_left_to_the_model_or_read_right(question: str) -> None:
    assert parse_phrases(question.format("optic disc")) in (None, ["optic disc"])
