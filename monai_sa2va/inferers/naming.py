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

"""Reading the names of structures out of a free sentence, by the language model itself."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.chat import Control, encode
from monai_sa2va.transforms.sentences import ANSWERS, check_prompt

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["read_phrases", "spans"]

_MAX_WORDS = 6
# a name that the model would rather not say is a guess
_MIN_LIKELIHOOD = 1e-4
# tokens that may stand between two objects (", and ") before the answer counts as ended
_MAX_BETWEEN = 8
_WORD = re.compile(r"[^\W_]+(?:[-'\u2019/][^\W_]+)*")


def spans(text: str, max_words: int = _MAX_WORDS) -> list[str]:
    """Runs of words of a text, which no punctuation parts: what a sentence may call a structure.

    Args:
        text: the sentence.
        max_words: longest run.

    Returns:
        The runs as they are written, and lower-cased; shortest first at each place, none twice.
    """
    words = list(_WORD.finditer(text))
    found: dict[str, None] = {}
    for first, word in enumerate(words):
        for last in range(first, min(first + max_words, len(words))):
            if last > first and text[words[last - 1].end() : words[last].start()].strip():
                break
            run = " ".join(text[word.start() : words[last].end()].split())
            found |= {run: None, run.lower(): None}
    return list(found)


def read_phrases(network: Sa2VA, image_tokens: torch.Tensor, text: str, max_objects: int = 8) -> list[str]:
    """Let the language model say which words of a sentence name the structures that it asks for.

    The answer is forced to begin with "Sure, <p>". Of all runs of words that the sentence has (see :func:`spans`) the
    name is the one that the model is likeliest to go on with, up to "</p>"; so it can't name what nobody asked for. If
    it would say none of them with a probability of at least 0.0001, none is taken. " [SEG]" is forced behind each name,
    and where the model then opens another "<p>", the next name is read.

    Args:
        network: whose answers name their objects (``answer_form`` ``"named"``); in evaluation mode.
        image_tokens: (image tokens, D) of the picture, from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.encode_image`.
        text: the user's sentence.
        max_objects: most names; the model's others are left out.

    Returns:
        At least one name, none of them twice.

    Raises:
        PromptError: when the sentence is empty or too long, or none of its words is likely to name a structure.
    """
    question = check_prompt(text)
    tokenizer = network.tokenizer
    n_tiles = len(image_tokens) // network.config.tokens_per_tile
    asked: list[int] = network.processor.conversation([(question, None)], n_tiles)[Keys.INPUT_IDS].tolist()
    opens, closes = (encode(tokenizer, [Control(mark)])[0] for mark in ("<p>", "</p>"))
    seg = encode(tokenizer, [" ", Control("[SEG]")])

    reader = _Reader(network)
    reader.feed(asked + encode(tokenizer, [ANSWERS[0].split("{}")[0]]) + [opens], image_tokens)
    left = spans(question)
    phrases: list[str] = []
    while left and len(phrases) < max_objects:
        phrase = reader.choose({name: (*encode(tokenizer, [name]), closes) for name in left})
        if phrase is None:
            break
        phrases.append(phrase)
        # what shares a word with a name that is taken is no other structure
        taken = set(phrase.lower().split())
        left = [name for name in left if not taken & set(name.lower().split())]
        reader.feed(seg)
        if not reader.reaches(opens, _MAX_BETWEEN):
            break
        reader.feed([opens])
    if not phrases:
        shown = question if len(question) <= 60 else question[:57] + "..."
        raise PromptError(f"the model finds no structure named in {shown!r}; name it, e.g. 'Segment the vessels.'")
    return phrases


class _Reader:
    """Reads and decodes tokens, keeping keys and values of what was read."""

    def __init__(self, network: Sa2VA) -> None:
        self._network = network
        self._cache: Any = None
        self._scores = torch.empty(0)
        self._control = set(network.tokenizer.added_tokens_decoder)

    def feed(self, ids: Sequence[int], image_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Read on with these tokens, whatever the model would have said.

        Returns:
            (tokens, vocabulary) log-probabilities of what follows each of them.
        """
        network = self._network
        embeddings = network.mllm.embed(torch.tensor([list(ids)], device=network.device), image_tokens)
        output = network.language_model(inputs_embeds=embeddings, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        scores = network.mllm.vocabulary_logits(output.last_hidden_state[0]).float().log_softmax(-1)
        self._scores = scores[-1]
        return scores

    def choose(self, options: Mapping[str, tuple[int, ...]]) -> str | None:
        """Read on with the likeliest option; ``None``, and nothing is read, where none is likely enough.

        A best-first search: every token makes a beginning less likely, so the first option that comes up whole is the
        likeliest of all, and beginnings that are too unlikely already are never gone on with.
        """
        length, floor = self._cache.get_seq_length(), math.log(_MIN_LIKELIHOOD)
        known = self._scores
        names = {ids: name for name, ids in options.items()}
        heap: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        while heap:
            loss, read = heapq.heappop(heap)
            if read in names:
                self._back_to(length)
                self.feed(read)
                return names[read]
            open_options = [ids for ids in names if ids[: len(read)] == read]
            run = _shared(open_options)
            self._back_to(length)
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
        self._back_to(length)
        self._scores = known
        return None

    def _back_to(self, length: int) -> None:
        # transformers crops by what is to be removed, as a negative number
        self._cache.crop(length - self._cache.get_seq_length())

    def reaches(self, stop: int, limit: int) -> bool:
        """Read on as the model likes; whether ``stop`` comes next before another control token or the limit."""
        for _ in range(limit + 1):
            token = int(self._scores.argmax())
            if token == stop:
                return True
            if token in self._control:
                return False
            self.feed([token])
        return False


def _shared(options: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning that all options share."""
    shared = options[0]
    for ids in options[1:]:
        parts = next(
            (i for i, (a, b) in enumerate(zip(shared, ids, strict=False)) if a != b), min(len(shared), len(ids))
        )
        shared = shared[:parts]
    return shared
