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

import math
import re
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
_MIN_LIKELIHOOD = 1e-3
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

    The answer is forced to begin with "Sure, <p>". Then, token by token, the model chooses among the runs of words that
    the sentence has (see :func:`spans`), so that it can't name what nobody asked for. " [SEG]" is forced behind each
    name, and where the model then opens another "<p>", the next name is read. A name that the model, free to say
    anything, would say with a probability below 0.001 is not taken.

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
        phrase, likelihood = reader.choose({name: [*encode(tokenizer, [name]), closes] for name in left})
        if likelihood < _MIN_LIKELIHOOD:
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
    """Decodes token by token, keeping keys and values of what was read."""

    def __init__(self, network: Sa2VA) -> None:
        self._network = network
        self._cache: Any = None
        self._logits = torch.empty(0)
        self._control = set(network.tokenizer.added_tokens_decoder)

    def feed(self, ids: list[int], image_tokens: torch.Tensor | None = None) -> None:
        """Read on with these tokens, whatever the model would have said."""
        network = self._network
        embeddings = network.mllm.embed(torch.tensor([ids], device=network.device), image_tokens)
        output = network.language_model(inputs_embeds=embeddings, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        self._logits = network.mllm.vocabulary_logits(output.last_hidden_state[0, -1]).float()

    def choose(self, options: dict[str, list[int]]) -> tuple[str, float]:
        """Read on with the option that the model prefers at each token where options part; how likely it is, too."""
        read: list[int] = []
        score = 0.0
        while True:
            options = {name: ids for name, ids in options.items() if ids[: len(read)] == read}
            done = [name for name, ids in options.items() if len(ids) == len(read)]
            if done:
                return done[0], math.exp(score)
            allowed = sorted({ids[len(read)] for ids in options.values()})
            scores = self._logits.log_softmax(-1)[allowed].tolist()
            best = max(scores)
            token, score = allowed[scores.index(best)], score + best
            self.feed([token])
            read.append(token)

    def reaches(self, stop: int, limit: int) -> bool:
        """Read on as the model likes; whether ``stop`` comes next before another control token or the limit."""
        for _ in range(limit + 1):
            token = int(self._logits.argmax())
            if token == stop:
                return True
            if token in self._control:
                return False
            self.feed([token])
        return False
