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

"""Tokenizers: one made in code for the small presets, or the folder of a Hugging Face tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.transforms.chat import CHAT_TEMPLATES

__all__ = [
    "BASE_TOKENS",
    "IMAGE_TOKENS",
    "QWEN_IMAGE_TOKENS",
    "SA2VA_TOKENS",
    "byte_tokenizer",
    "load_tokenizer",
    "picture_tokens",
]

IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
"""What opens, closes and fills a picture's place in InternVL's tokenizers."""

QWEN_IMAGE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
"""The same in those of Qwen's vision models."""

_TEXT_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")

BASE_TOKENS = (*_TEXT_TOKENS, *IMAGE_TOKENS)
"""Control tokens of InternVL's own tokenizer that the byte-level one repeats."""

SA2VA_TOKENS = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
"""Tokens that Sa2VA adds, in the official order."""


def picture_tokens(family: str) -> tuple[str, str, str]:
    """What opens, closes and fills a picture's place in the tokenizer of a family of MLLMs."""
    return IMAGE_TOKENS if family == "internvl" else QWEN_IMAGE_TOKENS


def byte_tokenizer(family: str = "internvl") -> PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges: 256 bytes, then the control tokens. Any language, no files.

    Args:
        family: of MLLM, whose tokens for pictures it has.

    Returns:
        A tokenizer of 267 tokens; ``<|im_end|>`` ends an answer, ``<|endoftext|>`` pads.
    """
    # the byte-level alphabet as tokenizers lists it is a set: sorted, so that ids never change
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    # before transformers adds what ends and pads, in an order of its own
    core.add_special_tokens([*_TEXT_TOKENS, *picture_tokens(family), *SA2VA_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def load_tokenizer(config: Sa2VAConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a configuration, checked against what Sa2VA needs.

    Its end of sequence is always set: to what ends an answer in the chat template where it has none.

    Raises:
        ConfigError: when the folder holds no tokenizer, or one as ``tokenizer.model`` alone; a needed token is missing
            or isn't marked special (so that a user could type it); or the tokenizer has more tokens than the language
            model.
    """
    if config.tokenizer == "bytes":
        tokenizer: PreTrainedTokenizerBase = byte_tokenizer(config.family)
    elif os.path.isdir(config.tokenizer):
        _refuse_sentencepiece(config.tokenizer)
        try:
            tokenizer = _read(config.tokenizer)
        # tokenizers' own errors are plain Exceptions
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"tokenizer {config.tokenizer!r} can't be read: {reason}") from error
    else:
        raise ConfigError(f"tokenizer is {config.tokenizer!r}; expected 'bytes' or the folder of a tokenizer")
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    missing = [token for token in picture_tokens(config.family) + SA2VA_TOKENS if token not in special]
    if missing:
        raise ConfigError(
            f"tokenizer {config.tokenizer!r} lacks the special token {', '.join(missing)}: it is no Sa2VA tokenizer"
        )
    if len(tokenizer) > config.text.vocab_size:
        raise ConfigError(
            f"tokenizer {config.tokenizer!r} has {len(tokenizer)} tokens, text.vocab_size is {config.text.vocab_size}"
        )
    if tokenizer.eos_token_id is None:
        # without an end a chat would go on to its last token
        template = CHAT_TEMPLATES.get(config.template)
        if template is None or template.suffix not in special:
            raise ConfigError(
                f"tokenizer {config.tokenizer!r} has no end of sequence; set eos_token in its tokenizer_config.json"
            )
        tokenizer.eos_token = template.suffix
    return tokenizer


def _read(folder: str) -> PreTrainedTokenizerBase:
    files = Path(folder)
    settings = files / "tokenizer_config.json"
    code = settings.is_file() and "auto_map" in json.loads(settings.read_text(encoding="utf-8"))
    if code and (files / "tokenizer.json").is_file():
        # the file says all; AutoTokenizer would insist on the class that it names, whose code is the checkpoint's
        found: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return found
    # an empty configuration: the folder's config.json may be one that transformers doesn't know
    found = AutoTokenizer.from_pretrained(
        folder, config=PreTrainedConfig(), local_files_only=True, trust_remote_code=False
    )
    return found


def _refuse_sentencepiece(folder: str) -> None:
    """Refuse a folder that has a sentencepiece model alone: transformers' own conversion of it gives other ids.

    Raises:
        ConfigError: saying what to put there.
    """
    has = {name for name in ("tokenizer.model", "tokenizer.json", "vocab.json") if os.path.isfile(f"{folder}/{name}")}
    if has == {"tokenizer.model"}:
        raise ConfigError(
            f"tokenizer {folder!r} has tokenizer.model alone, which only code of the checkpoint reads exactly, and "
            "that is never run; put the tokenizer.json of the same tokenizer there, tokens of Sa2VA included"
        )
