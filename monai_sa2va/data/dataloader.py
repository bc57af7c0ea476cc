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
        **kwargs: of :class:`torch.utils.data.DataLoader`; ``collate_fn`` is
            :func:`monai_sa2va.data.collate.sa2va_collate` unless given.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        **kwargs: Any,
    ) -> None:
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
