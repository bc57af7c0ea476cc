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

"""From a sentence to names of structures, where need be by the language model itself, and to the answer with them."""

from __future__ import annotations

import heapq
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.utils import eval_mode

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import PromptError
from monai_sa2va.networks.reader import TokenReader
from monai_sa2va.transforms.chat import Control, encode
from monai_sa2va.transforms.sentences import ANSWERS, check_prompt, parse_phrases, shorten

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["MAX_OBJECTS", "answer_ids", "find_objects", "read_phrases", "spans"]

MAX_OBJECTS = 64
"""Most structures that one sentence may name."""

_MAX_WORDS = 6
_MAX_CHARACTERS = 16
# a name that the model would rather not say is a guess
_MIN_LIKELIHOOD = 1e-4
# tokens that may stand between two objects (", and ") before the answer counts as ended
_MAX_BETWEEN = 8
# what stands on the letter before it, and joiners: parts of a word that \w leaves out
_MARKS = "".join(c for c in map(chr, range(0x300, 0xFFFF)) if unicodedata.category(c)[0] == "M") + "\u200c\u200d"
_LETTER = rf"[^\W_][{_MARKS}]*"
_WORD = re.compile(rf"(?:{_LETTER})+(?:[-'\u2019/](?:{_LETTER})+)*")
# Thai and Lao, Myanmar, Khmer, Kana and Han, whose words nothing parts, and Hangul, where particles follow a name
_UNPARTED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(rf"[{_UNPARTED}][{_MARKS}]*|[^{_UNPARTED}]+")
_HAS_UNPARTED = re.compile(f"[{_UNPARTED}]")


def find_objects(network: Sa2VA, image_tokens: Any, text: str) -> list[str]:
    """Names of the structures that a prompt asks for, one an object.

    They are read by the grammar; where that leaves the sentence alone, by the language model
    (:func:`read_phrases`), or, where the checkpoint's answers name no objects, the whole sentence is the one name.

    Args:
        network: left in the mode (training or evaluation) that it is in; no gradient is kept.
        image_tokens: of the picture, from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.encode_image`.
        text: the user's sentence.

    Raises:
        PromptError: when the sentence is empty or too long, says what not to segment, or names nothing or more than
            :data:`MAX_OBJECTS` structures.
    """
    names = parse_phrases(text)
    if names is None and network.config.answer_form == "named":
        with eval_mode(network):
            names = read_phrases(network, image_tokens, text)
    names = names or [check_prompt(text)]
    if len(names) > MAX_OBJECTS:
        raise PromptError(
            f"one prompt names {len(names)} structures; at most {MAX_OBJECTS} are taken: give several prompts"
        )
    return names


def answer_ids(
    network: Sa2VA, text: str, names: Sequence[str], n_tiles: int | Sequence[int]
) -> tuple[torch.Tensor, str]:
    """A prompt with its known answer, one [SEG] a name.

    Args:
        network: whose form of answers and chat template are taken.
        text: the user's sentence.
        names: of the objects.
        n_tiles: tiles of the picture, the thumbnail counted; of several pictures a list.

    Returns:
        Token ids (L,) int64, and the answer as text.

    Raises:
        PromptError: when the language model takes fewer tokens.
    """
    answer, _ = network.processor.answer(text, names)
    ids = network.processor.conversation([(text, answer)], n_tiles)[Keys.INPUT_IDS]
    longest = network.config.text.max_position_embeddings
    if len(ids) > longest:
        raise PromptError(
            f"a prompt of {len(text)} characters makes {len(ids)} tokens with its picture and its answer; "
            f"the language model takes {longest}: shorten it"
        )
    return ids, "".join(answer)


def spans(text: str, max_words: int = _MAX_WORDS, max_characters: int = _MAX_CHARACTERS) -> list[str]:
    """Runs of words of a text, which no punctuation parts: what a sentence may call a structure.

    Scripts that put no space between words (Chinese, Japanese, Thai and their like) and Korean, whose particles follow
    a word without one, give runs of characters besides.

    Args:
        text: the sentence.
        max_words: longest run of words.
        max_characters: longest run of characters; a character is a letter with all its marks, or a stretch of another
            script ("CT", "L5") among such letters.

    Returns:
        The runs as they are written, and lower-cased; none twice. Runs of words come first, then those of characters,
        by their place and shortest first.
    """
    return list(_places(text, max_words, max_characters))


def _places(
    text: str, max_words: int = _MAX_WORDS, max_characters: int = _MAX_CHARACTERS
) -> dict[str, list[tuple[int, int]]]:
    """The runs of :func:`spans`, each with where it begins and ends in the text."""
    words = [match.span() for match in _WORD.finditer(text)]
    runs = dict.fromkeys(_runs(words, text, max_words))
    if _HAS_UNPARTED.search(text):
        characters = [match.span() for word in words for match in _CHARACTER.finditer(text, *word)]
        runs |= dict.fromkeys(_runs(characters, text, max_characters))
    found: dict[str, list[tuple[int, int]]] = {}
    for start, end in runs:
        run = " ".join(text[start:end].split())
        for name in {run: None, run.lower(): None}:
            found.setdefault(name, []).append((start, end))
    return found


