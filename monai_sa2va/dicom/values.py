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
"""Values of a data set that may be missing, empty or garbage: what can be used, else ``None``."""

from __future__ import annotations

import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = [
    "as_texts",
    "first_item",
    "functional_group",
    "items",
    "number",
    "numbers",
    "quiet_pydicom",
    "shown_name",
    "text",
    "texts",
    "uid_of",
    "whole",
]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def shown_name(name: str, other: str = "?") -> str:
    """A file's name in one line that every table and terminal takes.

    Args:
        name: of a file or folder.
        other: stands for each character that can't be shown.
    """
    return "".join(character if character.isprintable() else other for character in name)


class _Quiet:
    """How many read with pydicom at this time, in any thread, and what brings its warnings back after the last."""

    lock = threading.Lock()
    readers = 0
    undo = ExitStack()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Without pydicom's warnings and log lines, which quote values, and a value may name a patient.

    Threads may be in it at the same time: the first to come silences, the last to go restores.
    """
    with _Quiet.lock:
        if _Quiet.readers == 0:
            _silence(_Quiet.undo)
        _Quiet.readers += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.readers -= 1
            if _Quiet.readers == 0:
                _Quiet.undo.close()


def _silence(undo: ExitStack) -> None:
    from pydicom import config

    logger = logging.getLogger("pydicom")
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.CRITICAL + 1)
    undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    undo.enter_context(config.disable_value_validation())


def _value(ds: Any, keyword: str) -> Any:
    # converting a garbage value raises whatever its type raises
    try:
        return None if ds is None else ds.get(keyword)
    except Exception:
        return None


def text(ds: Any, keyword: str) -> str:
    """One text, stripped; empty where there is none."""
    return next(iter(texts(ds, keyword)), "")


def texts(ds: Any, keyword: str) -> tuple[str, ...]:
    """All texts, stripped."""
    return as_texts(_value(ds, keyword))


def as_texts(value: Any) -> tuple[str, ...]:
    """A value of any type as texts, stripped; none of bytes."""
    if type(value) is tuple:
        return value
    if value is None or isinstance(value, bytes):
        return ()
    many = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return tuple(str(one).strip().strip("\0") for one in many)


def uid_of(ds: Any, keyword: str) -> str | None:
    """A UID that is one: digits and dots, 64 at most, as it becomes the name of a folder."""
    value = text(ds, keyword)
    return value if len(value) <= 64 and _UID.fullmatch(value) else None


def numbers(ds: Any, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers, as many as asked for."""
    found = []
    for one in texts(ds, keyword):
        try:
            found.append(float(one))
        except ValueError:
            return None
    if not found or (count is not None and len(found) != count) or not all(map(math.isfinite, found)):
        return None
    return tuple(found)


def number(ds: Any, keyword: str) -> float | None:
    """One finite number, the first where there are several."""
    found = numbers(ds, keyword)
    return found[0] if found else None


def whole(ds: Any, keyword: str) -> int | None:
    """One whole number."""
    found = number(ds, keyword)
    return int(found) if found is not None and found == int(found) else None


def items(ds: Any, keyword: str) -> list[Any]:
    """Items of a sequence, none where it is missing or no sequence."""
    value = _value(ds, keyword)
    try:
        return [item for item in value if hasattr(item, "get")] if value is not None else []
    except TypeError:
        return []


def first_item(ds: Any, keyword: str) -> Any:
    """The first item of a sequence, ``None`` where there is none."""
    return next(iter(items(ds, keyword)), None)


def functional_group(ds: Any, keyword: str, number: int) -> Any:
    """The item of a frame's functional group, the frame's own before the shared one; the data set where there is none.

    Args:
        ds: of the instance.
        keyword: of the group, e.g. ``"FrameVOILUTSequence"``.
        number: of the frame, from 1.
    """
    each = items(ds, "PerFrameFunctionalGroupsSequence")
    own = each[number - 1] if number <= len(each) else None
    found = (first_item(group, keyword) for group in (own, first_item(ds, "SharedFunctionalGroupsSequence")))
    return next((group for group in found if group is not None), ds)
