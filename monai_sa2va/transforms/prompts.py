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

"""From an entry's masks and phrases to the conversation a network is trained on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import MapTransform, Randomizable

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.sentences import ANSWERS, FREE_QUESTIONS, QUESTIONS, answer_segments, join_phrases

__all__ = ["AskAllD", "AskAllDict", "AskAlld", "RandAskD", "RandAskDict", "RandAskd"]


class RandAskd(Randomizable, MapTransform):
    """Choose some of an entry's structures and ask for them, in one sentence or one a turn.

    Args:
        keys: of the masks, (N, H, W), one a structure; ``phrases`` and ``names`` stand beside them.
        max_objects: most structures of one conversation.
        joint_prob: probability that one sentence asks for all chosen structures, instead of one turn each.
        named_prob: probability that the answers name their objects, else they are the official "Sure, [SEG].".
        questions: ways to ask, ``{}`` for the phrase.

    Raises:
        ConfigError: when a setting is out of its range, or a question has no ``{}``.
    """

    def __init__(
        self,
        keys: str = Keys.MASKS,
        max_objects: int = 3,
        joint_prob: float = 0.25,
        named_prob: float = 0.9,
        questions: Sequence[str] = QUESTIONS + FREE_QUESTIONS,
    ) -> None:
        super().__init__(keys)
        if max_objects < 1:
            raise ConfigError(f"max_objects is {max_objects}; at least 1 is needed")
        for key, value in (("joint_prob", joint_prob), ("named_prob", named_prob)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{key} is {value}; give a probability from 0 to 1")
        if not questions:
            raise ConfigError("questions is empty; give at least one, with {} for the phrase")
        for question in questions:
            _check_question(question)
        self.max_objects, self.joint_prob, self.named_prob = max_objects, joint_prob, named_prob
        self.questions = tuple(questions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``turns`` and keep the masks, phrases and names that they ask for, in the answers' order.

        Raises:
            DataError: when the entry has no structure to ask for, or not one phrase and one name a mask.
        """
        entry = dict(data)
        masks, phrases, names = entry[self.keys[0]], entry[Keys.PHRASES], entry[Keys.NAMES]
        _check_entry(masks, phrases, names)
        order = self.R.permutation(len(masks))[: self.max_objects]
        asked = [_choose(self.R, phrases[i]) for i in order]
        named = bool(self.R.random() < self.named_prob)
        joint = len(asked) > 1 and bool(self.R.random() < self.joint_prob)
        groups = [asked] if joint else [[phrase] for phrase in asked]
        turns = []
        for group in groups:
            question = _choose(self.R, self.questions).format(join_phrases(group))
            turns.append((question, answer_segments(group, _choose(self.R, ANSWERS), named=named)))
        entry[Keys.TURNS] = turns
        entry[self.keys[0]] = masks[order.tolist()]
        entry[Keys.PHRASES] = asked
        entry[Keys.NAMES] = [names[i] for i in order]
        return entry


class AskAlld(MapTransform):
    """Ask for every structure of an entry, each by its first phrase in a fixed sentence: for validation.

    Args:
        keys: of the masks, (N, H, W).
        question: the sentence, ``{}`` for the phrase.
        named: whether the answers name their objects.

    Raises:
        ConfigError: when the question has no ``{}``.
    """

    def __init__(self, keys: str = Keys.MASKS, question: str = QUESTIONS[0], named: bool = True) -> None:
        super().__init__(keys)
        _check_question(question)
        self.question, self.named = question, named

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``turns``, one a structure.

        Raises:
            DataError: when the entry has no structure to ask for, or not one phrase a mask.
        """
        entry = dict(data)
        _check_entry(entry[self.keys[0]], entry[Keys.PHRASES], entry[Keys.PHRASES])
        entry[Keys.TURNS] = [
            (self.question.format(first), answer_segments([first], named=self.named))
            for first in (p if isinstance(p, str) else p[0] for p in entry[Keys.PHRASES])
        ]
        return entry


def _check_question(question: str) -> None:
    if question.count("{}") != 1 or question.replace("{}", "").count("{"):
        raise ConfigError(f"question {question!r} has no single {{}} where the phrase goes")


def _check_entry(masks: Any, phrases: Sequence[Any], names: Sequence[str]) -> None:
    if not len(masks):
        raise DataError("an entry without any structure can't be asked about; give it prompts")
    if not len(masks) == len(phrases) == len(names):
        raise DataError(
            f"the entry has {len(masks)} masks, {len(phrases)} phrases and {len(names)} names; give one of each a mask"
        )


def _choose(random: np.random.RandomState, options: str | Sequence[str]) -> str:
    return options if isinstance(options, str) else str(options[random.randint(len(options))])


RandAskD = RandAskDict = RandAskd
AskAllD = AskAllDict = AskAlld
