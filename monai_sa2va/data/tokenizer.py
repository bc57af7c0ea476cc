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

import os

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError

__all__ = ["BASE_TOKENS", "SA2VA_TOKENS", "byte_tokenizer", "load_tokenizer"]

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
"""Control tokens of the MLLM's own tokenizer that the byte-level one repeats."""

SA2VA_TOKENS = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
"""Tokens that Sa2VA adds, in the official order."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges: 256 bytes, then the control tokens. Any language, no files.

    Returns:
        A tokenizer of 267 tokens; ``<|im_end|>`` ends an answer, ``<|endoftext|>`` pads.
    """
    # the byte-level alphabet as tokenizers lists it is a set: sorted, so that ids never change
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    tokenizer.add_tokens(list(BASE_TOKENS + SA2VA_TOKENS), special_tokens=True)
    return tokenizer


def load_tokenizer(config: Sa2VAConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a configuration, checked against what Sa2VA needs.

    Raises:
        ConfigError: when the folder holds no tokenizer, a needed token is missing, or the tokenizer has more tokens
            than the language model.
    """
    if config.tokenizer == "bytes":
        tokenizer: PreTrainedTokenizerBase = byte_tokenizer()
    elif os.path.isdir(config.tokenizer):
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer, local_files_only=True, trust_remote_code=False)
    else:
        raise ConfigError(f"tokenizer is {config.tokenizer!r}; expected 'bytes' or the folder of a tokenizer")
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SA2VA_TOKENS if token not in vocabulary]
    if missing:
        raise ConfigError(f"tokenizer {config.tokenizer!r} lacks {', '.join(missing)}: it is not a Sa2VA tokenizer")
    if len(tokenizer) > config.text.vocab_size:
        raise ConfigError(
            f"tokenizer {config.tokenizer!r} has {len(tokenizer)} tokens, text.vocab_size is {config.text.vocab_size}"
        )
    return tokenizer
