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
"""The loader of batches, with defaults that hold with and without workers and GPUs."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader
from torch.utils.data import Dataset

from monai_sa2va.data.order import EpochOrder, SeededSamples
from monai_sa2va.errors import ConfigError

__all__ = ["Sa2VADataLoader"]


class Sa2VADataLoader(DataLoader):
    """MONAI's loader (its workers seed random transforms) for samples of unequal tiles, tokens and objects.

    Args:
        dataset: gives samples as dictionaries.
        batch_size: samples a batch.
        num_workers: processes that load; 0 loads in the training process.
        prefetch_factor: batches that each worker loads ahead; dropped where there are no workers, as torch refuses it.
        persistent_workers: whether workers outlive an epoch; dropped likewise.
        pin_memory: whether batches lie in page-locked memory for faster copies to a GPU; dropped where CUDA isn't
            available.
        seed: makes the order of an epoch (with ``shuffle``, or as a ``sampler`` gives it) and the random transforms of
            its samples functions of the seed, the epoch and the sample, whatever ``num_workers``; ``None`` draws them
            from what torch's global generator holds.
        **kwargs: of :class:`torch.utils.data.DataLoader`; ``collate_fn`` is
            :func:`monai_sa2va.data.collate.sa2va_collate` unless given.

    Raises:
        ConfigError: when ``seed`` can't be used.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.seed = seed
        self._order: EpochOrder | None = None
        if seed is not None:
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise ConfigError(f"seed is {seed!r}; give a whole number of at least 0, or null for none")
            if kwargs.get("batch_sampler") is not None:
                raise ConfigError("a loader with a batch_sampler can't have a seed; leave one of them out")
            # the length is all that it needs of the dataset
            self._order = EpochOrder(dataset, seed, bool(kwargs.pop("shuffle", False)), kwargs.pop("sampler", None))  # type: ignore[arg-type]
            # a generator of its own, lest a loader that is opened once more than another moves the global one
            kwargs |= {"sampler": self._order, "generator": torch.Generator().manual_seed(seed)}
            dataset = SeededSamples(dataset, seed)
        if "collate_fn" not in kwargs:
            from monai_sa2va.data.collate import sa2va_collate

            kwargs["collate_fn"] = sa2va_collate
        if num_workers > 0:
            kwargs |= {"prefetch_factor": prefetch_factor, "persistent_workers": persistent_workers}
        super().__init__(
            dataset,
            num_workers=num_workers,
            batch_size=batch_size,
            pin_memory=pin_memory and torch.cuda.is_available(),
            **kwargs,
        )

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration gives.

        Args:
            epoch: counted from 0.
            first_batch: batches of the epoch that are left out at its beginning; none of them is loaded.

        Raises:
            ConfigError: when batches are to be left out, but without a seed the order isn't known.
        """
        if self._order is not None:
            self._order.seek(epoch, first_batch * (self.batch_size or 1))
        elif first_batch:
            raise ConfigError("a loader without a seed can't begin in the midst of an epoch; give it one")
        elif hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
