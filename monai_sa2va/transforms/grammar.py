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

"""The grammar of prompts: names of structures in requests of a common form; everything else is left alone."""

from __future__ import annotations

import re

__all__ = ["QUOTATION", "find_names"]

_MAX_WORDS = 6
_QUANTITY = r"(?:only|just|all|both|every|each|any|some)"
_DETERMINER = rf"(?:{_QUANTITY}\s+)?(?:of\s+)?(?:(?:the|an?|this|these|those|any|my)\s+)?"
# what a sentence may ask for in a structure's place: "the mask of the liver" asks for the liver
_SHAPE = (
    r"(?:(?:segmentation|binary|exact)\s+)?(?:segmentation|masks?|contours?|outlines?|borders?|boundar(?:y|ies)"
    r"|delineation|location|position|extent|pixels|area|region)(?:\s+(?:mask|map))?\s+(?:of|for|around)\s+(?!interest\b)"
)
_VERB = (
    r"(?:(?:segment(?!\s+(?:[ivx]+|\d+\w?)\b)|outline|delineate|contour|highlight|mark|locate|locali[sz]e|find|detect"
    r"|identify|extract|trace|draw|annotate|label|mask|isolate|indicate|circle|colou?r|return|create|generate|produce"
    r"|provide|make|show|give|get|see|have)(?:\s+(?:out|me))?|(?:point|pick)\s+out)"
)
_MODAL = (
    r"(?:(?:can|could|would|will)\s+you\s+|(?:i|we)(?:\s+(?:want|need|would\s+like)|'d\s+like)\s+(?:you\s+)?(?:to\s+)?"
    r"|try\s+to\s+|help\s+me\s+(?:to\s+)?|let's\s+)"
)
_POLITE = r"(?:(?:please|kindly|now|hi|hello|hey|ok|okay)[\s,]+)*"
_LEAD = re.compile(
    rf"(?:{_POLITE}(?:{_MODAL}{_POLITE})?{_VERB}\s+(?:where\s+)?(?:(?:an?|the)\s+)?(?:{_SHAPE})?"
    rf"|{_POLITE}{_MODAL}(?:an?|the)\s+{_SHAPE}"
    r"|where\s+(?:is|are)\s+"
    # "What are the vessels?" asks for words, "Which pixels are vessels?" and "What belongs to the vessels?" for a mask
    r"|(?:which|what)\s+(?:pixels?|area|region|part)\s+(?:is|are|shows?|makes?\s+up)\s+"
    r"|(?:which|what)\s+(?:(?:pixels?|area|region|part)\s+)?belongs?\s+to\s+"
    rf"|(?:an?\s+|the\s+)?{_SHAPE}"
    rf"){_DETERMINER}",
    re.IGNORECASE,
)
_BARE = re.compile(_POLITE + _DETERMINER, re.IGNORECASE)

_PICTURE = r"(?:image|picture|photo(?:graph)?|scan|slice|volume|frame|view|ct|mri?|x-?ray|radiograph|ultrasound)s?"
_VIEW = (
    r"(?:(?:abdominal|thoracic|chest|head|brain|cardiac|pelvic|spinal|knee|breast|fundus|retinal|colou?r|axial|coronal"
    r"|sagittal|ultrasound|medical|given|attached|following|current|2d|3d|ct|mri?)\s+)"
)
_TAIL = re.compile(
    r"(?:[\s,]+(?:please|here|now|for\s+me|if\s+possible|thanks|thank\s+you|and\s+(?:segment|outline|mark)\s+(?:it|them)"
    r"|(?:is|are)(?:\s+(?:located|visible|seen))?|located"
    rf"|(?:in|on|of|from|within)\s+(?:(?:this|the|that|an?|my)\s+{_VIEW}{{0,2}}|{_VIEW}{{1,2}}){_PICTURE}))+$",
    re.IGNORECASE,
)
_AND = re.compile(
    r"\s*(?:[,;]\s*and\b|[,;\u3001\uff0c]|\s&\s|\band\b|\bas\s+well\s+as\b|\b(?:along|together)\s+with\b)\s*",
    re.IGNORECASE,
)
# Names that hold an "and"; any other can be put in quotation marks.
_COMPOUND = r"\bhead\s+and\s+neck\b|\bskin\s+and\s+subcutaneous\b"
QUOTATION = (
    '"[^"]+"|\u201c[^\u201d]+\u201d|\u201e[^\u201c\u201d]+[\u201c\u201d]|\u00ab[^\u00bb]+\u00bb|\u300c[^\u300d]+\u300d'
    "|\u2018[^\u2019]+\u2019"
    r"|(?<!\w)'[^']+'(?!\w)"
)
"""Pattern of a text in quotation marks, which is a name as it stands."""

_WHOLE = re.compile(f"{QUOTATION}|{_COMPOUND}", re.IGNORECASE)
_QUOTES = " \"'\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb\u300c\u300d"
# Of Unicode's private use: a text that holds one of them already isn't read.
_PLACEHOLDER = 0xE000
_PRIVATE = re.compile("[\ue000-\uf8ff]")

