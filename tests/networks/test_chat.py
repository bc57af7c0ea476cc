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


"""Generated answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.tokenizer import IMAGE_TOKENS
from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.networks import chat
from monai_sa2va.networks.chat import Reply, generate_reply, speak
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.chat import Control, encode

QUESTION = "Segment the vessels."


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=3).double().eval()


@pytest.fixture(scope="module")
def tokens(network: Sa2VA) -> torch.Tensor:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        return network.mllm.encode_image(network.processor.image(picture)["pixel_values"].double())


def _ids(network: Sa2VA, *pieces: str) -> list[int]:
    return encode(network.tokenizer, pieces)


@pytest.fixture
def says(network: Sa2VA, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a network answer what is given, whatever its weights say; how many tokens it read is kept."""

    def say(ids: Sequence[int], question: str = QUESTION, **options: Any) -> Reply:
        class Scripted:
            def __init__(self, _: Sa2VA) -> None:
                self.left = list(ids)

            def feed(self, read: Sequence[int], image_tokens: Any = None, last: bool = False) -> None:
                self.states = torch.zeros(len(read), 1)
                self.scores = torch.zeros(network.config.text.vocab_size)
                if self.left:
                    self.scores[self.left.pop(0)] = 1.0

        monkeypatch.setattr(chat, "TokenReader", Scripted)
        return generate_reply(network, tokens, question, **options)

    return say


@torch.no_grad()
def test_each_token_is_the_likeliest_after_a_whole_pass(network: Sa2VA, tokens: torch.Tensor) -> None:
    reply = generate_reply(network, tokens, QUESTION, max_new_tokens=12)
    assert len(reply.ids) == 12
    assert len(set(reply.ids)) > 1
    never = [network.tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS]
    ids = network.processor.conversation([(QUESTION, None)], 1)["input_ids"].tolist()
    for token in reply.ids:
        states = network.mllm.hidden_states(network.mllm.embed(torch.tensor([ids]), tokens), None)
        scores = network.mllm.vocabulary_logits(states[0, -1])
        scores[never] = -torch.inf
        assert token == int(scores.argmax())
        ids.append(token)
    assert reply.text == network.tokenizer.decode(reply.ids)


def test_phrases_name_the_masks_wherever_they_stand(network: Sa2VA, says: Any) -> None:
    p, q, seg = Control("<p>"), Control("</p>"), Control("[SEG]")
    answer = _ids(network, "I see ", p, "a cyst", q, " ", seg, "; below it ", p, " liver ", q, " here ", seg, ".")
    reply = says([*answer, *_ids(network, Control("<|im_end|>"), "more")])
    assert reply == Reply(
        tuple(answer), "I see <p>a cyst</p> [SEG]; below it <p> liver </p> here [SEG].", ("a cyst", "liver")
    )


def test_without_phrases_the_question_names_them(network: Sa2VA, says: Any) -> None:
    seg = Control("[SEG]")
    assert says(_ids(network, "It is ", seg, ".")).names == ("vessels",)
    assert says(_ids(network, seg, seg), "liver and spleen").names == ("liver", "spleen")
    assert says(_ids(network, seg, seg)).names == (QUESTION, QUESTION)
    # an empty phrase is none, and one that names a mask doesn't name the next
    answer = _ids(network, Control("<p>"), " ", Control("</p>"), seg, Control("<p>"), "x", Control("</p>"), seg, seg)
    assert says(answer).names == (QUESTION, "x", QUESTION)


def test_an_answer_without_any_mask(network: Sa2VA, says: Any) -> None:
    reply = says(_ids(network, "There is no cyst in this image.", Control("<|im_end|>")))
    assert (reply.text, reply.names) == ("There is no cyst in this image.", ())


def test_it_ends_at_the_limit_and_where_the_context_is_full(
    network: Sa2VA, says: Any, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says(_ids(network, "abcdef"), max_new_tokens=4).text == "abcd"
    asked = len(network.processor.conversation([(QUESTION, None)], 1)["input_ids"])
    for room, expected in ((3, "abc"), (1, "a")):
        text = replace(network.config.text, max_position_embeddings=asked + room)
        monkeypatch.setattr(network, "config", replace(network.config, text=text))
        assert says(_ids(network, "abcdef")).text == expected
    text = replace(network.config.text, max_position_embeddings=asked)
    monkeypatch.setattr(network, "config", replace(network.config, text=text))
    with pytest.raises(PromptError, match=rf"makes {asked} tokens with its pictures; the language model takes {asked}"):
        generate_reply(network, tokens, QUESTION)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        says([1], max_new_tokens=0)


def test_a_suffix_that_is_no_token_ends_it_too(network: Sa2VA, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "config", replace(network.config, template="phi3_chat"))
    assert says(_ids(network, "No.<|end|>never")).text == "No."
    assert says(_ids(network, "<|end|>")).ids == ()


def test_stop_words_of_the_template_end_it_and_line_ends_dont_count(
    network: Sa2VA, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says(_ids(network, "No.", Control("<|endoftext|>"), "never")).text == "No."
    monkeypatch.setattr(network, "config", replace(network.config, template="phi3_chat"))
    assert says(_ids(network, "No.<|end|>\r\nnever")).text == "No."
    assert says(_ids(network, "No.<|en\nd|>never")).text.startswith("No.")


def test_states_are_those_of_a_whole_pass(network: Sa2VA, tokens: torch.Tensor) -> None:
    """Each [SEG] that was read has its state; the last token of an answer is never read, and has none."""
    seg = network.processor.seg_token_id
    asked = network.processor.conversation([(QUESTION, None)], 1)["input_ids"]
    answer = _ids(network, "a", Control("[SEG]"), "b", Control("[SEG]"), "c", Control("[SEG]"))
    with torch.no_grad():
        spoken = speak(network, asked, tokens, 8, answer)
        ids = torch.cat([asked, torch.tensor(answer)])[None]
        whole = network.mllm.hidden_states(network.mllm.embed(ids, tokens), torch.ones_like(ids))
    assert spoken.ids == answer
    assert spoken.asked_states.shape == (0, network.config.text.hidden_size)
    torch.testing.assert_close(spoken.states, whole[ids == seg][:2])


def test_a_known_answer_that_is_longer_than_the_context(
    network: Sa2VA, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = network.processor.conversation([(QUESTION, None)], 1)["input_ids"]
    text = replace(network.config.text, max_position_embeddings=len(asked) + 3)
    monkeypatch.setattr(network, "config", replace(network.config, text=text))
    with torch.no_grad():
        assert len(speak(network, asked, tokens, 8, _ids(network, "abc")).ids) == 3
        with pytest.raises(PromptError, match="the answer makes 4 tokens behind a prompt of"):
            speak(network, asked, tokens, 8, _ids(network, "abcd"))


def test_no_picture_and_no_flood_of_masks(network: Sa2VA, says: Any) -> None:
    seg = network.processor.seg_token_id
    image = network.processor.image_token_id
    reply = says([image, seg, seg, *_ids(network, "a")], max_new_tokens=4)
    assert image not in reply.ids
    assert len(says([seg] * 200).names) == 64
