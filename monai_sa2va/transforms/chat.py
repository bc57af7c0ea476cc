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

"""Chat templates by name, and conversations as token ids with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from monai_sa2va.errors import ConfigError

__all__ = [
    "CHAT_TEMPLATES",
    "IGNORED_LABEL",
    "ChatTemplate",
    "Control",
    "Segments",
    "Unlearnt",
    "UnlearntControl",
    "encode",
    "encode_conversation",
    "get_template",
]

IGNORED_LABEL = -100
"""Label of a position that isn't learnt."""


class Control(str):
    """Text that may become control tokens. Plain ``str`` never does, whatever a user typed."""

    __slots__ = ()


class Unlearnt(str):
    """Plain text of an answer that isn't learnt."""

    __slots__ = ()


class UnlearntControl(Control):
    """As :class:`Control`, in an answer, and not learnt."""

    __slots__ = ()


Segments = Sequence[str]
"""A text in pieces, each plain or :class:`Control`; of an answer some may be :class:`Unlearnt`."""


@dataclass(frozen=True)
class ChatTemplate:
    """The markup around a turn; ``{input}`` of the reference's templates is what stands between the two parts.

    Attributes:
        before: what opens a question.
        between: what closes the question and opens the answer.
        suffix: what closes an answer, and ends generation.
        separator: what stands between turns; never learnt.
        stop_words: what else ends generation.
        opening: what stands before the first question.
    """

    before: str
    between: str
    suffix: str
    separator: str = "\n"
    stop_words: tuple[str, ...] = ()
    opening: str = ""


CHAT_TEMPLATES: dict[str, ChatTemplate] = {
    "qwen_chat": ChatTemplate(
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", stop_words=("<|endoftext|>",)
    ),
    "internlm2_chat": ChatTemplate("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "phi3_chat": ChatTemplate("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>"),
    "qwen_system_chat": ChatTemplate(
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
        stop_words=("<|endoftext|>",),
        opening="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    ),
}
"""The reference's templates, which add no system prompt, and the one that Qwen2.5-VL itself comes with."""


def encode(tokenizer: PreTrainedTokenizerBase, segments: Segments) -> list[int]:
    """Token ids of a text in pieces.

    The special tokens in :class:`Control` pieces become their ids. All text between two of them is joined first, so
    that a byte-pair encoding sees it whole, as where a template's markup is no special token (Phi-3's under Qwen2).

    Args:
        tokenizer: turns text into ids.
        segments: the pieces.
    """
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    longest_first = sorted(special, key=len, reverse=True)
    boundary = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    ids: list[int] = []
    run = ""
    for piece in segments:
        end = 0
        for token in boundary.finditer(piece) if isinstance(piece, Control) else ():
            ids += _encode_plain(tokenizer, run + piece[end : token.start()])
            ids.append(special[token.group()])
            run, end = "", token.end()
        run += piece[end:]
    return ids + _encode_plain(tokenizer, run)


def get_template(name: str) -> ChatTemplate:
    """The chat template of a name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in CHAT_TEMPLATES:
        raise ConfigError(f"template is {name!r}; known: {', '.join(CHAT_TEMPLATES)}")
    return CHAT_TEMPLATES[name]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, template: str, turns: Sequence[tuple[Segments, Segments | None]]
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation.

    It begins with the token that the tokenizer puts before any text, where there is one (InternLM2's ``<s>``).

    Args:
        tokenizer: turns text into ids.
        template: name in :data:`CHAT_TEMPLATES`.
        turns: (question, answer) pairs; ``None`` in place of the last answer leaves the turn open for generation.

    Returns:
        Ids and labels, of equal length. Only answers and the suffix that ends them are labelled: of an answer not the
        pieces that are :class:`Unlearnt` or :class:`UnlearntControl`, and the suffix where any other piece is.

    Raises:
        ConfigError: for an unknown template.
    """
    chat = get_template(template)
    # what a tokenizer puts around nothing; the end is the template's
    ids = [int(i) for i in tokenizer.encode("")[:1] if i == tokenizer.bos_token_id]
    labels = [IGNORED_LABEL] * len(ids)
    for number, (question, answer) in enumerate(turns):
        opening = Control((chat.separator if number else chat.opening) + chat.before)
        asked = encode(tokenizer, [opening, *question, Control(chat.between)])
        ids += asked
        labels += [IGNORED_LABEL] * len(asked)
        for learnt, pieces in [] if answer is None else _learnt_runs(answer, chat.suffix):
            told = encode(tokenizer, pieces)
            ids += told
            labels += told if learnt else [IGNORED_LABEL] * len(told)
    return ids, labels


def _learnt_runs(answer: Segments, suffix: str) -> list[tuple[bool, list[str]]]:
    """An answer and what ends it, in runs of pieces that are learnt or not; one that has no piece is learnt."""
    runs: list[tuple[bool, list[str]]] = []
    for piece in answer:
        learnt = not isinstance(piece, (Unlearnt, UnlearntControl))
        if not runs or runs[-1][0] is not learnt:
            runs.append((learnt, []))
        runs[-1][1].append(piece)
    ends = not answer or any(learnt for learnt, _ in runs)
    if not runs or runs[-1][0] is not ends:
        runs.append((ends, []))
    runs[-1][1].append(Control(suffix))
    return runs


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if not text:
        return []
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids
