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

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.tokenizer import BASE_TOKENS, SA2VA_TOKENS, byte_tokenizer
from monai_sa2va.errors import ConfigError
from monai_sa2va.transforms.chat import (
    CHAT_TEMPLATES,
    IGNORED_LABEL,
    Control,
    Segments,
    Unlearnt,
    UnlearntControl,
    encode,
    encode_conversation,
)
from monai_sa2va.transforms.labels import LabelToMasksd
from monai_sa2va.transforms.processor import Sa2VAProcessor, Sa2VAProcessord
from monai_sa2va.transforms.prompts import RandAskd
from monai_sa2va.transforms.sentences import answer_segments

TOKENIZER = byte_tokenizer()
CONTROL = BASE_TOKENS + SA2VA_TOKENS


def _whole(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def test_templates_are_the_references() -> None:
    qwen = CHAT_TEMPLATES["qwen_chat"]
    assert qwen.before + "Q" + qwen.between + "A" + qwen.suffix == (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>"
    )
    assert CHAT_TEMPLATES["internlm2_chat"] == replace(qwen, stop_words=())
    assert qwen.stop_words == ("<|endoftext|>",)
    system = CHAT_TEMPLATES["qwen_system_chat"]
    assert system.opening == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert {name for name, chat in CHAT_TEMPLATES.items() if chat.opening} == {"qwen_system_chat"}
    assert replace(system, opening="") == qwen
    phi3 = CHAT_TEMPLATES["phi3_chat"]
    assert phi3.before + "Q" + phi3.between + "A" + phi3.suffix == "<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>"


def test_what_opens_a_conversation_stands_there_once() -> None:
    turns = [(["Q"], ["A"]), (["R"], ["B"])]
    ids, labels = encode_conversation(TOKENIZER, "qwen_system_chat", turns)
    plain, _ = encode_conversation(TOKENIZER, "qwen_chat", turns)
    opening = encode(TOKENIZER, [Control(CHAT_TEMPLATES["qwen_system_chat"].opening)])
    assert ids == opening + plain
    assert set(labels[: len(opening)]) == {IGNORED_LABEL}


def test_a_tokenizer_that_begins_every_text_begins_a_conversation() -> None:
    tokenizer = byte_tokenizer()
    first = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", first)]
    )
    plain = encode_conversation(TOKENIZER, "qwen_chat", [(["Q"], ["A"])])
    begun = encode_conversation(tokenizer, "qwen_chat", [(["Q"], ["A"])])
    assert begun == ([first, *plain[0]], [IGNORED_LABEL, *plain[1]])


def test_labels_cover_the_answer_and_what_ends_it() -> None:
    ids, labels = encode_conversation(TOKENIZER, "qwen_chat", [(["What?"], ["Sure, ", Control("[SEG]"), "."])])
    assert ids == _whole("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nSure, [SEG].<|im_end|>")
    answer = _whole("Sure, [SEG].<|im_end|>")
    assert labels == [IGNORED_LABEL] * (len(ids) - len(answer)) + answer


def test_several_turns() -> None:
    turns: list[tuple[Segments, Segments | None]] = [(["A?"], ["one"]), (["B?"], ["two"])]
    ids, labels = encode_conversation(TOKENIZER, "qwen_chat", turns)
    first = "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n"
    second = "\n<|im_start|>user\nB?<|im_end|>\n<|im_start|>assistant\n"
    assert ids == _whole(first + "one<|im_end|>" + second + "two<|im_end|>")
    supervised = [
        (_whole(first), False),
        (_whole("one<|im_end|>"), True),
        (_whole(second), False),
        (_whole("two<|im_end|>"), True),
    ]
    assert labels == [i if learnt else IGNORED_LABEL for part, learnt in supervised for i in part]


