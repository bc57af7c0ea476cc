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

"""Reading tokens one after another, with keys and values of what was read kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["TokenReader"]


class TokenReader:
    """Reads tokens and says what may follow, without reading anything twice.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.

    Attributes:
        scores: (vocabulary,) log-probabilities of the token that follows what was read.
        states: (tokens, D) of the tokens that were read last, of the layer whose [SEG] state SAM2 is prompted by.
        control: ids of all control tokens.
    """

    def __init__(self, network: Sa2VA) -> None:
        self._network = network
        self._cache: Any = None
        self._position = 0
        self.scores = self.states = torch.empty(0)
        self.control = set(network.tokenizer.added_tokens_decoder)

    @property
    def length(self) -> int:
        """Number of tokens read."""
        return 0 if self._cache is None else int(self._cache.get_seq_length())

    def feed(self, ids: Sequence[int], image_tokens: Any = None, last: bool = False) -> torch.Tensor:
        """Read on with these tokens, whatever the model would have said.

        Args:
            ids: at least one.
            image_tokens: from ``encode_image``, where ``ids`` hold the places of a picture.
            last: say only what follows the last of them; of a long prompt and a large vocabulary the others need far
                more memory than the language model.

        Returns:
            (tokens, vocabulary) log-probabilities of what follows each of them, or (1, vocabulary).
        """
        mllm, device = self._network.mllm, self._network.device
        embedded: Any = mllm.embed(torch.tensor([list(ids)], device=device), image_tokens)
        states, self._cache, self._position = mllm.read(embedded, self._cache, self._position)
        self.states = states[0]
        told = self.states[-1:] if last else self.states
        scores: torch.Tensor = mllm.vocabulary_logits(told).float().log_softmax(-1)
        self.scores = scores[-1]
        return scores

    def back_to(self, length: int) -> None:
        """Forget all but the first ``length`` tokens, of which no picture's; ``scores`` stay as they are."""
        # transformers crops by what is to be removed, as a negative number
        less = length - self._cache.get_seq_length()
        self._cache.crop(less)
        self._position += less
