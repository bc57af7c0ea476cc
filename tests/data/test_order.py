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

from typing import Any

import numpy as np
import pytest
from monai.data import Dataset
from monai.transforms import Compose, RandomizableTransform
from torch.utils.data import Subset

from monai_sa2va.data.order import EpochOrder, SeededSamples, derive_seed


class Draw(RandomizableTransform):
    """The number of an item and one by chance."""

    def __call__(self, data: int) -> tuple[int, float]:
        return data, float(self.R.random())


class Shares:
    """Every second sample, from another one on in each epoch, as torch's sampler of several processes."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter(range(self.epoch % 2, 6, 2))


def order(epoch: int, first: int = 0, **settings: Any) -> list[tuple[int, int]]:
    numbers = EpochOrder(range(6), **{"seed": 3, "shuffle": True, **settings})
    numbers.seek(epoch, first)
    assert len(numbers) == (3 if "sampler" in settings else 6)
    return list(numbers)


def test_seeds_of_parts_are_unlike():
    assert derive_seed(0, 1, 2) == int(np.random.SeedSequence([0, 1, 2]).generate_state(1)[0])
    seeds = {derive_seed(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_an_epoch_has_one_order_however_it_is_entered():
    assert sorted(order(0)) == [(0, i) for i in range(6)]
    assert order(2) == order(2)
    assert order(2, first=4) == order(2)[4:]
    assert [i for _, i in order(0)] != [i for _, i in order(1)]
    assert order(1) != order(1, seed=4)


def test_without_shuffling_it_is_the_dataset_s():
    assert order(5, first=3, shuffle=False) == [(5, 3), (5, 4), (5, 5)]


def test_a_sampler_of_processes_knows_the_epoch():
    assert order(0, sampler=Shares()) == [(0, 0), (0, 2), (0, 4)]
    assert order(1, first=1, sampler=Shares()) == [(1, 3), (1, 5)]


@pytest.mark.parametrize("nested", [False, True])
def test_chance_hangs_on_epoch_and_sample_alone(nested: bool):
    dataset: Any = Dataset(range(4), Compose([Draw()]))
    samples = SeededSamples(Subset(dataset, range(4)) if nested else dataset, seed=1)
    assert len(samples) == 4
    forth = {key: samples[key] for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    back = {key: samples[key] for key in reversed(forth)}
    assert forth == back
    assert [number for number, _ in forth.values()] == [0, 1, 0, 1]
    assert len({draw for _, draw in forth.values()}) == 4


def test_what_has_no_transform_is_left_alone():
    assert SeededSamples(["a", "b"], seed=0)[7, 1] == "b"