def test_what_is_marked_is_not_learnt_and_nothing_else() -> None:
    """One structure is there, one is not: of the answer, only the absent one's name and [SEG] are left out."""
    absent: Segments = [UnlearntControl("<p>"), Unlearnt("cyst"), UnlearntControl("</p>"), UnlearntControl("[SEG]")]
    answer = ["Sure, ", Control("<p>"), "liver", Control("</p>"), Control("[SEG]"), " and ", *absent, "."]
    ids, labels = encode_conversation(TOKENIZER, "qwen_chat", [(["Both?"], answer)])
    assert ids == _whole(
        "<|im_start|>user\nBoth?<|im_end|>\n<|im_start|>assistant\n"
        "Sure, <p>liver</p>[SEG] and <p>cyst</p>[SEG].<|im_end|>"
    )
    learnt = TOKENIZER.decode([label for label in labels if label != IGNORED_LABEL])
    assert learnt == "Sure, <p>liver</p>[SEG] and .<|im_end|>"
    assert all(label in (IGNORED_LABEL, i) for i, label in zip(ids, labels, strict=True))


def test_an_answer_that_is_not_learnt_at_all_ends_unlearnt() -> None:
    turns: list[tuple[Segments, Segments | None]] = [
        (["A?"], [Unlearnt("Sure, "), UnlearntControl("[SEG]"), Unlearnt(".")]),
        (["B?"], ["No."]),
        (["C?"], []),
    ]
    ids, labels = encode_conversation(TOKENIZER, "qwen_chat", turns)
    plain, _ = encode_conversation(
        TOKENIZER, "qwen_chat", [(["A?"], ["Sure, ", Control("[SEG]"), "."]), (["B?"], ["No."]), (["C?"], [])]
    )
    assert ids == plain
    assert TOKENIZER.decode([label for label in labels if label != IGNORED_LABEL]) == "No.<|im_end|><|im_end|>"


def test_open_turn_for_generation() -> None:
    ids, labels = encode_conversation(TOKENIZER, "qwen_chat", [(["A?"], None)])
    assert ids == _whole("<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n")
    assert set(labels) == {IGNORED_LABEL}


def test_unknown_template() -> None:
    with pytest.raises(ConfigError, match="template is 'llama'; known: qwen_chat, internlm2_chat, phi3_chat"):
        encode_conversation(TOKENIZER, "llama", [(["A?"], None)])


