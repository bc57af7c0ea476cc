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

"""From files to pixels: the same reading for training as for inference, once for all slices of a volume."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from monai_sa2va.data.read_image import read_image
from monai_sa2va.errors import DataError

__all__ = ["KeepLastD", "KeepLastDict", "KeepLastd", "LoadPixelsD", "LoadPixelsDict", "LoadPixelsd"]


class LoadPixelsd(MapTransform):
    """Read files by :func:`~monai_sa2va.data.read_image.read_image`, as inference does; values keep the file's type.

    A list of files with one channel each is stacked: (K, X, Y[, Z]).

    Args:
        keys: of the paths.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by a ``MetaTensor`` (C, X, Y) or (C, X, Y, Z).

        Raises:
            DataError: when a file can't be used, or the files of a list can't be stacked.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = _pixels(d[key], key)
        return d


def _pixels(path: Any, key: Hashable) -> MetaTensor:
    if isinstance(path, MetaTensor) or not isinstance(path, Sequence) or isinstance(path, str):
        return read_image(path).pixels
    sources = [read_image(one) for one in path]
    for source in sources:
        shape, first = tuple(source.pixels.shape), (1, *sources[0].pixels.shape[1:])
        if shape != first:
            raise DataError(f"{key} is a list, of which {source.name} is {shape}; expected {first}, as of one channel")
    return cast(MetaTensor, torch.cat([source.pixels for source in sources]))


class KeepLastd(MapTransform):
    """Apply transforms to files, and keep the outcome for the next entry of the same files.

    A volume has an entry for each of its slices. In a dataset's order they follow one another, so that each volume is
    read and windowed once, not once a slice; one outcome is held in memory. What comes after must not change it in
    place.

    Args:
        keys: of the paths, which ``transforms`` replace.
        transforms: dictionary transforms without randomness that look at nothing but ``keys``.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(
        self, keys: KeysCollection, transforms: Sequence[Callable[[Any], Any]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transforms = tuple(transforms)
        self._last: tuple[Any, dict[Hashable, Any]] = (None, {})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by what the transforms make of it."""
        files = {key: ensure_tuple(data[key]) for key in self.key_iterator(dict(data))}
        # read and written at once, since a dataset may fill its cache by several threads
        last, found = self._last
        if last != files:
            made: Any = {key: data[key] for key in files}
            for transform in self.transforms:
                made = transform(made)
            found = {key: made[key] for key in files}
            self._last = (files, found)
        return {**data, **found}


KeepLastD = KeepLastDict = KeepLastd
LoadPixelsD = LoadPixelsDict = LoadPixelsd