def _runs(parts: Sequence[tuple[int, int]], text: str, longest: int) -> Iterator[tuple[int, int]]:
    for first, (start, _) in enumerate(parts):
        for last in range(first, min(first + longest, len(parts))):
            if last > first and text[parts[last - 1][1] : parts[last][0]].strip():
                break
            yield start, parts[last][1]


def read_phrases(network: Sa2VA, image_tokens: Any, text: str, max_objects: int = 8) -> list[str]:
    """Let the language model say which words of a sentence name the structures that it asks for.

    The answer is forced to begin with "Sure, <p>". Of all runs of words that the sentence has (see :func:`spans`) the
    name is the one that the model is likeliest to go on with, up to "</p>"; so it can't name what nobody asked for. If
    it would say none of them with a probability of at least 0.0001, none is taken. " [SEG]" is forced behind each name,
    and where the model then opens another "<p>", the next name is read.

    Args:
        network: whose answers name their objects (``answer_form`` ``"named"``); in evaluation mode.
        image_tokens: of the picture, from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.encode_image`.
        text: the user's sentence.
        max_objects: most names; the model's others are left out.

    Returns:
        At least one name, none of them twice.

    Raises:
        PromptError: when the sentence is empty or too long, says what not to segment, or none of its words is likely
            to name a structure.
    """
    question = check_prompt(text)
    tokenizer = network.tokenizer
    n_tiles = len(image_tokens) // network.config.tokens_per_tile
    asked: list[int] = network.processor.conversation([(question, None)], n_tiles)[Keys.INPUT_IDS].tolist()
    opens, closes = (encode(tokenizer, [Control(mark)])[0] for mark in ("<p>", "</p>"))
    seg = encode(tokenizer, [" ", Control("[SEG]")])

    reader = _Reader(network)
    reader.feed(asked + encode(tokenizer, [ANSWERS[0].split("{}")[0]]) + [opens], image_tokens)
    places = _places(question)
    left = {name: (*encode(tokenizer, [name]), closes) for name in places}
    phrases: list[str] = []
    while left and len(phrases) < max_objects:
        phrase = reader.choose(left)
        if phrase is None:
            break
        phrases.append(phrase)
        left = {name: ids for name, ids in left.items() if _apart(name, phrase, places)}
        reader.feed(seg)
        if not reader.reaches(opens, _MAX_BETWEEN):
            break
        reader.feed([opens])
    if not phrases:
        raise PromptError(
            f"the model finds no structure named in {shorten(question)!r}; name it, e.g. 'Segment the vessels.'"
        )
    return phrases


def _apart(name: str, taken: str, places: Mapping[str, Sequence[tuple[int, int]]]) -> bool:
    """Whether a name may be another structure than one that is taken: they share no word, and no place of the text."""
    if set(name.lower().split()) & set(taken.lower().split()):
        return False
    return any(all(end <= first or last <= start for first, last in places[taken]) for start, end in places[name])


class _Reader(TokenReader):
    """Reads on with what is likeliest of given options."""

    def choose(self, options: Mapping[str, tuple[int, ...]]) -> str | None:
        """Read on with the likeliest option; ``None``, and nothing is read, where none is likely enough.

        A best-first search: every token makes a beginning less likely, so the first option that comes up whole is the
        likeliest of all, and beginnings that are too unlikely already are never gone on with.
        """
        length, floor = self.length, math.log(_MIN_LIKELIHOOD)
        known = self.scores
        names = {ids: name for name, ids in options.items()}
        heap: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        while heap:
            loss, read = heapq.heappop(heap)
            if read in names:
                self.back_to(length)
                self.feed(read)
                return names[read]
            open_options = [ids for ids in names if ids[: len(read)] == read]
            run = _shared(open_options)
            self.back_to(length)
            scores = torch.cat([known[None], self.feed(run)]) if run else known[None]
            score = sum((float(scores[i, run[i]]) for i in range(len(read), len(run))), -loss)
            if run in names:
                ends = [(score, run)]
            else:
                nexts = sorted({ids[len(run)] for ids in open_options})
                ends = [(score + float(scores[len(run), token]), (*run, token)) for token in nexts]
            for total, beginning in ends:
                if total >= floor:
                    heapq.heappush(heap, (-total, beginning))
        self.back_to(length)
        self.scores = known
        return None

    def reaches(self, stop: int, limit: int) -> bool:
        """Read on as the model likes; whether ``stop`` comes next before another control token or the limit."""
        for _ in range(limit + 1):
            token = int(self.scores.argmax())
            if token == stop:
                return True
            if token in self.control:
                return False
            self.feed([token])
        return False


def _shared(options: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning that all options share."""
    shared = options[0]
    for ids in options[1:]:
        # of unequal lengths: what one has beyond the other is not shared
        parts = next(
            (i for i, (a, b) in enumerate(zip(shared, ids, strict=False)) if a != b), min(len(shared), len(ids))
        )
        shared = shared[:parts]
    return shared
