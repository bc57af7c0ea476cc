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

"""Whether single settings of a run have values that it can use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings

__all__ = ["RANGES", "Range", "check_ranges"]


class Range(NamedTuple):
    """What a setting may be.

    Attributes:
        holds: whether a value is in range.
        advice: what to give.
    """

    holds: Callable[[Any], bool]
    advice: str


def _whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _number(value: Any, holds: Callable[[float], bool]) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and holds(value)


_COUNT = Range(partial(_whole, lowest=1), "a whole number of at least 1")
# text counts as true: a "false" in small letters, which the command line doesn't know, would name patients
_SWITCH = Range(lambda value: isinstance(value, bool), "true or false, behind the command True or False")
_LARGEST_SEED = 2**32 - 1
_OR_NONE = "or null for none, which is '$None' behind the command"

RANGES: dict[str, Range] = {
    "batch_size": _COUNT,
    "accumulation_steps": _COUNT,
    "val_interval": _COUNT,
    "save_interval": _COUNT,
    "log_interval": _COUNT,
    "patience": Range(lambda value: value is None or _COUNT.holds(value), f"{_COUNT.advice}, {_OR_NONE}"),
    "num_workers": Range(partial(_whole, lowest=0), "a whole number of at least 0"),
    "cache_rate": Range(partial(_number, holds=lambda rate: 0 <= rate <= 1), "a number of 0 to 1"),
    "clip_norm": Range(
        lambda value: value is None or _number(value, lambda norm: norm > 0), f"a number above 0, {_OR_NONE}"
    ),
    "weight_decay": Range(partial(_number, holds=lambda decay: 0 <= decay < float("inf")), "a number of at least 0"),
    "seed": Range(lambda value: _whole(value, 0) and value <= _LARGEST_SEED, f"a whole number of 0 to {_LARGEST_SEED}"),
    "amp": _SWITCH,
    "resume": _SWITCH,
    "overwrite": _SWITCH,
    "include_patient": _SWITCH,
    "include_absent": _SWITCH,
    "score_absent": _SWITCH,
}
"""Key of a configuration -> what it may be."""


def check_ranges(settings: Settings) -> Iterator[Remark]:
    """Whether each of `RANGES` that the configuration has is in its range; notes ``unusable`` where one isn't."""
    looked = 0
    for key, allowed in RANGES.items():
        if not settings.has(key):
            continue
        looked += 1
        # the command's checks build idle loaders, and note what was asked for
        value = settings.notes[key] if key in settings.notes else settings.value(key)
        if not allowed.holds(value):
            settings.notes["unusable"] = True
            yield Status.FAIL, f"{key} is {value!r}; give {allowed.advice}"
    if looked and not settings.notes.get("unusable"):
        yield Status.PASS, f"{looked} are in their ranges"