_MODIFIER = (
    r"(?:left|right|upper|lower|middle|inner|outer|anterior|posterior|superior|inferior|medial|lateral|proximal|distal"
    r"|dorsal|ventral|central|peripheral|internal|external|ascending|descending|gr[ae]y|white|first|second|third)"
)
_MODIFIERS = re.compile(rf"{_MODIFIER}(?:\s+{_MODIFIER})*", re.IGNORECASE)
_PREPOSITION = re.compile(r"\b(?:of|in|on|from|within|around|near|between|behind|under|above|below)\b", re.IGNORECASE)

# What no name of a structure has: other tasks, clauses, pronouns, negations, greetings, ends of sentences; and requests
# in the commonest other languages, whose articles follow a verb.
_NO_NAME = re.compile(
    r"(?<![\w'])(?:is|are|was|were|do|does|did|has|have|should|if|when|where|why|how|what|which|who|whose|that|because"
    r"|then|or|not|no|\w+n['\u2019]t|cannot|never|except|without|but|it|its|them|they|their|this|these|those|me|you|he|she|we|there|all|both|each"
    r"|everything|anything|something|nothing|describe|count|tell|explain|report|measure|compare|compute|calculate"
    r"|summari[sz]e|diagnose|classify|segment(?!\s+(?:[ivx]+|\d+\w?)\b)|hello|hi|hey|thanks|yes|please|image|picture"
    r"|photo|die|das|den|bitte|le|(?<!de\s)la|les|el|los|las|il|gli)(?![\w'])"
    r"|\u8bf7|\u5206\u5272|\u6807\u51fa|\u6807\u8bb0|\u6807\u6ce8|\u627e\u51fa|\u627e\u5230|\u663e\u793a|\u52fe\u753b"
    # requests in scripts that part no words, and in Korean
    "|把|提取|画出|描出|圈出|在哪|哪里|帮我|什么|を|ください|下さい|して|どこ"
    "|แบ่งส่วน|แสดง|โปรด|กรุณา|ช่วย|ที่ไหน|ตรงไหน|주세요|해\\s?줘|하세요|하시오|어디"
    r"|^(?:the|an?)$|\w{2}\.\s|[?!\u3002\uff1f\uff01]",
    re.IGNORECASE,
)
# abbreviations have fewer letters
_LONG_WORD = re.compile(r"[^\W\d_]{5}")


def find_names(text: str) -> list[str] | None:
    """Names of the structures that a request asks for.

    Two forms are read: a request in English ("Could you outline the left and right kidney in this scan?"), and bare
    names of any language ("optic disc, macula"). Names are kept as they are written, except that words which are
    shouted ("VESSELS!") become small; a name in quotation marks is kept whole. Whatever may mean something else is
    left alone.

    Args:
        text: a request, not empty.

    Returns:
        The names in their order, or ``None`` when the text isn't surely of these forms.
    """
    if _PRIVATE.search(text):
        return None
    body = " ".join(text.split())
    asks = body.endswith(("?", "\uff1f"))
    wholes: list[str] = []

    def hide(match: re.Match[str]) -> str:
        wholes.append(match.group().strip(_QUOTES))
        return chr(_PLACEHOLDER + len(wholes) - 1)

    body = _WHOLE.sub(hide, body).rstrip(".?! \u3002\uff1f\uff01")
    lead = _LEAD.match(body)
    if lead is None and asks:
        return None
    parts = _AND.split(_TAIL.sub("", body[lead.end() :] if lead else body))
    names = [part[_start(part) :].strip(_QUOTES) for part in parts]
    if any(_PREPOSITION.search(name) for name in names[:-1]):
        return None  # "vessels of the left eye and the right": which words belong to both is anyone's guess
    found = _share_noun(names)
    if found is None or any(not name or _NO_NAME.search(name) or len(name.split()) > _MAX_WORDS for name in found):
        return None
    return [_restore(_unshout(name), wholes) for name in found]


def _start(part: str) -> int:
    """Where the name begins in a part of an enumeration: behind its own verb or article."""
    match = _LEAD.match(part) or _BARE.match(part)
    return match.end() if match else 0


def _share_noun(names: list[str]) -> list[str] | None:
    """Give a lone modifier the noun of the next name: left and right kidney -> left kidney, right kidney."""
    found: list[str] = []
    noun = ""
    for name in reversed(names):
        modifier = _MODIFIERS.match(name)
        if modifier and modifier.end() == len(name):
            if not noun:
                return None
            name = f"{name} {noun}"
        else:
            noun = name[modifier.end() :].strip() if modifier else ""
        found.insert(0, name)
    return found


def _unshout(name: str) -> str:
    return name.lower() if name.isupper() and _LONG_WORD.search(name) else name


def _restore(name: str, wholes: list[str]) -> str:
    return "".join(wholes[ord(c) - _PLACEHOLDER] if 0 <= ord(c) - _PLACEHOLDER < len(wholes) else c for c in name)
