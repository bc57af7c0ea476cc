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

"""What a client may set for a request, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monai_sa2va.errors import PromptError, Sa2VAError
from monai_sa2va.transforms.intensity import WINDOWS
from monai_sa2va.transforms.sentences import check_prompt

__all__ = [
    "CLICK_OPTIONS",
    "TEXT_OPTIONS",
    "RequestError",
    "choice",
    "flag",
    "merge",
    "reach_of",
    "sentence",
    "share",
    "usual_reach",
    "whole_number",
    "window_of",
]

_STORED = "as in training"

TEXT_OPTIONS: dict[str, Any] = {
    "text": "Segment the vessels.",
    "mode": ["volume", "slice"],
    "slice": -1,
    "window": [_STORED, "percentile", *WINDOWS],
    "answer": False,
}
"""Options of ``sa2va_text`` as the stock clients show them: text is typed, lists are chosen from, their first entry
being the default. ``slice`` counts as the source's third axis does, -1 being the middle one."""

CLICK_OPTIONS: dict[str, Any] = {
    "text": "",
    "mode": ["volume", "slice"],
    "window": [_STORED, "percentile", *WINDOWS],
    "agreement": 0.9,
    "reach": -1,
}
"""Options of ``sa2va_click``. The last two count where clicks correct a sentence's masks of a volume: the overlap (IoU)
with the sentence's own mask from which on a slice is left as it is, and how many slices a correction goes at most, each
way, -1 being :func:`usual_reach`."""

_YES = {"true": True, "false": False, "1": True, "0": False}


class RequestError(Sa2VAError, ValueError):
    """A field of a request that can't be used."""

    code = "REQUEST"


def merge(options: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """A request with the default of each option that it leaves out.

    Args:
        options: as :data:`TEXT_OPTIONS`.
        request: of a client. An option that nobody edited arrives as the whole list from OHIF, as its first entry from
            3D Slicer.
    """
    merged = {**options, **request}
    for key, default in options.items():
        if isinstance(default, list) and merged[key] == default:
            merged[key] = default[0]
    return merged


def choice(request: Mapping[str, Any], key: str, options: Mapping[str, Any]) -> str:
    """One of an option's entries.

    Raises:
        RequestError: when it is none of them.
    """
    value = request[key]
    if value not in options[key]:
        raise RequestError(f"{key} is {_shown(value)}; choose one of: {', '.join(options[key])}")
    return str(value)


def window_of(request: Mapping[str, Any], options: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The window that a request asks for, as :func:`~monai_sa2va.transforms.intensity.as_window` takes it.

    Returns:
        ``None`` for that of the checkpoint's training.

    Raises:
        RequestError: when there is none of that name.
    """
    name = choice(request, "window", options)
    return None if name == _STORED else name


def flag(request: Mapping[str, Any], key: str) -> bool:
    """Yes or no; clients without check boxes send it as text.

    Raises:
        RequestError: when it is neither.
    """
    value = request[key]
    told = value if isinstance(value, bool) else _YES.get(str(value).strip().lower())
    if told is None:
        raise RequestError(f"{key} is {_shown(value)}; give true or false")
    return told


def whole_number(request: Mapping[str, Any], key: str) -> int:
    """A whole number; clients without number fields send it as text or as a decimal.

    Raises:
        RequestError: when it is none.
    """
    number = _number(request[key])
    if not math.isfinite(number) or number != int(number):
        raise RequestError(f"{key} is {_shown(request[key])}; give a whole number")
    return int(number)


def share(request: Mapping[str, Any], key: str) -> float:
    """A number from 0 to 1; clients without number fields send it as text.

    Raises:
        RequestError: when it is none.
    """
    number = _number(request[key])
    if not 0 <= number <= 1:
        raise RequestError(f"{key} is {_shown(request[key])}; give a number from 0 to 1")
    return number


def usual_reach(depth: int) -> int:
    """How many slices a correction goes at most, each way: an eighth of a volume's, at least one.

    So a click takes a fraction of the time that the first request took, whatever it changes.
    """
    return max(1, depth // 8)


def reach_of(request: Mapping[str, Any], depth: int) -> int:
    """How many slices a correction goes at most, each way.

    Args:
        request: merged.
        depth: number of the volume's slices.

    Raises:
        RequestError: when it is no whole number, or less than -1.
    """
    number = whole_number(request, "reach")
    if number < -1:
        raise RequestError(f"reach is {number}; give 0 or more slices, or -1 for an eighth of the volume")
    return usual_reach(depth) if number == -1 else number


def sentence(request: Mapping[str, Any], needed: bool) -> str | None:
    """The sentence, which is data: special tokens in it never become control tokens.

    Args:
        request: merged.
        needed: whether there has to be one.

    Raises:
        PromptError: when it is no text, too long, says what not to segment, or is missing though needed.
    """
    text = request["text"]
    if not isinstance(text, str):
        raise PromptError("text is no text; type a sentence, e.g. 'Segment the vessels.'")
    if not text.strip() and not needed:
        return None
    return check_prompt(text)


def _number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
