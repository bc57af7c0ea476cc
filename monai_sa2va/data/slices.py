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
"""From volumes to slices: one entry of a datalist a slice, so that volumes train a 2D network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.data.datalist import parse_prompts
from monai_sa2va.data.headers import label_values, read_grid, read_label, same_grid
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DatalistError
from monai_sa2va.transforms.geometry import PlaneGeometry

__all__ = ["expand_slices"]

_log = logging.getLogger(__name__)


def expand_slices(
    entries: Iterable[Mapping[str, Any]], axis: int | str = "auto", keep: str = "labelled", every: int = 1
) -> list[dict[str, Any]]:
    """Replace each volume's entry by entries of its slices; pictures' entries stay as they are.

    Of images only headers are read, of labels all values. A slice's entry has its index under ``slice``, in LPS order,
    where :class:`~monai_sa2va.transforms.planes.ToPlaned` (with the same ``axis``) looks for it. It keeps the prompts
    whose values the slice holds; the names of the others join ``absent``, as the volume's label shows that they are
    not in this slice.

    Args:
        entries: as :func:`~monai_sa2va.data.datalist.load_datalist` gives them, each with at most one label file.
        axis: ``"auto"`` (the plane in which each volume was taken, see
            :func:`~monai_sa2va.transforms.geometry.slice_plane`), ``"axial"``, ``"coronal"``, ``"sagittal"``, or the
            number (-3 to 2) of a source axis.
        keep: ``"labelled"``: slices with a voxel of a prompted value; ``"all"``, for which entries need no label.
        every: only each so many-th of the slices kept, from the first on.

    Returns:
        New entries, in the order of volumes and slices; nothing of ``entries`` is changed.

    Raises:
        ConfigError: when an argument can't be used.
        DatalistError: when an entry has no or several labels where one is needed, its image is no picture or volume in
            space, or its label lies elsewhere.
        DataError: when a file can't be read.
    """
    if keep not in ("labelled", "all"):
        raise ConfigError(f"keep is {keep!r}; allowed: labelled, all")
    if every < 1:
        raise ConfigError(f"every is {every}; at least 1 is needed")
    expanded: list[dict[str, Any]] = []
    for entry in entries:
        grid = read_grid(entry[Keys.IMAGE])
        where = f"image {Path(entry[Keys.IMAGE]).name}"
        if len(grid.shape) == 2:
            expanded.append(dict(entry))
            continue
        if len(grid.shape) != 3 or grid.affine is None:
            known = "no" if grid.affine is None else "an"
            raise DatalistError(
                f"{where}: has {len(grid.shape)} axes and {known} orientation; slices need 3 axes and an orientation"
            )
        geometry = PlaneGeometry.of_volume(grid.shape, grid.affine, axis)
        label = entry.get(Keys.LABEL)
        if label is None and keep == "all":
            slices = [{**entry, Keys.SLICE.value: index} for index in range(geometry.depth)]
        elif isinstance(label, str):
            values, label_grid = read_label(label)
            differs = same_grid(grid, label_grid)
            if differs:
                raise DatalistError(f"{where}: label {Path(label).name} doesn't fit: {differs}")
            slices = _label_slices(entry, values, geometry)
            if keep == "labelled":
                slices = [piece for piece in slices if piece[Keys.PROMPTS]]
                if not slices:
                    _log.warning("%s: its label holds no value that a prompt names, so no slice is kept", where)
        else:
            given = "none" if label is None else f"a {type(label).__name__}"
            raise DatalistError(f"{where}: give one label file, not {given}; only keep='all' does without any")
        expanded += slices[::every]
    return expanded


def _label_slices(entry: Mapping[str, Any], values: np.ndarray, geometry: PlaneGeometry) -> list[dict[str, Any]]:
    planes = np.moveaxis(values, geometry.order[0], 0).reshape(geometry.depth, -1)
    prompts = parse_prompts(entry.get(Keys.PROMPTS, {}))
    if 1 in prompts and label_values(planes) == [255]:
        planes = planes // 255  # of a 0/255 label, 1 means the foreground
    held = {value: (planes == value).any(axis=1) for value in prompts}
    slices = []
    for index in range(geometry.depth):
        shown = {v: phrases for v, phrases in prompts.items() if held[v][geometry.source_index(index)]}
        names = {phrases[0] for phrases in shown.values()}
        missing = dict.fromkeys(phrases[0] for phrases in prompts.values() if phrases[0] not in names)
        slices.append(
            {
                **entry,
                Keys.PROMPTS.value: {str(value): list(phrases) for value, phrases in shown.items()},
                Keys.ABSENT.value: list(dict.fromkeys([*missing, *entry.get(Keys.ABSENT, [])])),
                Keys.SLICE.value: index,
            }
        )
    return slices
