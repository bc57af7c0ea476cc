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
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.sentences import (
    ABSENT_ANSWER,
    ANSWERS,
    CHAT_QUESTIONS,
    FREE_QUESTIONS,
    QUESTIONS,
    answer_segments,
    join_phrases,
)

__all__ = ["AskAllD", "AskAllDict", "AskAlld", "RandAskD", "RandAskDict", "RandAskd"]


class _Asked(NamedTuple):
    """What one question, or a part of a joint one, asks for.

    Attributes:
        phrase: what it is called.
        name: the first of its phrases.
        mask: which of the entry's masks it has; ``None`` for an empty one.
        absent: whether it is not in the image.
        chat: whether the answer says so, instead of holding [SEG].
    """

    phrase: str
    name: str
    mask: int | None
    absent: bool = False
    chat: bool = False


class RandAskd(Randomizable, MapTransform):
    """Choose some of an entry's structures and ask for them, in one sentence or one a turn.

    What is not in the image is asked for, too, with probability ``absent_prob`` in place of each chosen structure. It
    is either foreign to such images (the entry's ``foreign``, see
    :func:`~monai_sa2va.data.negatives.with_negatives`) or merely missing from this one (``missing``, and structures
    whose masks are empty). Its answer holds [SEG], whose mask is empty, and is not learnt as language; or, with
    probability ``chat_absent_prob``, it is a turn of its own that says "There is no ... in this image.", is learnt, and
    has no [SEG] and no mask.

    Args:
        keys: of the masks, (N, H, W), one a structure; ``phrases`` and ``names`` stand beside them.
        max_objects: most structures of one conversation.
        joint_prob: probability that one sentence asks for all chosen structures, instead of one turn each.
        named_prob: probability that the answers name their objects, else they are the official "Sure, [SEG].".
        questions: ways to ask, ``{}`` for the phrase.
        absent_prob: share of what is asked for that is not in the image. Where an image shows nothing one thing that is
            not there is asked for whatever the share; where there is too little to choose from they are fewer.
        foreign_prob: share of it that is foreign, where there are both kinds.
        chat_absent_prob: share of it that is answered by "There is no ... in this image.".
        chat_questions: further ways to ask where both shares are above 0, for what is there as well, so that
            the form of a question doesn't tell its answer.

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
        absent_prob: float = 0.0,
        foreign_prob: float = 0.5,
        chat_absent_prob: float = 0.5,
        chat_questions: Sequence[str] = CHAT_QUESTIONS,
    ) -> None:
        super().__init__(keys)
        if not isinstance(max_objects, int) or isinstance(max_objects, bool) or max_objects < 1:
            raise ConfigError(f"max_objects is {max_objects!r}; a whole number of at least 1 is needed")
        for key, value in (
            ("joint_prob", joint_prob),
            ("named_prob", named_prob),
            ("absent_prob", absent_prob),
            ("foreign_prob", foreign_prob),
            ("chat_absent_prob", chat_absent_prob),
        ):
            if not 0 <= value <= 1:
                raise ConfigError(f"{key} is {value}; give a probability from 0 to 1")
        if not questions:
            raise ConfigError("questions is empty; give at least one, with {} for the phrase")
        for question in (*questions, *chat_questions):
            _check_question(question)
        self.max_objects, self.joint_prob, self.named_prob = max_objects, joint_prob, named_prob
        self.absent_prob, self.foreign_prob, self.chat_absent_prob = absent_prob, foreign_prob, chat_absent_prob
        chats = absent_prob > 0 and chat_absent_prob > 0
        self.questions = (*questions, *(chat_questions if chats else ()))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``turns`` and keep the masks, phrases and names of their [SEG]s, in the answers' order.

        Raises:
            DataError: when the entry has no structure to ask for, or not one phrase and one name a mask.
        """
        entry = dict(data)
        masks, phrases, names = entry[self.keys[0]], entry[Keys.PHRASES], entry[Keys.NAMES]
        _check_entry(masks, phrases, names)
        order = self.R.permutation(len(masks))
        there = [int(i) for i in order if bool((masks[int(i)] != 0).any())]
        negatives = self._negatives(entry, set(there), 1 if not there else min(self.max_objects, len(there)))
        shown = there[: min(self.max_objects, len(there)) - len(negatives)] if there else []
        asked = [_Asked(_choose(self.R, phrases[i]), names[i], i) for i in shown] + negatives
        if negatives:
            asked = [asked[i] for i in self.R.permutation(len(asked))]
        asked = self._ask(entry, asked)
        entry[self.keys[0]] = _rows(masks, [item.mask for item in asked])
        entry[Keys.PHRASES] = [item.phrase for item in asked]
        entry[Keys.NAMES] = [item.name for item in asked]
        return entry

    def _negatives(self, entry: Mapping[Any, Any], there: set[int], slots: int) -> list[_Asked]:
        """What is asked for though it is not there, for some of the slots."""
        wanted = 1 if not there else int((self.R.random(slots) < self.absent_prob).sum()) if self.absent_prob else 0
        if not wanted:
            return []
        groups = zip(entry[Keys.NAMES], entry[Keys.PHRASES], strict=True)
        empty = {name: phrases for i, (name, phrases) in enumerate(groups) if i not in there}
        missing = {**empty, **{group[0]: group for group in entry.get(Keys.MISSING, ())}}
        pools = [list(missing.items()), [(group[0], group) for group in entry.get(Keys.FOREIGN, ())]]
        chosen: list[_Asked] = []
        for _ in range(wanted):
            kind = int(self.R.random() < self.foreign_prob)
            pool = pools[kind] or pools[1 - kind]
            if not pool:
                break
            name, phrases = pool.pop(self.R.randint(len(pool)))
            chat = bool(self.absent_prob and self.R.random() < self.chat_absent_prob)
            chosen.append(_Asked(_choose(self.R, phrases), name, None, True, chat))
        return chosen

    def _ask(self, entry: dict[Hashable, Any], asked: Sequence[_Asked]) -> list[_Asked]:
        """Put the conversation into the entry; what its [SEG]s stand for, in their order."""
        named = bool(self.R.random() < self.named_prob)
        drawn = [item for item in asked if not item.chat]
        joint = len(drawn) > 1 and bool(self.R.random() < self.joint_prob)
        groups = [drawn, *([item] for item in asked if item.chat)] if joint else [[item] for item in asked]
        turns: list[tuple[str, list[str]]] = []
        for group in groups:
            phrases = [item.phrase for item in group]
            question = _choose(self.R, self.questions).format(join_phrases(phrases))
            if group[0].chat:
                turns.append((question, [ABSENT_ANSWER.format(phrases[0])]))
                continue
            absent = [item.absent for item in group]
            turns.append((question, answer_segments(phrases, _choose(self.R, ANSWERS), named=named, absent=absent)))
        entry[Keys.TURNS] = turns
        return drawn


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


def _rows(masks: Any, numbers: Sequence[int | None]) -> Any:
    """These of the masks (N, H, W), an empty one for each ``None``."""
    rows = [masks[:1] * 0 if number is None else masks[number : number + 1] for number in numbers]
    if not rows:
        return masks[:0]
    return torch.cat(rows) if isinstance(masks, torch.Tensor) else np.concatenate(rows)


def _choose(random: np.random.RandomState, options: str | Sequence[str]) -> str:
    return options if isinstance(options, str) else str(options[random.randint(len(options))])


RandAskD = RandAskDict = RandAskd
AskAllD = AskAllDict = AskAlld
