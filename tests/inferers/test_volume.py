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

"""Volumes by sentences: slice by slice, and propagated from the slices that show an object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.inferers.tracking import ObjectTracker
from monai_sa2va.inferers.volume import VolumeInferer, check_context
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.sa2va import Sa2VA

PROMPTS = ["Segment the liver and the spleen.", "Segment the cyst."]


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


@pytest.fixture(scope="module")
def slices() -> list[np.ndarray]:
    return list(np.random.default_rng(2).integers(0, 256, (16, 24, 40, 3)).astype(np.uint8))


class _Held(ImageInferer):
    """Objects are there in these slices alone; all else is the network's."""

    def __init__(self, slices: list[np.ndarray], *held: range) -> None:
        super().__init__(presence_threshold=0.0)
        self.slices, self.held = slices, held
        self.asked: list[int] = []

    def __call__(self, inputs: Any, *arguments: Any, **named: Any) -> ImageResult:
        found = super().__call__(inputs, *arguments, **named)
        number = next(i for i, one in enumerate(self.slices) if one is inputs)
        self.asked.append(number)
        there = torch.tensor([number in held for held in self.held])
        masks = torch.ones_like(found.masks) & there[:, None, None]
        return replace(found, masks=masks, presence=torch.where(there, 1.0, -1.0))


def test_slices_are_asked_by_themselves(network: Sa2VA, slices: list[np.ndarray]) -> None:
    steps: list[tuple[int, int]] = []
    inferer = ImageInferer()
    found = VolumeInferer()(slices[:3], network, PROMPTS, inferer, progress=lambda *step: steps.append(step))
    for number, one in enumerate(slices[:3]):
        alone = inferer(one, network, PROMPTS)
        assert torch.equal(found[number].masks, alone.masks)
        torch.testing.assert_close(found[number].presence, alone.presence)
    assert found[0].names == ["liver", "spleen", "cyst"]
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_each_object_is_propagated_through_its_own_slices(network: Sa2VA, slices: list[np.ndarray]) -> None:
    held = _Held(slices, range(2, 8), range(5, 13), range(0))
    steps: list[tuple[int, int]] = []
    inferer = VolumeInferer("propagate", step=3, finest_step=3, patience=16)
    found = inferer(slices, network, PROMPTS, held, progress=lambda *step: steps.append(step))
    drawn = found.masks.any(axis=(2, 3))
    for item, own in enumerate((range(2, 8), range(5, 13), range(0))):
        assert {number for number in range(16) if drawn[item, number]} <= set(own)
        # what was asked keeps what the sentence drew
        assert all(found.masks[item, number].all() for number in held.asked if number in own)
    assert len(held.asked) == len(set(held.asked)) < 16
    assert set(range(2, 13)) - set(held.asked), "memory has something to draw"
    assert [a for a, _ in steps] == sorted(a for a, _ in steps)
    assert steps[-1] == (16, 16)


def test_memory_draws_from_the_slices_around(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[tuple[int, bool, list[int]]] = []
    original = ObjectTracker.carry

    def carry(self: ObjectTracker, number: int, maps: Any, reverse: bool = False) -> Any:
        carried.append((number, reverse, self.bank.conditioned))
        return original(self, number, maps, reverse)

    monkeypatch.setattr(ObjectTracker, "carry", carry)
    held = _Held(slices, range(3, 10))
    VolumeInferer("propagate", "uniform", n_context=4, patience=16)(slices, network, "Segment the cyst.", held)
    # asked are 2, 6, 8 (the middle), 10 and 14; 6 and 8 show it
    assert sorted(held.asked) == [2, 6, 8, 10, 14]
    assert carried == [
        (7, False, [6, 8]),
        (9, False, [6, 8]),
        (5, True, [6, 8]),
        (4, True, [6, 8]),
        (3, True, [6, 8]),
    ]


def test_what_is_gone_is_no_longer_looked_for(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[int] = []
    original = ObjectTracker.carry

    def carry(self: ObjectTracker, number: int, maps: Any, reverse: bool = False) -> Any:
        carried.append(number)
        decoded = original(self, number, maps, reverse)
        # in slice 10 for the last time
        score = 1e3 if number <= 10 else -1e3
        return decoded._replace(object_scores=torch.full_like(decoded.object_scores, score))

    monkeypatch.setattr(ObjectTracker, "carry", carry)
    held = _Held(slices, range(8, 9))
    held.presence.threshold = 0.5
    inferer = VolumeInferer("propagate", "uniform", n_context=1, patience=2)
    found = inferer(slices, network, "Segment the cyst.", held)
    assert [number for number in carried if number > 8] == [9, 10, 11, 12]
    assert not found.masks[0, 11:].any()


def test_memory_does_not_grow_with_the_volume(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = MemoryBank.add

    def add(self: MemoryBank, *arguments: Any) -> None:
        original(self, *arguments)
        sizes.append(len(self))

    monkeypatch.setattr(MemoryBank, "add", add)
    held = _Held(slices[:1], range(1))
    held.asked = []
    inferer = VolumeInferer("propagate", "uniform", n_context=2, patience=1000)
    inferer(slices[:1] * 64, network, "Segment the cyst.", ImageInferer(presence_threshold=0.0))
    assert len(sizes) > 50
    assert max(sizes) <= 32 + 2 * 15


def test_what_another_view_was_found_to_hold_is_taken_over(network: Sa2VA, slices: list[np.ndarray]) -> None:
    known = ImageInferer()(slices[0], network, PROMPTS)
    known = replace(known, phrases=[["liver"], ["cyst", "bone"]])
    found = VolumeInferer()(slices[:2], network, PROMPTS, ImageInferer(), known=known)
    assert found[0].names == ["liver", "cyst", "bone"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volume": "all"}, "volume is 'all'; allowed: auto, slices, propagate"),
        ({"context": "first5"}, "context is 'first5'; allowed: sweep, uniform"),
        ({"n_context": 0}, "n_context is 0"),
        ({"step": 0}, "step is 0; give at least 1, or null"),
        ({"finest_step": 0}, "finest_step is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"min_share": 1.5}, "min_share is 1.5; give 0 to 1"),
        ({"max_conditioned": 1}, "max_conditioned is 1"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VolumeInferer(**arguments)


@pytest.mark.parametrize(("context", "volume"), [("sweep", "slices"), ("first5", "slices"), ("first5", "propagate")])
def test_contexts_that_contradict_the_way(context: str, volume: str) -> None:
    with pytest.raises(ConfigError, match=f"context is '{context}', which volume '{volume}' has no use for"):
        check_context(context, volume)


def test_windows_are_for_slices(network: Sa2VA, slices: list[np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="volume is 'propagate', which sees slices whole; leave out roi_size"):
        VolumeInferer("propagate")(slices, network, "Segment the cyst.", ImageInferer(roi_size=16))
