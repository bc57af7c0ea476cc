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

"""What is asked of an entry: one structure at a time, or a sentence for each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monai_sa2va.data.patients import patient_of
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.transforms.negation import find_negation

if TYPE_CHECKING:
    from monai.data import Dataset

__all__ = ["OnePromptEach", "ask_for", "askable"]

_LOGGER = logging.getLogger(__name__)


class OnePromptEach(Sequence[dict[str, Any]]):
    """The items of a dataset once a prompt, with that prompt alone and without absent phrases.

    In one conversation a later answer sees the earlier ones. A user asks for one structure at a time, and so should a
    validation. An item is fetched from the dataset when it is asked for, so that one that is cached there is held once,
    however many prompts it has.

    Args:
        dataset: MONAI's, whose ``data`` are the entries of a datalist, and whose transform leaves their prompts alone.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._asked = [(number, key) for number, entry in enumerate(dataset.data) for key in entry[Keys.PROMPTS]]

    def __len__(self) -> int:
        """Number of prompts of all items."""
        return len(self._asked)

    def __getitem__(self, index: Any) -> Any:
        """The item that the prompt of this number belongs to."""
        number, asked = self._asked[index]
        item = {key: value for key, value in self.dataset[number].items() if key != Keys.ABSENT}
        return {**item, Keys.PROMPTS: {asked: item[Keys.PROMPTS][asked]}}


def askable(entries: Sequence[Mapping[str, Any]], include_absent: bool = False) -> list[dict[str, Any]]:
    """The entries that something can be asked of; how many are left out is logged.

    Args:
        entries: of a datalist.
        include_absent: whether phrases for what is not there are asked, too.
    """
    kept = [dict(entry) for entry in entries if entry.get(Keys.PROMPTS) or (include_absent and entry.get(Keys.ABSENT))]
    if len(kept) < len(entries):
        _LOGGER.warning(
            "%d of %d entries have no prompts%s and are left out",
            len(entries) - len(kept),
            len(entries),
            "" if include_absent else " of structures that are there (absent phrases count with include_absent)",
        )
    return kept


def ask_for(
    entries: Sequence[Mapping[str, Any]], question: str = "Segment the {}.", include_patient: bool = False
) -> list[dict[str, Any]]:
    """Entries for inference that ask for each structure of their label by its first phrase.

    Args:
        entries: of a datalist.
        question: the sentence, ``{}`` for the phrase.
        include_patient: whether an entry's ``patient``, else its ``group``, is kept under ``patient``.

    Returns:
        ``{"image": path, "prompts": [sentence, ...]}`` for each entry; one without prompts has the image alone.

    Raises:
        DatalistError: when a ``patient`` or ``group`` that is to be kept is no name.
    """
    asked: list[dict[str, Any]] = []
    for position, entry in enumerate(entries):
        sentences = [_sentence(question, phrases[0]) for phrases in entry[Keys.PROMPTS].values()]
        told = patient_of(entry, f"entry {position}") if include_patient else None
        asked.append(
            {Keys.IMAGE.value: entry[Keys.IMAGE]}
            | ({Keys.PROMPTS.value: sentences} if sentences else {})
            | ({Keys.PATIENT.value: told[1]} if told else {})
        )
    return asked


def _sentence(question: str, phrase: str) -> str:
    sentence = question.format(phrase)
    # "liver without tumour" is a name here, and quotation marks say so
    return sentence if find_negation(sentence) is None else question.format(f'"{phrase}"')
