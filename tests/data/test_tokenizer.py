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

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.tokenizer import (
    BASE_TOKENS,
    IMAGE_TOKENS,
    QWEN_IMAGE_TOKENS,
    SA2VA_TOKENS,
    byte_tokenizer,
    load_tokenizer,
    picture_tokens,
)
from monai_sa2va.errors import ConfigError

TOKENIZER = byte_tokenizer()
# A trained network reads ids: these may never change.
IDS = {
    "<|im_end|>": 256,
    "<|endoftext|>": 257,
    "<|im_start|>": 258,
    "<img>": 259,
    "</img>": 260,
    "<IMG_CONTEXT>": 261,
    "[SEG]": 262,
    "<p>": 263,
    "</p>": 264,
    "<vp>": 265,
    "</vp>": 266,
}


def _encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_ids_are_fixed() -> None:
    assert len(TOKENIZER) == 267
    assert {token: TOKENIZER.convert_tokens_to_ids(token) for token in IDS} == IDS
    assert tuple(IDS) == BASE_TOKENS + SA2VA_TOKENS
    assert (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (256, 257)
    # the bytes of "Az ö": A, z, a space, and the two of ö
    assert _encode("Az \u00f6") == [32, 89, 220, 127, 114]


def test_control_tokens_are_one_id() -> None:
    assert _encode("Sure, <p>vessels</p> [SEG].").count(262) == 1
    assert _encode("<img><IMG_CONTEXT></img>") == [259, 261, 260]


@given(st.text(max_size=60))
def test_any_language_round_trips(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["Gefäße", "血管を抽出", "أوعية", "сосуды", "🩻 lung ", "  two  spaces\n\t", "[SEG]", "\x00"]
)
def test_languages(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert max(ids) < 256
    assert TOKENIZER.decode(ids) == text


def test_two_are_alike() -> None:
    assert byte_tokenizer().get_vocab() == TOKENIZER.get_vocab()


def test_load_bytes(micro_config: Sa2VAConfig) -> None:
    assert len(load_tokenizer(micro_config)) == 267


def test_load_folder(micro_config: Sa2VAConfig, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    loaded = load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))
    text = "Sure, <p>optic disc</p> [SEG]."
    assert loaded.encode(text, add_special_tokens=False) == _encode(text)


def test_load_official_layout(micro_config: Sa2VAConfig, oracle_dir: Path) -> None:
    folder = oracle_dir / "internvl_qwen2" / "tokenizer"
    config = replace(micro_config, tokenizer=str(folder), text=replace(micro_config.text, vocab_size=271))
    expected = json.loads((folder / "special_ids.json").read_text())
    loaded = load_tokenizer(config)
    assert {token: loaded.convert_tokens_to_ids(token) for token in expected} == expected


def test_qwens_families_have_marks_of_their_own(micro_qwens: dict[str, Sa2VAConfig], tmp_path: Path) -> None:
    for config in micro_qwens.values():
        loaded = load_tokenizer(config)
        expected = {"<|vision_start|>": 259, "<|vision_end|>": 260, "<|image_pad|>": 261, "[SEG]": 262, "</vp>": 266}
        assert {token: loaded.convert_tokens_to_ids(token) for token in expected} == expected
        assert len(loaded) == 267
    assert picture_tokens("internvl") == IMAGE_TOKENS
    assert picture_tokens("qwen3_vl") == picture_tokens("qwen2_5_vl") == QWEN_IMAGE_TOKENS
    # InternVL's tokenizer has no place for their pictures
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"lacks the special token <\|vision_start\|>, <\|vision_end\|>, <\|image_pad"
    ):
        load_tokenizer(replace(micro_qwens["qwen3_vl"], tokenizer=str(tmp_path)))


class TestRefusals:
    def test_neither_bytes_nor_a_folder(self, micro_config: Sa2VAConfig) -> None:
        with pytest.raises(ConfigError, match="tokenizer is 'words'; expected 'bytes' or the folder of a tokenizer"):
            load_tokenizer(replace(micro_config, tokenizer="words"))

    def test_folder_without_one(self, micro_config: Sa2VAConfig, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="can't be read") as error:
            load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))
        assert len(str(error.value).splitlines()) == 1

    def test_broken_file(self, micro_config: Sa2VAConfig, tmp_path: Path) -> None:
        byte_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(ConfigError, match="can't be read"):
            load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))

    @pytest.mark.parametrize("token", [*SA2VA_TOKENS[:1], *IMAGE_TOKENS])
    def test_missing_token(self, micro_config: Sa2VAConfig, tmp_path: Path, token: str) -> None:
        byte_tokenizer().save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            file = tmp_path / name
            file.write_text(file.read_text().replace(token, "<other>"))
        with pytest.raises(ConfigError, match="lacks the special token") as error:
            load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))
        assert token in str(error.value)

    def test_sentencepiece_alone(self, micro_config: Sa2VAConfig, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.model").write_bytes(b"")
        settings = {"tokenizer_class": "InternLM2Tokenizer", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(
            ConfigError, match=r"has tokenizer\.model alone, .*; put the tokenizer\.json of the same"
        ) as error:
            load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))
        assert "\n" not in str(error.value)
        # with what it asks for, code that the folder names is no matter
        byte_tokenizer().save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**saved, **settings}))
        found = load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))
        assert found("a[SEG]").input_ids == byte_tokenizer()("a[SEG]").input_ids

    def test_token_that_a_user_could_type(self, micro_config: Sa2VAConfig, tmp_path: Path) -> None:
        byte_tokenizer().save_pretrained(tmp_path)
        file = tmp_path / "tokenizer.json"
        content = json.loads(file.read_text())
        for token in content["added_tokens"]:
            token["special"] = token["content"] != "[SEG]"
        file.write_text(json.dumps(content))
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        for token in config.get("added_tokens_decoder", {}).values():
            token["special"] = token["content"] != "[SEG]"
        for key in ("extra_special_tokens", "additional_special_tokens"):
            config.pop(key, None)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=r"lacks the special token \[SEG\]"):
            load_tokenizer(replace(micro_config, tokenizer=str(tmp_path)))

    def test_more_tokens_than_the_language_model(self, micro_config: Sa2VAConfig) -> None:
        config = replace(micro_config, text=replace(micro_config.text, vocab_size=266))
        with pytest.raises(ConfigError, match=r"has 267 tokens, text\.vocab_size is 266"):
            load_tokenizer(config)
