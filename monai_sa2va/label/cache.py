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

"""Features that were computed before: of slices, and of sentences about them. Never masks, never what a user did."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["FeatureCache"]


class _Entry(NamedTuple):
    value: Any
    size: int
    until: float


class FeatureCache:
    """SAM2's maps and the language model's image tokens of slices, and what sentences told SAM2 about them.

    Keys are hashes of the weights, of the pixels that the encoders see, and of the sentence's tokens, so that a known
    image costs nothing twice, whoever asks and by whatever name it is called.

    Args:
        max_bytes: most that is kept; what was used longest ago goes first.
        max_age: seconds after which it goes anyway.
        clock: seconds, growing.

    Raises:
        ConfigError: when a bound is negative.
    """

    def __init__(
        self, max_bytes: int = 2**30, max_age: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_bytes < 0 or max_age < 0:
            raise ConfigError("the cache's bounds are negative; give 0 to keep nothing")
        self.max_bytes, self.max_age, self._clock = max_bytes, max_age, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # by identity, which is one object's alone while it is kept
        self._keys: dict[int, str] = {}
        self.size = self.hits = self.misses = 0

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._keys.clear()
        self.size = 0

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it isn't known."""
        self._expire()
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            self.hits += 1
            return found.value
        self.misses += 1
        value = make()
        size = sum(tensor.nbytes for tensor in _tensors(value))
        if size <= self.max_bytes and self.max_age > 0:
            self._entries[key] = _Entry(value, size, self._clock() + self.max_age)
            self._keys[id(value)] = key
            self.size += size
            while self.size > self.max_bytes:
                self._remove(next(iter(self._entries)))
        return value

    @contextmanager
    def attached(self, network: Sa2VA, weights: str) -> Iterator[None]:
        """Let a network's encoders look here first.

        Args:
            network: in evaluation mode; used by one thread at a time.
            weights: hash of its weights.
        """
        holders: tuple[tuple[Any, str], ...] = (
            (network.mllm, "encode_image"),
            (network.grounding_encoder, "encode"),
            (network, "language_embeddings"),
        )
        for holder, name in holders:
            setattr(holder, name, self._through(getattr(holder, name), f"{weights}:{name}"))
        try:
            yield
        finally:
            for holder, name in holders:
                # the class's own method is there again
                delattr(holder, name)

    def _through(self, compute: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def cached(*inputs: Any) -> Any:
            digest = hashlib.blake2b(kind.encode(), digest_size=32)
            for value in inputs:
                known = self._keys.get(id(value))
                if known is not None:
                    digest.update(known.encode())
                    continue
                for tensor in _tensors(value):
                    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            return self.get(digest.hexdigest(), lambda: compute(*inputs))

        return cached

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            self._remove(key)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._keys.pop(id(entry.value), None)
        self.size -= entry.size


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a tensor, or in a list or tuple of them."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (list, tuple)) else []
