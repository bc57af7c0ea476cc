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

"""Chat: the answer is generated, token by token, and its [SEG]s stand wherever the model put them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from monai_sa2va.data.tokenizer import picture_tokens
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.networks.naming import MAX_OBJECTS
from monai_sa2va.networks.reader import TokenReader
from monai_sa2va.transforms.chat import CHAT_TEMPLATES
from monai_sa2va.transforms.sentences import check_prompt, parse_phrases

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["Reply", "check_max_new_tokens", "generate_reply"]


@dataclass(frozen=True)
class Reply:
    """An answer that the language model gave.

    Attributes:
        ids: of its tokens, without what ends it.
        text: the same as text, [SEG] and the like included.
        names: of its objects, one a [SEG]: the phrase in the ``<p>phrase</p>`` before it; where there is none, the
            structures that the question names, if they are as many, else the question itself.
    """

    ids: tuple[int, ...]
    text: str
    names: tuple[str, ...]


def generate_reply(network: Sa2VA, image_tokens: Any, text: str, max_new_tokens: int = 256) -> Reply:
    """Let the language model answer, greedily: each token is the likeliest one.

    It ends where the chat template's suffix or the tokenizer's end of sequence comes up, after ``max_new_tokens``, or
    where the language model's context is full. Tokens of pictures are never said, nor more than
    :data:`~monai_sa2va.networks.naming.MAX_OBJECTS` [SEG]s.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.
        image_tokens: of the picture, from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.encode_image`.
        text: the user's sentence.
        max_new_tokens: most tokens of the answer.

    Raises:
        ConfigError: when ``max_new_tokens`` is below 1.
        PromptError: when the sentence is empty or too long, or says what not to segment.
    """
    limit = check_max_new_tokens(max_new_tokens)
    question, tokenizer = check_prompt(text), network.tokenizer
    n_tiles = len(image_tokens) // network.config.tokens_per_tile
    asked: list[int] = network.processor.conversation([(question, None)], n_tiles)[Keys.INPUT_IDS].tolist()
    room = network.config.text.max_position_embeddings - len(asked)
    if room < 1:
        raise PromptError(
            f"a prompt of {len(question)} characters makes {len(asked)} tokens with its picture; the language model "
            f"takes {network.config.text.max_position_embeddings}: shorten it"
        )
    ends = {int(i) for i in [tokenizer.eos_token_id] if i is not None}
    suffix = CHAT_TEMPLATES[network.config.template].suffix
    never = [int(tokenizer.convert_tokens_to_ids(token)) for token in picture_tokens(network.config.family)]
    reader = TokenReader(network)
    reader.feed(asked, image_tokens)
    ids: list[int] = []
    for _ in range(min(limit, room)):
        full = ids.count(network.processor.seg_token_id) >= MAX_OBJECTS
        scores = reader.scores[: len(tokenizer)].clone()
        scores[never + [network.processor.seg_token_id] * full] = -torch.inf
        token = int(scores.argmax())
        if token in ends:
            break
        ids.append(token)
        # where it is no token of its own it is said in several
        if tokenizer.decode(ids[-len(suffix) :]).endswith(suffix):
            ids = _without(ids, suffix, network)
            break
        reader.feed([token])
    return Reply(tuple(ids), tokenizer.decode(ids), tuple(_names(network, ids, question)))


def check_max_new_tokens(number: int) -> int:
    """The number, where an answer can have as many tokens.

    Raises:
        ConfigError: when it is below 1.
    """
    if number < 1:
        raise ConfigError(f"max_new_tokens is {number}; at least 1 is needed")
    return number


def _without(ids: list[int], suffix: str, network: Sa2VA) -> list[int]:
    """The longest beginning of an answer that holds nothing of the suffix at its end."""
    text = network.tokenizer.decode(ids)
    kept = text[: len(text) - len(suffix)]
    for length in range(len(ids) - 1, -1, -1):
        if len(network.tokenizer.decode(ids[:length])) <= len(kept):
            return ids[:length]
    return []


def _names(network: Sa2VA, ids: list[int], question: str) -> list[str]:
    """A name for each [SEG] of an answer."""
    tokenizer, seg = network.tokenizer, network.processor.seg_token_id
    opens, closes = (int(tokenizer.convert_tokens_to_ids(mark)) for mark in ("<p>", "</p>"))
    found: list[str] = []
    start, phrase = -1, ""
    for place, token in enumerate(ids):
        if token == opens:
            start = place + 1
        elif token == closes and start >= 0:
            phrase, start = tokenizer.decode(ids[start:place], skip_special_tokens=True).strip(), -1
        elif token == seg:
            found.append(phrase)
            phrase = ""
    asked = parse_phrases(question) or []
    return [name or (asked[i] if len(asked) == len(found) else question) for i, name in enumerate(found)]
