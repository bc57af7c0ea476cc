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

"""Training on images and on clips of volumes and cines, each batch of one kind."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import distributed
from torch.utils.data import Dataset, Sampler

from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.headers import read_grid
from monai_sa2va.data.order import derive_seed
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DatalistError
from monai_sa2va.transforms.geometry import PlaneGeometry

__all__ = ["MixedDataset", "MixedOrder", "clip_entries"]

_LOGGER = logging.getLogger(__name__)


def clip_entries(
    datalists: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    section: str = "training",
    axis: int | str = "auto",
    length: int = 4,
    dataset_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Entries of the volumes and cines of datalists that clips can be made of; the others are left out.

    Of images only headers are read. Pictures are passed over; that a volume has fewer slices than a clip, or no
    prompts, is logged.

    Args:
        datalists: a path, or several.
        section: of the datalists.
        axis: along which slices are counted, as for :class:`~monai_sa2va.transforms.planes.ToPlane`.
        length: frames of a clip.
        dataset_dir: as ``base_dir`` of :func:`~monai_sa2va.data.datalist.load_datalist`.

    Raises:
        DatalistError: when a datalist can't be used, a volume has no orientation or not one label file, or nothing is
            left.
        DataError: when a file can't be read.
    """
    paths = [datalists] if isinstance(datalists, (str, os.PathLike)) else list(datalists)
    kept: list[dict[str, Any]] = []
    left_out: list[str] = []
    for entry in (entry for path in paths for entry in load_datalist(path, section, dataset_dir, optional=True)):
        grid, where = read_grid(entry[Keys.IMAGE]), f"image {entry[Keys.IMAGE]}"
        if len(grid.shape) == 2:
            continue
        if len(grid.shape) != 3 or grid.affine is None:
            known = "no" if grid.affine is None else "an"
            raise DatalistError(
                f"{where}: has {len(grid.shape)} axes and {known} orientation; clips need 3 axes and an orientation: "
                "write a cine's frames along the third axis"
            )
        if PlaneGeometry.of_volume(grid.shape, grid.affine, axis).depth < length or not entry[Keys.PROMPTS]:
            left_out.append(os.path.basename(entry[Keys.IMAGE]))
        elif not isinstance(entry.get(Keys.LABEL), str):
            raise DatalistError(f"{where}: give one label file, not {entry.get(Keys.LABEL)!r}; clips need it")
        else:
            kept.append(entry)
    if left_out:
        _LOGGER.warning(
            "%d volumes have fewer than %d slices, or no prompts, and give no clips, as %s",
            len(left_out),
            length,
            left_out[0],
        )
    if not kept:
        raise DatalistError(
            f"section '{section}' of {', '.join(map(str, paths))} has no volume or cine with prompts and at least "
            f"{length} slices; make some by 'monai-sa2va phantoms DIR --kind volume'"
        )
    return kept


class MixedDataset(Dataset[Any]):
    """Images, and behind them clips.

    Indices from ``len(images)`` on are clips; beyond the end they begin anew, so that a volume may give several clips
    an epoch, each by an index, and so by a chance, of its own.

    Args:
        images: gives samples of single images.
        clips: gives samples of clips, a new one each time it is asked for a volume's.

    Attributes:
        transform: seeds the random transforms of both, for :class:`~monai_sa2va.data.order.SeededSamples`.
    """

    def __init__(self, images: Any, clips: Any) -> None:
        self.images, self.clips = images, clips
        self.transform = _Seeds([getattr(part, "transform", None) for part in (images, clips)])

    def __len__(self) -> int:
        """Images and volumes together."""
        return len(self.images) + len(self.clips)

    def __getitem__(self, index: int) -> Any:
        """An image, or a clip."""
        first = len(self.images)
        return self.images[index] if index < first else self.clips[(index - first) % len(self.clips)]


class _Seeds:
    """The random transforms of several datasets as one."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = [transform for transform in transforms if hasattr(transform, "set_random_state")]

    def set_random_state(self, seed: int) -> None:
        for transform in self.transforms:
            transform.set_random_state(seed=seed)


class MixedOrder(Sampler[int]):
    """An epoch's order of a :class:`MixedDataset`, in which each batch is of one kind.

    An epoch has all images once, and as many batches of clips as make up ``clip_share`` of all its batches, spread
    among them by chance. All volumes give equally many clips, but for the last few. The order is a function of
    ``seed`` and epoch alone.

    It is the ``sampler`` of a :class:`~monai_sa2va.data.dataloader.Sa2VADataLoader` with the same ``batch_size``, which
    can then enter an epoch at any batch. On several GPUs all processes have batches of one kind at the same time.

    Args:
        dataset: of images and clips.
        batch_size: samples a batch of one process.
        clip_share: share of the batches that are clips, 0 to 1; with 1 an epoch has every volume about once.
        seed: of the orders, at least 0.
        processes: that share an epoch; those of torch.distributed where it runs, else 1.
        rank: number of this process, likewise.

    Raises:
        ConfigError: when ``batch_size`` or ``clip_share`` is out of its range.
    """

    def __init__(
        self,
        dataset: MixedDataset,
        batch_size: int = 1,
        clip_share: float = 0.3,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; at least 1 is needed")
        if not 0 <= clip_share <= 1:
            raise ConfigError(f"clip_share is {clip_share}; give a share of 0 to 1")
        joined = distributed.is_available() and distributed.is_initialized()
        self.processes = processes or (distributed.get_world_size() if joined else 1)
        self.rank = rank if rank is not None else distributed.get_rank() if joined else 0
        self.batch_size, self.seed = batch_size, seed
        self.first_clip, self.volumes = len(dataset.images), len(dataset.clips)
        self._whole = batch_size * self.processes
        if clip_share < 1:
            # all processes need equally many images, and so some come twice
            self.images = -(-len(dataset.images) // self.processes) * self.processes
            wanted = -(-self.images // self._whole) * clip_share / (1 - clip_share)
            self.clip_batches = max(round(wanted), 1) if clip_share else 0
        else:
            self.images, self.clip_batches = 0, -(-self.volumes // self._whole)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Samples of one process in an epoch."""
        return self.images // self.processes + self.clip_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Indices of the dataset; only the last batch may be smaller than the others."""
        random = np.random.RandomState(derive_seed(self.seed, self._epoch))
        images = np.resize(random.permutation(self.first_clip), self.images)
        needed = self.clip_batches * self._whole
        turns = [random.permutation(self.volumes) for _ in range(-(-needed // max(self.volumes, 1)))]
        firsts = [self.first_clip + turn * self.volumes for turn in range(len(turns))]
        clips = np.concatenate([images[:0], *(first + turn for first, turn in zip(firsts, turns, strict=True))])[
            :needed
        ]
        full = len(images) // self._whole * self._whole
        batches = np.concatenate([images[:full], clips]).reshape(-1, self._whole)
        for batch in (*random.permutation(batches), images[full:]):
            yield from batch[self.rank :: self.processes].tolist()
