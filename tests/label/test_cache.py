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
from monai.data import MetaTensor

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


def test_a_known_picture_is_not_encoded_again(
    segmenter: Segmenter, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache()
    plain = segmenter.segment(picture, "Segment the liver.")
    with cache.attached(segmenter.network, "a"):
        first = segmenter.segment(picture, "Segment the liver.")
        first_misses = cache.misses
        second = segmenter.segment(picture.copy(), "Segment the liver.")
        assert cache.misses == first_misses
        # of another sentence the picture is known
        computed: list[str] = []
        original = cache.get
        monkeypatch.setattr(cache, "get", lambda key, make: original(key, lambda: computed.append("") or make()))
        segmenter.segment(picture, "Segment the spine.")
        # its names, its tokens, what it tells, and what that draws
        assert len(computed) == 4
    for found in (first, second):
        np.testing.assert_array_equal(found.masks, plain.masks)
        np.testing.assert_array_equal(found.scores, plain.scores)


def test_a_click_more_is_drawn_once(segmenter: Segmenter, picture: np.ndarray) -> None:
    points = [[10, 12, 1], [30, 40, 0]]
    plain = segmenter.segment(picture, "Segment the liver.", points=points)
    cache = FeatureCache()
    with cache.attached(segmenter.network, "a"):
        segmenter.segment(picture, "Segment the liver.")
        for number in (1, 2):
            before = cache.misses
            found = segmenter.segment(picture, "Segment the liver.", points=points[:number])
            assert cache.misses == before + 1
    np.testing.assert_array_equal(found.masks, plain.masks)


@pytest.mark.parametrize("text", ["Segment the liver.", None])
def test_a_volume_is_the_same_whatever_is_known(
    segmenter: Segmenter, rng: np.random.Generator, text: str | None
) -> None:
    """Clicks, an undo, and what was asked before: bit for bit what a server answers that was just started."""
    volume = MetaTensor(torch.from_numpy(rng.integers(0, 255, (1, 40, 32, 6), dtype=np.uint8)), affine=torch.eye(4))
    clicks = [[10, 12, 2, 1], [30, 20, 4, 1], [9, 9, 2, 0]]
    warm = FeatureCache()
    masks = []
    for number in (1, 2, 3, 2, 1):
        answers = []
        for cache in (warm, FeatureCache(), FeatureCache(0)):
            with cache.attached(segmenter.network, "a"):
                answers.append(segmenter.correct(volume, text, points=clicks[:number], agreement=1.0))
        for other in answers[1:]:
            np.testing.assert_array_equal(answers[0].masks, other.masks)
            np.testing.assert_array_equal(answers[0].scores, other.scores)
        masks.append(answers[0].masks)
    # each click changes something, and an undo is exact
    assert (masks[0] != masks[1]).any()
    assert (masks[1] != masks[2]).any()
    np.testing.assert_array_equal(masks[1], masks[3])
    np.testing.assert_array_equal(masks[0], masks[4])


def test_what_is_known_has_the_key_of_its_content(segmenter: Segmenter) -> None:
    cache = FeatureCache()
    value = cache.get("a", lambda: ([torch.ones(3)], "text"))
    assert cache.key_of("draw", [value[0]]) == cache.key_of("draw", [value[0]])
    assert cache.key_of("draw", ["ab", "c"]) != cache.key_of("draw", ["a", "bc"])
    assert cache.key_of("draw", [[1], 2]) != cache.key_of("draw", [[1, 2]])
    assert cache.key_of("draw", [None]) != cache.key_of("draw", ["None"])
    assert cache.key_of("draw", [torch.zeros(2, 3)]) != cache.key_of("draw", [torch.zeros(3, 2)])
    with pytest.raises(TypeError, match="object has no key"):
        cache.key_of("draw", [object()])


def test_other_pixels_or_weights_are_not_known(segmenter: Segmenter, picture: np.ndarray) -> None:
    cache = FeatureCache()
    other = picture.copy()
    other[20:40, 20:40] ^= 128
    with cache.attached(segmenter.network, "a"):
        segmenter.segment(picture, "Segment the liver.")
        segmenter.segment(other, "Segment the liver.")
    with cache.attached(segmenter.network, "b"):
        segmenter.segment(picture, "Segment the liver.")
    # six steps of each, but for how the sentence is written, which the pixels don't change
    assert cache.misses == 6 + 5 + 6


def test_the_network_is_as_before(segmenter: Segmenter, picture: np.ndarray) -> None:
    cache = FeatureCache()
    with pytest.raises(RuntimeError), cache.attached(segmenter.network, "a"):
        raise RuntimeError
    segmenter.segment(picture, "Segment the liver.")
    assert cache.misses == 0


def test_another_network_is_not_kept(segmenter: Segmenter, picture: np.ndarray, micro_config: Sa2VAConfig) -> None:
    cache = FeatureCache()
    with cache.attached(Sa2VA(micro_config, seed=1), "a"):
        segmenter.segment(picture, "Segment the liver.")
    assert cache.misses == 0


def _value(number: int) -> torch.Tensor:
    return torch.full((10_000,), number, dtype=torch.uint8)


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = FeatureCache(max_bytes=25_000)
    for key in "ab":
        cache.get(key, lambda: _value(1))
    cache.get("a", lambda: _value(2))
    cache.get("c", lambda: _value(3))
    assert 20_000 < cache.size < 25_000
    assert cache.get("a", lambda: _value(4))[0] == 1
    assert cache.get("b", lambda: _value(5))[0] == 5


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = FeatureCache(max_bytes=5_000)
    cache.get("a", lambda: _value(1))
    assert cache.size == 0
    assert cache.get("a", lambda: _value(2))[0] == 2


def test_what_is_old_goes() -> None:
    now: Iterator[float] = iter([0.0, 0.0, 9.0, 10.0, 10.0])
    cache = FeatureCache(max_age=10.0, clock=lambda: next(now))
    cache.get("a", lambda: _value(1))
    assert cache.get("a", lambda: _value(2))[0] == 1
    assert cache.get("a", lambda: _value(3))[0] == 3
    assert 10_000 < cache.size < 15_000


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
