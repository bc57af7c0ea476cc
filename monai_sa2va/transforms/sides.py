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

"""Whether a phrase names a side of the body, so that a mirrored image would make it untrue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["names_side"]

# TotalSegmentator writes kidney_left, others kidneyLeft or LKidney: neither has a word's boundary before the side.
_JOINTS = re.compile(r"_|(?<=[a-zà-ÿ])(?=[A-Z])|(?<=\b[LR])(?=[A-Z][a-z])|(?<=_[LR])(?=[A-Z][a-z])")
# Word beginnings are chosen generously: a flip that is left out costs little, a wrong one teaches left for right.
_WORDS = re.compile(
    r"""\b(?:
        left\w* | right\w* | [lr](?!['’`]) | [lr]t | [lr]h                # English; l' is a French article
      | sx | dx | o[ds] | oculus                                          # what is written on films
      | sinist\w* | dextr\w* | dexter\w* | destr[aeio] | l(?:a)?evo\w*    # Latin, Italian
      | links\w* | rechts\w* | linke[mnrs]? | rechte[mnrs]?               # German, Dutch
      | vänst\w* | höger\w* | högra | venstre\w* | høyre\w* | højre\w*    # Swedish, Norwegian, Danish
      | gauches? | droite?s?                                              # French
      | izquierd[ao]s? | derech[ao]s? | izq | dcho | dcha                 # Spanish
      | esquerd[ao]s? | direit[ao]s?                                      # Portuguese
      | (?:lew|praw)(?:a|e|y|ą|ej|ego|emu|ym|ych|ymi)                     # Polish
      | (?:bal|jobb)(?:ra|ról|oldal\w*)?                                  # Hungarian
      | лев\w* | прав\w*                                                  # Russian
    )\b
    | [左右좌우] | 왼쪽 | 오른쪽""",
    re.IGNORECASE | re.VERBOSE,
)
# In lower case these are other words.
_LETTERS = re.compile(r"\b(?:[LR][AV]|LAA|LAD|LCA|LCX|RCA|[LR]PA|[LR]CCA|[LR]ICA|R[UML]L|L[UL]L)\b")


def names_side(phrases: Any) -> bool:
    """Whether any phrase names left or right.

    Whole words in English, Latin, German, Dutch, Swedish, Norwegian, Danish, French, Spanish, Portuguese, Italian,
    Polish, Hungarian, Russian, Chinese, Japanese and Korean, whatever their case; the abbreviations l, r, lt, rt, lh,
    rh, dx, sx, OD, OS, oculus; and, in capitals only, the heart's, lungs' and vessels' (LV, RA, LAD, RCA, RLL, ...).
    Words may be joined by ``_`` or by capitals: kidney_left, kidneyLeft, LKidney.

    Args:
        phrases: a phrase, or any nesting of sequences and of mappings whose values are phrases; ``None`` has none.
    """
    if phrases is None:
        return False
    if isinstance(phrases, str):
        words = _JOINTS.sub(" ", phrases)
        return bool(_WORDS.search(words) or _LETTERS.search(words))
    nested: Iterable[Any] = phrases.values() if isinstance(phrases, Mapping) else phrases
    return any(names_side(item) for item in nested)
