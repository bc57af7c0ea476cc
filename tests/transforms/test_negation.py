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

"""Prompts that say what not to segment are told from those that only look so."""

from __future__ import annotations

import time

import pytest

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.negation import find_negation
from monai_sa2va.transforms.sentences import (
    FREE_QUESTIONS,
    MAX_PROMPT_LENGTH,
    QUESTIONS,
    check_prompt,
    parse_phrases,
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Do not segment the vessels.", "Do not"),
        ("Don't segment the vessels.", "Don't"),
        ("DON\u2019T outline the vessels", "DON'T"),
        ("dont segment the vessels", "dont"),
        ("You mustn't mark the vessels", "mustn't"),
        ("Never outline the vessels.", "Never"),
        ("Segment everything except the vessels.", "except"),
        ("Segment the image without the vessels.", "without"),
        ("Without the vessels, segment the eye.", "Without"),
        ("Segment the organs other than the liver", "other than"),
        ("Segment the organs, excluding the liver", "excluding"),
        ("All but the vessels", "All but"),
        ("everything in it but the vessels", "everything in it but"),
        ("Segment the disc but not the cup", "but not"),
        ("Segment the disc, not the cup", "not"),
        ("no vessels", "no"),
        ("Segment none of the vessels", "none"),
        ("Segment neither the disc nor the cup", "neither"),
        ("Can you not segment the vessels?", "not"),
        ("Could you segment everything except the vessels?", "except"),
        ("Can't you leave the vessels out?", "leave the vessels out"),
        ("What isn't the vessels?", "isn't"),
        ("Apart from the vessels, what is there?", "Apart from"),
        ("Segment the disc instead of the cup.", "instead of"),
        ("Ignore the vessels and segment the disc", "Ignore"),
        ("Skip the vessels.", "Skip"),
        ("Segment the image without the vessels, it is not needed.", "without"),
        ("I can't see the vessels, so do not segment them.", "do not"),
        ('Segment everything except the "optic disc".', "except"),
        ("Segmentiere nicht die Gefäße", "nicht"),
        ("Alles außer den Gefäßen", "außer"),
        ("Ne segmente pas les vaisseaux", "Ne segmente pas"),
        ("Segmenta todo excepto los vasos", "excepto"),
        ("Tutto tranne i vasi", "tranne"),
        ("请不要分割血管", "不要"),
        ("血管以外を描いて", "以外"),
        ("อย่าแบ่งส่วนหลอดเลือด", "อย่า"),
        ("혈관을 제외하고", "제외"),
    ],
)
def test_what_is_shut_out_is_no_request(text: str, word: str) -> None:
    assert find_negation(text) == word
    for check in (check_prompt, parse_phrases):
        with pytest.raises(PromptError, match=r"what not to segment; name what to segment instead, e\.g\. ") as caught:
            check(text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Segment the non-enhancing tumour.",
        "Segment the lymph node and the nodule",
        "the no-reflow zone",
        "nodes, notch, nostrils, Neverland's canal",
        "skip lesions",
        "A. carotis interna sin.",
        "无名动脉",
        'Segment the "liver without tumour".',
        "the \u201cvessels not yet seen\u201d",
        "„Leber ohne Tumor“",
        # questions
        "Is there no lesion?",
        "Isn't there a lesion? Segment it.",
        "Why don't you segment the vessels?",
        "Can\u2019t you see the vessels?",
        "Why not segment the vessels?",
        # the speaker's own ignorance
        "I can't find the vessels; show me them.",
        "I do not know where the vessels are.",
        "I'm not sure where the vessels run. Trace them.",
        "Say whether a lesion is there or not.",
        # two negations
        "Don't forget the vessels.",
        "Segment the vessels without missing a branch",
        "Without the vessels the report isn't complete, so add it.",
        # all but the named is shut out
        "Segment nothing but the vessels",
        "Segment the vessels, nothing else.",
        "Segment the vessels and ignore the rest",
        "Only the vessels and no other structure",
        "I know that you are busy, but segment the vessels",
    ],
)
def test_negations_that_leave_the_named_asked_for(text: str) -> None:
    assert find_negation(text) is None
    assert check_prompt(text) == text


@pytest.mark.parametrize("question", [*QUESTIONS, *FREE_QUESTIONS])
def test_every_trained_question_is_taken(question: str) -> None:
    for phrases in SYNONYMS.values():
        for phrase in phrases:
            assert find_negation(question.format(phrase)) is None


def test_the_message_is_short_and_says_which_word() -> None:
    with pytest.raises(PromptError) as caught:
        check_prompt("Please do\nnot segment " + "the vessels and " * 20)
    assert str(caught.value) == (
        "[PROMPT] the prompt 'Please do\\nnot segment the vessels and the vessels and the...' says by 'do not' what "
        "not to segment; name what to segment instead, e.g. 'Segment the vessels.', or put a name that holds such a "
        "word in quotation marks"
    )


@pytest.mark.parametrize("piece", ["without ", "leave ", "all a ", "is there ", "i can ", '"', "don't ", "every"])
def test_long_prompts_take_no_time(piece: str) -> None:
    text = (piece * MAX_PROMPT_LENGTH)[:MAX_PROMPT_LENGTH]
    start = time.perf_counter()
    find_negation(text)
    assert time.perf_counter() - start < 2
