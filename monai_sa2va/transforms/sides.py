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

# Word beginnings are chosen generously: a flip that is left out costs little, a wrong one teaches left for right.
_WORDS = re.compile(
    r"""\b(?:
        left\w* | right\w* | [lr]t | [lr](?=\.) | sx | dx | o[ds]         # English, and what is written on films
      | sinist\w* | dextr\w* | dexter\w* | destr[aeio] | l(?:a)?evo\w*    # Latin, Italian
      | links\w* | rechts\w* | linke[mnrs]? | rechte[mnrs]?               # German, Dutch
      | gauches? | droite?s?                                              # French
      | izquierd[ao]s? | derech[ao]s? | izq | dcho | dcha                 # Spanish
      | esquerd[ao]s? | direit[ao]s?                                      # Portuguese
      | лев\w* | прав\w*                                                  # Russian
    )\b
    | [左右좌우] | 왼쪽 | 오른쪽""",
    re.IGNORECASE | re.VERBOSE,
)
# In lower case these are articles and other words; l' is one even in upper case.
_LETTERS = re.compile(r"\b(?:[LR](?!['’])|[LR][AV]|LAA|LAD|LCA|LCX|RCA|[LR]PA|[LR]CCA|[LR]ICA|R[UML]L|L[UL]L)\b")


def names_side(phrases: Any) -> bool:
    """Whether any phrase names left or right.

    Whole words in English, Latin, German, Dutch, French, Spanish, Portuguese, Italian, Russian, Chinese, Japanese and
    Korean, whatever their case; the abbreviations l., r., lt, rt, dx, sx, OD, OS; and, in capitals only, L, R, and the
    heart's, lungs' and vessels' (LV, RA, LAD, RCA, RLL, ...).

    Args:
        phrases: a phrase, or any nesting of sequences and of mappings whose values are phrases; ``None`` has none.
    """
    if phrases is None:
        return False
    if isinstance(phrases, str):
        return bool(_WORDS.search(phrases) or _LETTERS.search(phrases))
    nested: Iterable[Any] = phrases.values() if isinstance(phrases, Mapping) else phrases
    return any(names_side(item) for item in nested)
