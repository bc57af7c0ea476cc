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

"""Who a patient is: what may tell it, and the one rule, that nothing of it goes out unless it was asked for.

An entry's ``patient`` and ``group`` become numbers (:func:`~monai_sa2va.data.groups.number_groups`), texts in a file's
header are read by nobody, and of a path the file's own name alone is passed on, which is the user's choice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DatalistError

__all__ = ["HEADER_TEXTS", "header_texts", "hide_folders", "patient_of", "shown_path", "without_texts"]

HEADER_TEXTS = ("descrip", "aux_file", "db_name", "intent_name")
"""Fields of a NIfTI header that hold free text."""

# at DEBUG, Pillow logs every tag of a TIFF with its text, and users turn DEBUG on for this package's lines
_PILLOW = logging.getLogger("PIL")
if _PILLOW.level == logging.NOTSET:
    _PILLOW.setLevel(logging.INFO)


def patient_of(entry: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """Whom an entry's image shows.

    Args:
        entry: of a datalist.
        where: what an error message begins with.

    Returns:
        The key that says it, ``"patient"`` before ``"group"``, and the name; ``None`` where neither does.

    Raises:
        DatalistError: when the name is empty, or neither text nor a whole number; it isn't repeated.
    """
    key = next((str(key) for key in (Keys.PATIENT, Keys.GROUP) if entry.get(key) is not None), None)
    if key is None:
        return None
    value = entry[key]
    # True is an int, too
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise DatalistError(f"{where}.{key}: give text or a whole number, not {type(value).__name__} or nothing")
    return key, str(value).strip()


def header_texts(header: Any) -> dict[str, str]:
    """What a NIfTI header says in words: its fields of :data:`HEADER_TEXTS` that aren't empty.

    Args:
        header: nibabel's; ``None`` says nothing.
    """
    if header is None:
        return {}
    fields = {name: header[name].item() for name in HEADER_TEXTS if name in header}
    return {name: text.decode("utf-8", "replace") for name, text in fields.items() if text}


def without_texts(meta: dict[Any, Any]) -> None:
    """Remove a header's texts from what an array knows of its file, as messages and logs may show all of that."""
    for name in HEADER_TEXTS:
        meta.pop(name, None)


def shown_path(path: str) -> str:
    """How a message calls a file that a datalist names: without its folders, whose names are replaced by ``...``."""
    posix = PurePosixPath(path.replace("\\", "/"))
    return posix.name if str(posix.parent) == "." else f".../{posix.name}"


def hide_folders(text: str, path: Path) -> str:
    """A reader's message without the folder of its file."""
    for folder in (path.resolve().parent, path.absolute().parent, path.parent):
        text = text.replace(f"{folder}{os.sep}", "")
    return text
