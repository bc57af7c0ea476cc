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

"""The reference's markup: pictures and regions as image tokens, and questions that say ``<image>`` where they stand."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.chat import get_template

__all__ = ["IMAGE_MARK", "encode_question", "picture_markup", "region_markup"]

IMAGE_MARK = "<image>"
"""What a question says where its pictures stand."""


def picture_markup(number: int, tokens: tuple[str, str, str]) -> str:
    """Where one picture stands.

    Args:
        number: of its image tokens.
        tokens: what opens, closes and fills it, see :func:`~monai_sa2va.data.tokenizer.picture_tokens`.
    """
    opens, closes, fills = tokens
    return opens + fills * number + closes


def region_markup(numbers: Sequence[int], fills: str) -> str:
    """What stands behind a picture in which regions are pointed at; empty where there is none.

    Args:
        numbers: of image tokens of each region; the first is called region1.
        fills: the image token.
    """
    if not numbers:
        return ""
    regions = [f"region{index}<vp>{fills * number}</vp>" for index, number in enumerate(numbers, start=1)]
    return f"\nThere are {len(numbers)} part regions in the picture: {', '.join(regions)}.\n"


def encode_question(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    text: str,
    past_text: str = "",
    pictures: str = "",
    *,
    fills: str = "<IMG_CONTEXT>",
    pictures_first: bool = False,
) -> list[int]:
    """Token ids of a question, its turn left open, as the reference makes them.

    Unlike in :func:`~monai_sa2va.transforms.chat.encode_conversation` the whole text is markup: control tokens that it
    spells out become such.

    Args:
        tokenizer: turns text into ids.
        template: name of the chat template.
        text: the question.
        past_text: turns before it, with all their markup.
        pictures: takes the place of :data:`IMAGE_MARK`, which stands once in ``text`` or ``past_text``; the image
            tokens themselves may stand in ``past_text``. Without pictures the mark is left out.
        fills: the image token.
        pictures_first: whether pictures stand in front of the text, wherever it names them; there is no ``past_text``
            then, but without pictures, where it is what the question begins with.

    Raises:
        PromptError: when the text is empty, the pictures' place is missing or there twice, or turns before aren't
            taken.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError("text is empty; write what to ask, e.g. '<image>Please segment the vessels.'")
    if not isinstance(past_text, str):
        raise PromptError(f"past_text is a {type(past_text).__name__}; give the text of the turns before, or ''")
    if pictures_first:
        if pictures and past_text:
            raise PromptError("past_text is not taken with a picture by a checkpoint of Qwen's families; leave it out")
        text, past_text = IMAGE_MARK + (past_text + text).replace(IMAGE_MARK, ""), ""
    elif pictures:
        _check_places(text + past_text, fills)
    chat = get_template(template)
    asked = ("" if past_text else chat.opening) + chat.before + text.replace(IMAGE_MARK, pictures) + chat.between
    ids: list[int] = tokenizer.encode(past_text.replace(IMAGE_MARK, pictures) + asked)
    return ids


def _check_places(text: str, fills: str) -> None:
    """The pictures' place is named once, or filled in already."""
    marks = text.count(IMAGE_MARK)
    if fills in text and marks:
        raise PromptError(f"text and past_text hold {IMAGE_MARK} and image tokens; name the pictures' place once")
    if fills not in text and marks != 1:
        raise PromptError(
            f"text and past_text hold {IMAGE_MARK} {marks} times; write it once, where the pictures stand, e.g. "
            f"'{IMAGE_MARK}Please segment the vessels.'"
        )
