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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from monai_sa2va.data.tokenizer import picture_tokens
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.networks.naming import MAX_OBJECTS
from monai_sa2va.networks.reader import TokenReader
from monai_sa2va.transforms.chat import get_template
from monai_sa2va.transforms.sentences import check_prompt, parse_phrases

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = [
    "Reply",
    "Spoken",
    "check_max_new_tokens",
    "generate_reply",
    "name_objects",
    "speak",
    "without_end",
]

# tokens in which the end of an answer is looked for
_LONGEST_STOP = 32


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


def generate_reply(
    network: Sa2VA,
    image_tokens: Any,
    text: str,
    max_new_tokens: int = 256,
    n_tiles: int | Sequence[int] | None = None,
) -> Reply:
    """Let the language model answer, greedily: each token is the likeliest one.

    It ends where the chat template's suffix or the tokenizer's end of sequence comes up, after ``max_new_tokens``, or
    where the language model's context is full. Tokens of pictures are never said, nor more than
    :data:`~monai_sa2va.networks.naming.MAX_OBJECTS` [SEG]s.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.
        image_tokens: of the picture, from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.encode_image`.
        text: the user's sentence.
        max_new_tokens: most tokens of the answer.
        n_tiles: tiles of each of several pictures; ``None`` for one picture.

    Raises:
        ConfigError: when ``max_new_tokens`` is below 1.
        PromptError: when the sentence is empty or too long, or says what not to segment.
    """
    question, tokenizer = check_prompt(text), network.tokenizer
    tiles = len(image_tokens) // network.config.tokens_per_tile if n_tiles is None else n_tiles
    asked = network.processor.conversation([(question, None)], tiles)[Keys.INPUT_IDS]
    never = [int(tokenizer.convert_tokens_to_ids(token)) for token in picture_tokens(network.config.family)]
    spoken = speak(network, asked, image_tokens, max_new_tokens, never=never, max_objects=MAX_OBJECTS)
    ids = without_end(network, spoken.ids)
    return Reply(tuple(ids), tokenizer.decode(ids), tuple(name_objects(network, ids, question)))


class Spoken(NamedTuple):
    """An answer that was read as it was given.

    Attributes:
        ids: of its tokens, with those of what ended it; nothing ends an answer that was cut short.
        asked_states: (n, D), the state of each [SEG] in what was said before.
        states: (n, D), that of each [SEG] of the answer; its last token is never read, and has none.
    """

    ids: list[int]
    asked_states: torch.Tensor
    states: torch.Tensor


def speak(
    network: Sa2VA,
    asked: torch.Tensor,
    image_tokens: Any,
    max_new_tokens: int,
    answer: Sequence[int] | None = None,
    never: Sequence[int] = (),
    max_objects: int | None = None,
) -> Spoken:
    """Let the language model go on until its answer ends, each token being the likeliest one.

    The answer ends at the tokenizer's end of sequence, or at the chat template's suffix or stop words, each of which
    may be several tokens.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.
        asked: (L,) int64, all that was said before.
        image_tokens: of the pictures in ``asked``, ``None`` where there is none.
        max_new_tokens: most tokens of the answer.
        answer: ids of its tokens, where it is known.
        never: ids of tokens that are not said.
        max_objects: most [SEG]s that are said; ``None`` for any number.

    Raises:
        ConfigError: when ``max_new_tokens`` is below 1.
        PromptError: when what was said before fills the language model's context, or a known answer doesn't fit in.
    """
    limit, longest = check_max_new_tokens(max_new_tokens), network.config.text.max_position_embeddings
    room = longest - len(asked)
    if room < 1:
        raise PromptError(
            f"the prompt makes {len(asked)} tokens with its pictures; the language model takes {longest}: shorten it"
        )
    if answer is not None and len(answer) > room:
        raise PromptError(
            f"the answer makes {len(answer)} tokens behind a prompt of {len(asked)} tokens; the language model takes "
            f"{longest}: shorten it"
        )
    tokenizer, seg = network.tokenizer, network.processor.seg_token_id
    ends = _stop_words(network)
    reader = TokenReader(network)
    reader.feed(asked.tolist(), image_tokens, last=True)
    asked_states = reader.states[(asked == seg).to(reader.states.device)]
    states = [asked_states[:0]]
    ids: list[int] = []
    for number in range(min(limit, room) if answer is None else len(answer)):
        if answer is None:
            full = max_objects is not None and ids.count(seg) >= max_objects
            scores = reader.scores[: len(tokenizer)].clone()
            scores[[*never, *[seg] * full]] = -torch.inf
            ids.append(int(scores.argmax()))
            ended = ids[-1] == tokenizer.eos_token_id or _said(network, ids).endswith(ends)
        else:
            ids.append(answer[number])
            ended = number == len(answer) - 1
        if ended:
            break
        reader.feed(ids[-1:])
        if ids[-1] == seg:
            states.append(reader.states)
    # what was cut short behind its last token: as in the reference that one has no state
    return Spoken(ids, asked_states, torch.cat(states)[: ids[:-1].count(seg)])


def without_end(network: Sa2VA, ids: Sequence[int]) -> list[int]:
    """An answer's ids without what ended it, as :func:`speak` gives them."""
    kept, tokenizer = list(ids), network.tokenizer
    if kept and kept[-1] == tokenizer.eos_token_id:
        return kept[:-1]
    for word in _stop_words(network):
        if _said(network, kept).endswith(word):
            rest = tokenizer.decode(kept).rstrip("\r\n")
            return _beginning(kept, rest[: len(rest) - len(word)], network)
    return kept


def _stop_words(network: Sa2VA) -> tuple[str, ...]:
    template = get_template(network.config.template)
    return (template.suffix, *template.stop_words)


def _said(network: Sa2VA, ids: Sequence[int]) -> str:
    """The end of an answer as it is compared with stop words: line ends don't count, as in the reference."""
    # a stop word has no more tokens than bytes; some more for line ends in it
    return network.tokenizer.decode(list(ids[-_LONGEST_STOP:])).replace("\r", "").replace("\n", "")


def check_max_new_tokens(number: int) -> int:
    """The number, where an answer can have as many tokens.

    Raises:
        ConfigError: when it is below 1.
    """
    if number < 1:
        raise ConfigError(f"max_new_tokens is {number}; at least 1 is needed")
    return number


def _beginning(ids: list[int], text: str, network: Sa2VA) -> list[int]:
    """The longest beginning of an answer that says no more than this text."""
    for length in range(len(ids) - 1, -1, -1):
        if len(network.tokenizer.decode(ids[:length])) <= len(text):
            return ids[:length]
    return []


def name_objects(network: Sa2VA, ids: Sequence[int], question: str) -> list[str]:
    """A name for each [SEG] of an answer.

    Args:
        network: whose tokenizer made the ids.
        ids: of the answer's tokens.
        question: what was asked.

    Returns:
        As :class:`Reply` describes its names.
    """
    tokenizer, seg = network.tokenizer, network.processor.seg_token_id
    opens, closes = (int(tokenizer.convert_tokens_to_ids(mark)) for mark in ("<p>", "</p>"))
    found: list[str] = []
    start, phrase = -1, ""
    for place, token in enumerate(ids):
        if token == opens:
            start = place + 1
        elif token == closes and start >= 0:
            phrase, start = tokenizer.decode(list(ids[start:place]), skip_special_tokens=True).strip(), -1
        elif token == seg:
            found.append(phrase)
            phrase = ""
    asked = parse_phrases(question) or []
    return [name or (asked[i] if len(asked) == len(found) else question) for i, name in enumerate(found)]
