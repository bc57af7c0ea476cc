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

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_sa2va import Sa2VA, Segmenter
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.label.cache import FeatureCache


@pytest.fixture(scope="module")
def segmenter(micro_config: Sa2VAConfig) -> Segmenter:
    return Segmenter(Sa2VA(micro_config, seed=0), device="cpu")


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (64, 48), dtype=np.uint8)


def test_a_known_picture_is_not_encoded_again(segmenter: Segmenter, picture: np.ndarray) -> None:
    cache = FeatureCache()
    plain = segmenter.segment(picture, "Segment the liver.")
    with cache.attached(segmenter.network, "a"):
        first = segmenter.segment(picture, "Segment the liver.")
        assert (cache.hits, cache.misses) == (0, 3)
        second = segmenter.segment(picture.copy(), "Segment the liver.")
        assert (cache.hits, cache.misses) == (3, 3)
        # of another sentence the picture is known
        segmenter.segment(picture, "Segment the spine.")
        assert (cache.hits, cache.misses) == (5, 4)
    for found in (first, second):
        np.testing.assert_array_equal(found.masks, plain.masks)
        np.testing.assert_array_equal(found.scores, plain.scores)


def test_clicks_are_the_same_with_and_without(segmenter: Segmenter, picture: np.ndarray) -> None:
    points = [[10, 12, 1], [30, 40, 0]]
    plain = segmenter.segment(picture, "Segment the liver.", points=points)
    cache = FeatureCache()
    with cache.attached(segmenter.network, "a"):
        segmenter.segment(picture, "Segment the liver.")
        before = cache.misses
        found = segmenter.segment(picture, "Segment the liver.", points=points)
    assert cache.misses == before
    np.testing.assert_array_equal(found.masks, plain.masks)


def test_other_pixels_or_weights_are_not_known(segmenter: Segmenter, picture: np.ndarray) -> None:
    cache = FeatureCache()
    other = picture.copy()
    other[20:40, 20:40] ^= 128
    with cache.attached(segmenter.network, "a"):
        segmenter.segment(picture, "Segment the liver.")
        segmenter.segment(other, "Segment the liver.")
    with cache.attached(segmenter.network, "b"):
        segmenter.segment(picture, "Segment the liver.")
    assert cache.hits == 0


def test_the_network_is_as_before(segmenter: Segmenter, picture: np.ndarray) -> None:
    with FeatureCache().attached(segmenter.network, "a"):
        pass
    assert "encode" not in vars(segmenter.network.grounding_encoder)
    with pytest.raises(RuntimeError), FeatureCache().attached(segmenter.network, "a"):
        raise RuntimeError
    assert "language_embeddings" not in vars(segmenter.network)


def _value(number: int) -> torch.Tensor:
    return torch.full((100,), number, dtype=torch.uint8)


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = FeatureCache(max_bytes=250)
    for key in "ab":
        cache.get(key, lambda: _value(1))
    cache.get("a", lambda: _value(2))
    cache.get("c", lambda: _value(3))
    assert cache.size == 200
    assert cache.get("a", lambda: _value(4))[0] == 1
    assert cache.get("b", lambda: _value(5))[0] == 5


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = FeatureCache(max_bytes=50)
    cache.get("a", lambda: _value(1))
    assert cache.size == 0
    assert cache.get("a", lambda: _value(2))[0] == 2


def test_what_is_old_goes() -> None:
    now: Iterator[float] = iter([0.0, 0.0, 9.0, 10.0, 10.0])
    cache = FeatureCache(max_age=10.0, clock=lambda: next(now))
    cache.get("a", lambda: _value(1))
    assert cache.get("a", lambda: _value(2))[0] == 1
    assert cache.get("a", lambda: _value(3))[0] == 3
    assert cache.size == 100


def test_bounds_are_checked() -> None:
    with pytest.raises(ConfigError):
        FeatureCache(max_bytes=-1)


def test_the_shipped_network_on_a_volume(phantom_dir: Path) -> None:
    from monai_sa2va.label.served_model import ServedModel

    model = ServedModel(device="cpu")
    file = sorted((phantom_dir / "volumes" / "images").iterdir())[0]
    with model.use() as one:
        first = one.segment(file, "Segment the spine.")
        misses = model.cache.misses
        again = one.segment(file, "Segment the spine.")
    assert model.cache.misses == misses
    np.testing.assert_array_equal(first.masks, again.masks)
