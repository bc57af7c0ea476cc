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

import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, RandomizableTransform

from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.errors import ConfigError


def numbers(n: int) -> Dataset:
    return Dataset([{"index": i} for i in range(n)])


def indices(samples: list[dict[str, int]]) -> list[int]:
    return [sample["index"] for sample in samples]


def test_without_workers_their_options_are_dropped():
    loader = Sa2VADataLoader(numbers(5), 2, collate_fn=indices)
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (0, None, False)
    assert loader.pin_memory == torch.cuda.is_available()
    assert list(loader) == [[0, 1], [2, 3], [4]]
    assert list(Sa2VADataLoader(numbers(5), 2, collate_fn=indices, drop_last=True)) == [[0, 1], [2, 3]]


def test_with_workers_they_are_kept():
    loader = Sa2VADataLoader(numbers(4), batch_size=3, num_workers=1, prefetch_factor=4, collate_fn=indices)
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 4, True)
    assert not Sa2VADataLoader(numbers(4), num_workers=1, persistent_workers=False).persistent_workers
    assert list(loader) == [[0, 1, 2], [3]]


def test_batches_are_collated_for_the_network_by_default():
    def sample(length: int, tiles: int) -> dict[str, object]:
        return {
            "pixel_values": torch.zeros(tiles, 3, 4, 4),
            "g_pixel_values": torch.zeros(1, 3, 8, 8),
            "input_ids": torch.ones(length, dtype=torch.int64),
            "frames_per_batch": 1,
        }

    loader = Sa2VADataLoader(Dataset([sample(2, 1), sample(5, 3)]), batch_size=2)
    assert loader.collate_fn is sa2va_collate
    (batch,) = loader
    assert batch["pixel_values"].shape == (4, 3, 4, 4)
    assert batch["attention_mask"].sum(1).tolist() == [2, 5]


def test_what_torch_refuses_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        Sa2VADataLoader(numbers(2), batch_size=0)


class Noise(RandomizableTransform):
    def __call__(self, data: dict[str, int]) -> tuple[int, float]:
        return data["index"], float(self.R.random())


def seeded(workers: int = 0, **settings: object) -> Sa2VADataLoader:
    dataset = Dataset([{"index": i} for i in range(7)], Compose([Noise()]))
    return Sa2VADataLoader(
        dataset,
        2,
        num_workers=workers,
        seed=5,
        shuffle=True,
        collate_fn=list,
        **{"persistent_workers": True, **settings},
    )


def test_a_seeded_epoch_is_the_same_with_workers_and_from_any_batch_on():
    alone, helped = seeded(), seeded(workers=2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        whole = list(alone)
        helped.set_epoch(epoch)
        assert list(helped) == whole
        for loader in (alone, helped):
            loader.set_epoch(epoch, 2)
            assert list(loader) == whole[2:]
            assert len(loader) == 4
    alone.set_epoch(0)
    assert list(alone) != whole


def test_a_seeded_loader_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_bad_seeds(seed):
    with pytest.raises(ConfigError, match=r"seed is .*; give a whole number of at least 0"):
        Sa2VADataLoader(numbers(3), seed=seed)


def test_what_a_seed_needs():
    with pytest.raises(ConfigError, match="batch_sampler can't have a seed"):
        Sa2VADataLoader(numbers(3), seed=0, batch_sampler=[[0]])
    loader = Sa2VADataLoader(numbers(3), collate_fn=indices)
    loader.set_epoch(4)
    assert list(loader) == [[0], [1], [2]]
    with pytest.raises(ConfigError, match="without a seed can't begin in the midst of an epoch"):
        loader.set_epoch(4, 1)
