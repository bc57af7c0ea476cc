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

"""Which sample comes when, and what chance makes of it: functions of seed, epoch and sample, and of nothing else.

So an epoch can be entered at any batch without replaying those before it, and workers change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

__all__ = ["EpochOrder", "SeededSamples", "derive_seed"]


def derive_seed(seed: int, *numbers: int) -> int:
    """A seed of 32 bits for a part of a run.

    Args:
        seed: of the run, at least 0.
        *numbers: of the part, such as epoch and sample, at least 0.
    """
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


class EpochOrder(Sampler[tuple[int, int]]):
    """The indices of an epoch's samples, each with the epoch's number, from any place on.

    Args:
        samples: the dataset, of which only the length counts.
        seed: of the orders, at least 0.
        shuffle: whether each epoch has a random order of its own, else the dataset's.
        sampler: gives the order instead, by ``set_epoch`` where it has one, as torch's ``DistributedSampler``.
    """

    def __init__(self, samples: Sized, seed: int, shuffle: bool = False, sampler: Any = None) -> None:
        self.samples, self.seed, self.shuffle, self.sampler = samples, seed, shuffle, sampler
        self._epoch = self._first = 0

    def seek(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch, counted from 0, and how many of its samples are left out at its beginning."""
        self._epoch, self._first = epoch, first

    def __len__(self) -> int:
        """Samples of a whole epoch, wherever it is entered."""
        return len(self.samples if self.sampler is None else self.sampler)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Pairs of epoch and index."""
        order: list[int]
        if self.sampler is not None:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(self._epoch)
            order = list(self.sampler)
        elif self.shuffle:
            order = np.random.RandomState(derive_seed(self.seed, self._epoch)).permutation(len(self)).tolist()
        else:
            order = list(range(len(self)))
        return iter([(self._epoch, index) for index in order[self._first :]])


class SeededSamples(Dataset[Any]):
    """A dataset asked by pairs of epoch and index, whose random transforms are seeded anew for each sample.

    Only transforms that draw from their own ``R``, as MONAI's do, are seeded, not the generators of Python, numpy and
    torch that a whole process shares.

    Args:
        dataset: whose ``transform``, and those of the datasets in its ``dataset``, are seeded where they can be.
        seed: at least 0.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self._random: list[Any] = []
        while dataset is not None:
            transform = getattr(dataset, "transform", None)
            if hasattr(transform, "set_random_state"):
                self._random.append(transform)
            dataset = getattr(dataset, "dataset", None)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """The sample of an index, as it is in an epoch."""
        epoch, index = key
        seed = derive_seed(self.seed, epoch, index)
        for transform in self._random:
            transform.set_random_state(seed=seed)
        return self.dataset[index]
