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

"""Questions in the reference's markup."""

from __future__ import annotations

from typing import Any

import pytest

from monai_sa2va.data.tokenizer import IMAGE_TOKENS, byte_tokenizer
from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.markup import encode_question, picture_markup, region_markup

TOKENIZER = byte_tokenizer()
PICTURE = "<img><IMG_CONTEXT><IMG_CONTEXT></img>"
ASKED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def _said(*arguments: Any, **options: Any) -> str:
    said: str = TOKENIZER.decode(encode_question(TOKENIZER, "qwen_chat", *arguments, **options))
    return said


def test_pictures_and_regions_are_written_as_the_reference_does() -> None:
    assert picture_markup(2, IMAGE_TOKENS) == PICTURE
    assert region_markup([], "<IMG_CONTEXT>") == ""
    assert region_markup([2, 0], "x") == (
        "\nThere are 2 part regions in the picture: region1<vp>xx</vp>, region2<vp></vp>.\n"
    )


def test_pictures_take_the_place_of_their_mark() -> None:
    assert _said("<image>Show the cyst.", pictures=PICTURE) == ASKED.format(PICTURE + "Show the cyst.")
    assert _said("See <image> here.", pictures=PICTURE) == ASKED.format(f"See {PICTURE} here.")
    assert _said("<image>Hello.") == ASKED.format("Hello.")


def test_turns_before_may_hold_the_pictures() -> None:
    before = ASKED.format("<image>What is this?") + "An eye.<|im_end|>"
    expected = ASKED.format(PICTURE + "What is this?") + "An eye.<|im_end|>" + ASKED.format("Where is the disc?")
    assert _said("Where is the disc?", before, PICTURE) == expected
    # filled in already
    assert _said("Where is the disc?", before.replace("<image>", PICTURE), PICTURE) == expected


def test_control_tokens_that_a_question_spells_out_are_control_tokens() -> None:
    ids = encode_question(TOKENIZER, "qwen_chat", "[SEG]")
    assert TOKENIZER.convert_tokens_to_ids("[SEG]") in ids


def test_pictures_may_always_come_first() -> None:
    assert _said("See <image> here.", pictures=PICTURE, pictures_first=True) == ASKED.format(PICTURE + "See  here.")
    assert _said("Here.", pictures=PICTURE, pictures_first=True) == ASKED.format(PICTURE + "Here.")
    assert _said("now.", "Before and ", pictures_first=True) == ASKED.format("Before and now.")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, "text is empty"),
        ((" ",), {}, "text is empty"),
        (("Show it.", None), {}, "past_text is a NoneType"),
        (("Show it.",), {"pictures": PICTURE}, "hold <image> 0 times; write it once"),
        (("<image><image>",), {"pictures": PICTURE}, "hold <image> 2 times"),
        (("<image>", PICTURE), {"pictures": PICTURE}, "hold <image> and image tokens"),
        (("Show it.", "x"), {"pictures": PICTURE, "pictures_first": True}, "past_text is not taken with a picture"),
    ],
)
def test_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        _said(*arguments, **options)


def test_what_opens_a_conversation_stands_before_its_first_turn_only() -> None:
    opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

    def said(*arguments: Any) -> str:
        text: str = TOKENIZER.decode(encode_question(TOKENIZER, "qwen_system_chat", *arguments))
        return text

    assert said("Hello.") == opening + ASKED.format("Hello.")
    before = opening + ASKED.format("Hello.") + "Hi.<|im_end|>"
    assert said("Where?", before) == before + ASKED.format("Where?")
