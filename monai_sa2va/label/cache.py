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

"""What a network computed before: features of slices, what sentences told of them, what was drawn and remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from PIL import Image

from monai_sa2va.errors import ConfigError
from monai_sa2va.inferers.steps import evaluating, keeping_steps
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["FeatureCache"]

# bytes that an entry takes beside its tensors, about
_LEAST = 512


class _Entry(NamedTuple):
    value: Any
    size: int
    until: float


class FeatureCache:
    """Results of an inferer's steps (:mod:`~monai_sa2va.inferers.steps`), each by all that it depends on.

    Keys are hashes of the weights, of the pixels, and of the prompts, so that nothing is computed twice, whoever asks
    and by whatever name an image is called. Nothing is kept of who asked for what: an answer is the same, bit for bit,
    whatever the cache holds.

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
        size = _size(value)
        if size <= self.max_bytes and self.max_age > 0:
            self._entries[key] = _Entry(value, size, self._clock() + self.max_age)
            for place, part in _places(value):
                self._keys[id(part)] = key + place
            self.size += size
            while self.size > self.max_bytes:
                self._remove(next(iter(self._entries)))
        return value

    @contextmanager
    def attached(self, network: Sa2VA, weights: str) -> Iterator[None]:
        """Let this thread's inferers look here before they run a step of a network.

        Args:
            network: used by one thread at a time; in evaluation mode meanwhile.
            weights: hash of its weights.
        """
        with evaluating(network), keeping_steps(_Kept(self, network, weights)):
            yield

    def key_of(self, kind: str, inputs: Sequence[Any]) -> str:
        """The key of what is computed from some inputs.

        Args:
            kind: what is computed, and by which weights.
            inputs: tensors, pictures, numbers, texts, and lists, tuples and dataclasses of them. What was computed
                itself, and is still kept, counts by its own key.
        """
        digest = hashlib.blake2b(kind.encode(), digest_size=32)
        self._add(digest, inputs)
        return digest.hexdigest()

    def _add(self, digest: Any, value: Any) -> None:
        known = self._keys.get(id(value))
        if known is not None:
            digest.update(known.encode())
        elif isinstance(value, torch.Tensor):
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Image.Image):
            digest.update(f"{value.mode}{value.size}".encode())
            digest.update(value.tobytes())
        elif value is None or isinstance(value, (str, int, float)):
            text = repr(value)
            digest.update(f"{len(text)}:{text}".encode())
        else:
            parts = _parts(value)
            digest.update(f"{type(value).__name__}{len(parts)}".encode())
            for part in parts:
                self._add(digest, part)

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            self._remove(key)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        for _, part in _places(entry.value):
            self._keys.pop(id(part), None)
        self.size -= entry.size


class _Kept:
    """Steps of one network, looked up in a cache."""

    def __init__(self, cache: FeatureCache, network: Sa2VA, weights: str) -> None:
        self.cache, self.network, self.weights = cache, network, weights
        self._kind = network.device.type

    def __call__(self, step: str, inputs: Sequence[Any], compute: Callable[[], Any]) -> Any:
        kind = self._kind
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return self.cache.get(self.cache.key_of(f"{self.weights}:{precision}:{step}", inputs), compute)


def _parts(value: Any) -> Sequence[Any]:
    """What a list, a tuple or a dataclass holds."""
    if isinstance(value, (list, tuple)):
        return value
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    raise TypeError(f"a {type(value).__name__} has no key")


def _places(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors in a value and what holds them, each with where it is."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, (list, tuple)) or dataclasses.is_dataclass(value):
        parts = [found for i, part in enumerate(_parts(value)) for found in _places(part, f"{place}.{i}")]
        # what holds none, as an empty tuple, may be the same object elsewhere
        if parts:
            yield place, value
        yield from parts


def _size(value: Any) -> int:
    return _LEAST + sum(part.nbytes for _, part in _places(value) if isinstance(part, torch.Tensor))
