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

"""Sentences: the ways to ask for a structure, to answer, and to find its name in a user's prompt."""

from __future__ import annotations

from collections.abc import Sequence

from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.chat import Control, Segments, Unlearnt, UnlearntControl
from monai_sa2va.transforms.grammar import find_names
from monai_sa2va.transforms.negation import find_negation

__all__ = [
    "ABSENT_ANSWER",
    "ANSWERS",
    "CHAT_QUESTIONS",
    "FREE_QUESTIONS",
    "MAX_PROMPT_LENGTH",
    "QUESTIONS",
    "answer_segments",
    "check_prompt",
    "join_phrases",
    "parse_phrases",
    "shorten",
]

MAX_PROMPT_LENGTH = 2000
"""Longest prompt, in characters."""

QUESTIONS: tuple[str, ...] = (
    "Segment the {}.",
    "Please segment the {}.",
    "Segment the {} in this image.",
    "Please segment the {} in this image.",
    "Can you segment the {} in this image?",
    "Could you outline the {}?",
    "Outline the {}.",
    "Show me the {}.",
    "Where is the {}?",
    "Find the {} in this picture.",
    "Mark the {} please.",
    "Highlight the {} in the scan.",
    "Delineate the {}.",
    "I need a mask of the {}.",
    "{}",
    "What belongs to the {} here?",
    "Draw the contour of the {}.",
    "Locate the {} and segment it.",
    "Give me the segmentation of the {}.",
    "Which pixels are {}?",
)
"""Ways to ask whose form :func:`parse_phrases` knows; ``{}`` is the phrase."""

FREE_QUESTIONS: tuple[str, ...] = (
    "We have to look at the {} first.",
    "Is the {} visible? Segment it.",
    "My patient's {} should be coloured.",
    "Here you see the {}, I think. Trace it for me.",
    "Paint every pixel of the {}.",
    "What about the {}?",
    "In this picture I want to measure the {}.",
    "Cut out the {} for the report.",
    "The {} is what I am looking for.",
    "Last week we talked about the {}. Draw it now.",
    "After this one I would like to take the {}.",
    "Only the {} matters to me today.",
    "How large is the {}? Show its area.",
    "Someone wants to know where the {} begins and ends.",
    "Make the {} stand out from the rest.",
    "Before anything else, separate the {} from its surroundings.",
    "In our study the {} is needed as a mask.",
    "Say which region is the {}.",
    "If you can see the {}, fill it with colour.",
    "This image should show the {}; contour it for us.",
    "Good morning. Today it is the {} that counts. Thank you.",
    "The doctor would like a {} drawn in before noon.",
    "It is the {} again that we are after.",
    "Without the {} the report is not complete, so add it.",
)
"""Ways to ask in which the language model has to find the phrase; training on them teaches it to."""

CHAT_QUESTIONS: tuple[str, ...] = (
    "Is there a {} in this image? If so, segment it.",
    "Do you see a {} here? Segment it.",
    "Can you find the {} and segment it?",
    "Does this image show the {}? Please outline it.",
    "Look for the {}. If it is there, mark it.",
    "Please check for a {} and draw it.",
)
"""Ways in which a chat asks, where the answer may be that it is not there."""

ABSENT_ANSWER = "There is no {} in this image."
"""What a chat answers where the phrase ``{}`` is not there; it holds no [SEG]."""

ANSWERS: tuple[str, ...] = (
    "Sure, {}.",
    "It is {}.",
    "Sure, it is {}.",
    "Sure, the segmentation result is {}.",
    "{}.",
)
"""The official forms of an answer; ``{}`` stands for the objects."""


def check_prompt(text: str) -> str:
    """Return a prompt with its white space trimmed.

    Raises:
        PromptError: when it is no text, empty, longer than :data:`MAX_PROMPT_LENGTH` characters, or says what not to
            segment (see :func:`~monai_sa2va.transforms.negation.find_negation`): only what is asked for has a mask.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError("the prompt is empty; write what to segment, e.g. 'Segment the vessels.'")
    if len(text) > MAX_PROMPT_LENGTH:
        raise PromptError(f"the prompt has {len(text)} characters; at most {MAX_PROMPT_LENGTH} are taken")
    negation = find_negation(text)
    if negation is not None:
        raise PromptError(
            f"the prompt {shorten(text)!r} says by {negation!r} what not to segment; name what to segment instead, "
            "e.g. 'Segment the vessels.', or put a name that holds such a word in quotation marks"
        )
    return text.strip()


def shorten(text: str) -> str:
    """The beginning of a prompt, at most 60 characters, for a message."""
    text = text.strip()
    return text if len(text) <= 60 else text[:57] + "..."


def parse_phrases(text: str) -> list[str] | None:
    """Names of the structures in a sentence of a common form.

    Args:
        text: e.g. ``"Please segment the vessels and the optic disc in this image."`` or a bare ``"optic disc"``.

    Returns:
        E.g. ``["vessels", "optic disc"]``, or ``None`` when the sentence has another form and has to be read by the
        language model.
    """
    return find_names(check_prompt(text))


def join_phrases(phrases: Sequence[str]) -> str:
    """Phrases as running text: ``"a"``, ``"a and b"``, ``"a, b and c"``."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]])) if phrases else ""


def answer_segments(
    phrases: Sequence[str], form: str = ANSWERS[0], named: bool = True, absent: Sequence[bool] | None = None
) -> list[str]:
    """An answer with one [SEG] an object.

    Args:
        phrases: the objects; a user's text, which never becomes a control token.
        form: one of :data:`ANSWERS`.
        named: whether each [SEG] stands behind its phrase: ``<p>vessels</p> [SEG]``.
        absent: for each object whether it is not in the image: its phrase and its [SEG] are then not learnt, nor is
            any of the answer where all are; by default none is.

    Returns:
        Pieces for :func:`~monai_sa2va.transforms.chat.encode`.
    """
    missing = [False] * len(phrases) if absent is None else list(absent)
    before, after = form.split("{}")
    pieces: list[str] = [before]
    for number, phrase in enumerate(phrases):
        if number:
            pieces.append(" and " if number == len(phrases) - 1 else ", ")
        told: list[str] = [Control("<p>"), phrase, Control("</p>"), " "] if named else []
        told.append(Control("[SEG]"))
        pieces += _unlearnt(told) if missing[number] else told
    result: Segments = [*pieces, after]
    return _unlearnt(result) if missing and all(missing) else list(result)


def _unlearnt(pieces: Segments) -> list[str]:
    return [UnlearntControl(piece) if isinstance(piece, Control) else Unlearnt(piece) for piece in pieces]
