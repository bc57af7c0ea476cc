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

"""Negation: prompts that say what not to segment, which no mask can answer."""

from __future__ import annotations

import re

from monai_sa2va.transforms.grammar import QUOTATION

__all__ = ["find_negation"]

_QUOTED = re.compile(QUOTATION)
_CONTRACTED = r"(?:do|does|did|is|are|was|were|has|have|had|ca|could|wo|would|should|must|need)n'?t"
_LEAVE_OUT = (
    r"(?:omit(?:s|ted|ting)?|ignor(?:e|es|ed|ing)|skip(?:s|ped|ping)?(?!\s+lesion)|avoid(?:s|ed|ing)?"
    r"|leav(?:e|es|ing)\s+(?:[^\s.;?!]+\s+){0,6}?(?:out|alone|aside))"
)
# The hyphen belongs to a word: "non-enhancing", "no-reflow zone".
_START, _END = r"(?<![\w'-])", r"(?![\w-])"
_SENTENCE = r"(?:^|(?<=[.;:!?]\s))"
_CLAUSE = rf"(?:{_SENTENCE}|(?<=,\s)|(?<=\bwhy\s))"

# Negations that leave what is named asked for: they are taken out before others are looked for.
_HARMLESS = re.compile(
    _START
    + rf"(?:{_CLAUSE}(?:is|are|was|were)\s+there\s+(?:no|not)"
    # "Isn't there a nodule?", "Can't you see the vessels?", "Why not segment the vessels?"
    + rf"|{_CLAUSE}{_CONTRACTED}\s+(?:there|it|this|that|these|those|the|an?|you|we|i|they|my|your)\b(?=[^.!]*\?)"
    + r"|why\s+not"
    # the speaker's own ignorance
    + r"|(?:i|we)\s+(?:cannot|(?:can|do|did|could)\s+not|(?:ca|do|did|could)n'?t)\s+(?:\w+\s+)?"
    + r"(?:see|find|know|tell|recogni[sz]e|locate|remember|identify|spot)"
    + r"|not\s+(?:sure|certain|only)|no\s+(?:idea|doubt|problem|hurry|rush)"
    + r"|whether\s+or\s+not|or\s+not(?=\s*(?:[,.;:?!]|$))"
    # two negations: "Don't forget the vessels.", "Without the vessels the report is not complete."
    + r"|(?:do\s+not|don'?t|never|without)\s+(?:forget|overlook|miss|omit|skip|ignor|leave\s+out)\w*"
    + rf"|{_SENTENCE}without\b[^.;:?!]*?\b(?:(?:is|are|was|were)\s+not|(?:is|are|was|were)n't)"
    # what is shut out is all but the named
    + r"|nothing\s+(?:else|but|more)|no\s+other(?:\s+than)?|none\s+but"
    + r"|(?:omit|ignor|skip|leav)\w*\s+(?:out\s+)?(?:the\s+(?:rest|others)|(?:all|everything|anything)\s+else)"
    + rf"){_END}",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    _START
    + rf"(?:{_CONTRACTED}|do\s+not|cannot|but\s+not|not|never|no|none|neither|nothing"
    + r"|except(?:ing)?|exclud(?:e|es|ed|ing)|without|w/o|(?:other|rather)\s+than|instead\s+of|(?:apart|aside)\s+from"
    + rf"|(?:all|every\w*|any\w*)\s+(?:[\w-]+\s+){{0,3}}but|{_LEAVE_OUT}"
    # German, French, Spanish and Portuguese, Italian; not "sin", in Latin short for the left side
    + r"|nicht|kein(?:e[nmrs]?)?|ohne|au(?:ß|ss)er|sans|sauf|ne\s+\w+\s+pas|n'\w+\s+pas|excepto|salvo|exceto|não"
    + rf"|senza|tranne|eccetto){_END}"
    # Chinese, Japanese, Thai, Korean
    + r"|不要|不用|请勿|除了|除去|以外|之外|除いて|ないで|ยกเว้น|อย่า|ไม่|제외|말고|하지\s?마",
    re.IGNORECASE,
)
_ALIKE = str.maketrans({"\u2019": "'", "\u2010": "-", "\u2011": "-"})


def find_negation(text: str) -> str | None:
    """The word by which a prompt says what not to segment.

    Words in quotation marks are a name and don't count, nor do parts of a hyphenated word, and some negations leave
    asked for what is named: "Is there no nodule?", "Don't forget the vessels.". In doubt a negation counts: to ask
    again costs less than a mask of what was to be left out.

    Args:
        text: the prompt, in English or one of the commonest other languages.

    Returns:
        E.g. ``"Do not"`` of "Do not segment the vessels."; ``None`` where nothing is negated.
    """
    body = " ".join(_QUOTED.sub(" , ", text).translate(_ALIKE).split())
    found = _NEGATION.search(_HARMLESS.sub(" , ", body))
    return found.group() if found else None
