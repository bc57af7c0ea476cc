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

"""The true masks of a datalist's entry, on the grid of what was segmented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_sa2va.data.headers import Grid, same_grid
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.labels import LabelToMasks
from monai_sa2va.transforms.load import LoadPixelsd
from monai_sa2va.transforms.source import grid_of, source_name

__all__ = ["Truth", "phrases_of"]


def phrases_of(entry: Mapping[str, Any], include_absent: bool = True) -> list[str]:
    """What is asked of an entry: the first phrase of each structure, then the absent ones, each once."""
    named = [phrases[0] for phrases in entry.get(Keys.PROMPTS, {}).values()]
    return list(dict.fromkeys([*named, *(entry.get(Keys.ABSENT, []) if include_absent else [])]))


class Truth:
    """The label of an entry, read at once.

    Args:
        entry: of a datalist.
        include_absent: whether its absent phrases are asked for.

    Raises:
        DataError: when the label can't be read, or is missing though there are prompts.
    """

    def __init__(self, entry: Mapping[str, Any], include_absent: bool = True) -> None:
        self._entry, self._to_masks = entry, LabelToMasks(include_absent=include_absent)
        self._label = None
        if entry.get(Keys.LABEL) is not None:
            self._label = LoadPixelsd(Keys.LABEL)({Keys.LABEL: entry[Keys.LABEL]})[Keys.LABEL]
        elif entry.get(Keys.PROMPTS):
            raise DataError("the entry has prompts and no label, so there is no truth; give the label's path")

    def masks(self, grid: Grid) -> dict[str, np.ndarray]:
        """Masks of what was asked for.

        Args:
            grid: of the source that was segmented.

        Returns:
            First phrase -> (X, Y) or (X, Y, Z) bool; the union, where several values have one name.

        Raises:
            DataError: when the label has another grid, or values that don't fit its prompts.
        """
        if self._label is not None:
            reason = same_grid(grid, grid_of(self._label))
            if reason:
                raise DataError(f"{source_name(self._label, Keys.LABEL)} doesn't fit its image: {reason}")
        made = self._to_masks(
            self._label, self._entry.get(Keys.PROMPTS, {}), self._entry.get(Keys.ABSENT) or (), grid.shape
        )
        masks: dict[str, np.ndarray] = {}
        for name, mask in zip(made.names, np.asarray(made.masks, dtype=bool), strict=True):
            masks[name] = masks[name] | mask if name in masks else mask
        return masks
