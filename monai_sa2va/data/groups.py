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

"""Patients as numbers, so that scores can be resampled by patient and no identifier is written anywhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from monai_sa2va.data.patients import patient_of
from monai_sa2va.enums import Sa2VAKeys as Keys

__all__ = ["number_groups"]

_log = logging.getLogger(__name__)


def number_groups(entries: Sequence[Mapping[str, Any]], include_patient: bool = False) -> list[dict[str, Any]]:
    """Replace who an entry belongs to by a number.

    Args:
        entries: of a datalist. ``patient``, else ``group`` (text or a whole number), says whom an image shows; an
            entry with neither belongs to a group of its image. How many of these there are is logged.
        include_patient: whether the name is kept under ``patient``, for those who want it in their tables.

    Returns:
        The entries with ``group``, an int counted from 1 in their order, and ``patient`` only where asked for.

    Raises:
        DatalistError: when a ``patient`` or ``group`` is empty, or neither text nor a whole number.
    """
    numbers: dict[object, int] = {}
    numbered, unnamed = [], 0
    for position, entry in enumerate(entries):
        told = patient_of(entry, f"entry {position}")
        # objects of one image may stand in several entries
        who: object = ("", str(entry.get(Keys.IMAGE, position))) if told is None else told
        unnamed += told is None
        number = numbers.setdefault(who, len(numbers) + 1)
        rest = {name: value for name, value in entry.items() if name != Keys.PATIENT}
        if include_patient and told is not None:
            rest[Keys.PATIENT.value] = told[1]
        numbered.append({**rest, Keys.GROUP.value: number})
    _log.info("%d images of %d patients or groups", len(numbered), len(numbers))
    if unnamed:
        _log.warning(
            "%d of %d entries have neither 'patient' nor 'group', so each image counts as a patient of its own; "
            "name them in the datalist where patients have several images",
            unnamed,
            len(numbered),
        )
    return numbered