class TestUserText:
    """What a user types is never more than text."""

    @pytest.mark.parametrize("token", CONTROL)
    def test_typed_tokens_in_question_and_phrase(self, token: str) -> None:
        special = {TOKENIZER.convert_tokens_to_ids(t) for t in CONTROL}
        answer = answer_segments([f"vessels {token}"])
        ids, _ = encode_conversation(TOKENIZER, "qwen_chat", [([f"Segment {token}."], answer)])
        # the template's four and what ends the answer, <p>, </p> and one [SEG]
        expected = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<p>", "</p>", "[SEG]", "<|im_end|>"]
        assert [i for i in ids if i in special] == [TOKENIZER.convert_tokens_to_ids(t) for t in expected]
        assert TOKENIZER.decode(ids) == (
            f"<|im_start|>user\nSegment {token}.<|im_end|>\n<|im_start|>assistant\n"
            f"Sure, <p>vessels {token}</p> [SEG].<|im_end|>"
        )

    @pytest.mark.parametrize("token", CONTROL)
    def test_phrases_of_a_datalist_in_training(self, token: str, tmp_path: Path, micro_config: Sa2VAConfig) -> None:
        """From the file to the ids: joint, chat and absent questions hold no control token but our own."""
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(b"")
        prompts = {"1": token, "2": f"x{token}{token}"}
        entry = {"image": "a.png", "label": "b.png", "prompts": prompts, "absent": [f"{token} absent"]}
        (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry]}))
        (loaded,) = load_datalist(tmp_path / "datalist.json")
        label = np.array([[[0, 1], [2, 0]]])
        asked = LabelToMasksd(include_absent=True)({**loaded, "image": torch.zeros(3, 2, 2), "label": label})
        process = Sa2VAProcessord(Sa2VAProcessor(micro_config, TOKENIZER))
        markup = {TOKENIZER.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>")}
        for seed in range(8):
            ask = RandAskd(joint_prob=0.5, absent_prob=1.0, chat_absent_prob=0.5)
            ask.set_random_state(seed)
            sample = process(ask(asked))
            special = [i for i in sample["input_ids"].tolist() if i >= 256]
            places = [TOKENIZER.convert_tokens_to_ids(t) for t in ("<img>", "<IMG_CONTEXT>", "</img>")]
            turns = special.count(TOKENIZER.convert_tokens_to_ids("<|im_start|>")) // 2
            # two openings and two endings a turn, a picture, and a [SEG] and a pair of <p> a mask
            assert sum(i in markup for i in special) == 4 * turns
            image = micro_config.tokens_per_tile * len(sample["pixel_values"])
            assert [special.count(i) for i in places] == [1, image, 1]
            segs = [special.count(TOKENIZER.convert_tokens_to_ids(t)) for t in ("[SEG]", "<p>", "</p>")]
            assert segs == [len(sample["gt_masks"])] * 3
            assert special.count(TOKENIZER.convert_tokens_to_ids("<vp>")) == 0

    @given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from(CONTROL)), max_size=6))
    def test_no_text_becomes_a_control_token(self, pieces: list[str]) -> None:
        ids = encode(TOKENIZER, pieces)
        assert ids == list(encode(TOKENIZER, ["".join(pieces)]))
        assert all(i < 256 for i in ids)
        assert TOKENIZER.decode(ids) == "".join(pieces)

    def test_halves_of_a_token_do_not_meet(self) -> None:
        assert max(encode(TOKENIZER, ["[SE", "G]"])) < 256
        assert max(encode(TOKENIZER, ["[SE", Control("G]")])) < 256

    def test_all_of_it_with_an_official_tokenizer(self, oracle_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(oracle_dir / "internvl_qwen2" / "tokenizer")
        special = [token.content for token in tokenizer.added_tokens_decoder.values()]
        ids = encode(tokenizer, ["".join(special)])
        assert not {tokenizer.convert_tokens_to_ids(token) for token in special} & set(ids)


def _merging_tokenizer() -> PreTrainedTokenizerFast:
    """With a merge of "." and "<", as Qwen2's between a sentence and markup that is no special token there."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*alphabet, ".<"])}, merges=[(".", "<")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "[SEG]"], special_tokens=True)
    return tokenizer


class TestSameAsTheWholeString:
    @pytest.mark.parametrize("template", list(CHAT_TEMPLATES))
    def test_also_where_merges_cross_pieces(self, template: str) -> None:
        tokenizer = _merging_tokenizer()
        chat = CHAT_TEMPLATES[template]
        ids, labels = encode_conversation(
            tokenizer, template, [(["Segment ", "it."], ["Sure, ", Control("[SEG]"), "."])]
        )
        # question and answer are encoded apart, so that labels start where the answer does
        asked = tokenizer.encode(f"{chat.opening}{chat.before}Segment it.{chat.between}", add_special_tokens=False)
        told = tokenizer.encode(f"Sure, [SEG].{chat.suffix}", add_special_tokens=False)
        assert ids == asked + told
        assert labels == [IGNORED_LABEL] * len(asked) + told
        merged = tokenizer.convert_tokens_to_ids(".<")
        assert ids.count(merged) == (2 if template == "phi3_chat" else 0)

    def test_as_the_reference_has_it(self, oracle_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(oracle_dir / "internvl_qwen2" / "tokenizer")
        case = load_file(oracle_dir / "internvl_qwen2" / "image_1seg.safetensors")
        tiles, tokens = len(case["in.pixel_values"]), 4
        image = Control("<img>" + "<IMG_CONTEXT>" * (tiles * tokens) + "</img>")
        question: Segments = [image, "\nPlease segment the liver."]
        ids, labels = encode_conversation(tokenizer, "qwen_chat", [(question, answer_segments(["liver"], named=False))])
        prompt, answer = case["in.input_ids"][0].tolist(), case["output_ids"].tolist()
        assert ids == prompt + answer
        assert labels == [IGNORED_LABEL] * len(prompt) + answer
        assert ids == tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False)
