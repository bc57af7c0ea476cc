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

"""Reading the names of structures out of a free sentence, by the language model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import PromptError
from monai_sa2va.transforms.chat import Control, encode
from monai_sa2va.transforms.sentences import ANSWERS, check_prompt

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["read_phrases"]

# tokens that may stand between two objects (", and ") before the answer counts as ended
_MAX_BETWEEN = 8
_UNDECODABLE = "\ufffd"


def read_phrases(
    network: Sa2VA, image_tokens: torch.Tensor, text: str, max_tokens: int = 48, max_objects: int = 8
) -> list[str]:
    """Let the language model say which structures a sentence asks for.

    The answer is forced to begin with "Sure, <p>"; the model goes on greedily up to "</p>". " [SEG]" is forced behind
    each name, and where the model then opens another "<p>", the next name is read.

    Args:
        network: whose answers name their objects (``answer_form`` ``"named"``); in evaluation mode.
        image_tokens: (image tokens, D) of the picture, from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.encode_image`.
        text: the user's sentence.
        max_tokens: longest name, tokens.
        max_objects: most names; the model's others are left out.

    Returns:
        At least one name, none of them twice.

    Raises:
        PromptError: when the sentence is empty or too long, or the model names nothing.
    """
    question = check_prompt(text)
    tokenizer = network.tokenizer
    n_tiles = len(image_tokens) // network.config.tokens_per_tile
    asked: list[int] = network.processor.conversation([(question, None)], n_tiles)[Keys.INPUT_IDS].tolist()
    name_opens, name_closes = encode(tokenizer, [Control("<p>")]), encode(tokenizer, [Control("</p>")])
    seg = encode(tokenizer, [Control("</p>"), " ", Control("[SEG]")])

    reader = _GreedyReader(network)
    reader.feed(asked + encode(tokenizer, [ANSWERS[0].split("{}")[0]]) + name_opens, image_tokens)
    phrases: list[str] = []
    while len(phrases) < max_objects:
        name = reader.until(name_closes[0], max_tokens)
        phrase = "" if name is None else tokenizer.decode(name).strip()
        # a repeated name is a loop, not another object
        if not phrase or _UNDECODABLE in phrase or phrase in phrases:
            break
        phrases.append(phrase)
        reader.feed(seg)
        if reader.until(name_opens[0], _MAX_BETWEEN) is None:
            break
        reader.feed(name_opens)
    if not phrases:
        shown = question if len(question) <= 60 else question[:57] + "..."
        raise PromptError(f"the model finds no structure named in {shown!r}; name it, e.g. 'Segment the vessels.'")
    return phrases


class _GreedyReader:
    """Decodes token by token, keeping keys and values of what was read."""

    def __init__(self, network: Sa2VA) -> None:
        self._network = network
        self._cache: Any = None
        self._next = -1
        self._control = set(network.tokenizer.added_tokens_decoder)

    def feed(self, ids: list[int], image_tokens: torch.Tensor | None = None) -> None:
        """Read on with these tokens, whatever the model would have said."""
        network = self._network
        embeddings = network.mllm.embed(torch.tensor([ids], device=network.device), image_tokens)
        output = network.language_model(inputs_embeds=embeddings, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        self._next = int(network.mllm.vocabulary_logits(output.last_hidden_state[0, -1]).argmax())

    def until(self, stop: int, limit: int) -> list[int] | None:
        """What the model says before the token ``stop``; ``None`` where another control token or the limit is first."""
        said: list[int] = []
        while self._next != stop:
            if self._next in self._control or len(said) == limit:
                return None
            said.append(self._next)
            self.feed(said[-1:])
        return said
