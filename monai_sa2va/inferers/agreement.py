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

"""Masks of one volume, drawn in several planes, brought to agree voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.transforms.geometry import PLANES, PlaneGeometry, slice_plane, thin_axis

__all__ = ["AGREEMENTS", "agree", "check_planes", "other_planes"]

AGREEMENTS = ("one", "majority", "mean")
"""In which planes a volume is segmented: in one; or in all three, and a voxel counts where two of them have it
(majority), or where the mean of their votes, weighed by the presence of the object in their slices, is above one half
(mean)."""

# a slice of thicker voxels shows too little across them
_LARGEST_RATIO = 2.0


def check_planes(planes: str) -> str:
    """How planes are brought to agree.

    Raises:
        ConfigError: when there is no such way.
    """
    if planes not in AGREEMENTS:
        raise ConfigError(f"planes is {planes!r}; allowed: {', '.join(AGREEMENTS)}")
    return planes


def other_planes(name: str, shape: Sequence[int], affine: np.ndarray, axis: int | str) -> list[str]:
    """The two planes besides the one that a volume is sliced in.

    Args:
        name: of the volume, for errors.
        shape: voxels along x, y, z.
        affine: (4, 4), index -> RAS in mm.
        axis: how it is sliced.

    Raises:
        DataError: when its voxels are much longer along one axis, or it is a slab, so that a plane across shows too
            little.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.max() > _LARGEST_RATIO * spacing.min():
        sides = " x ".join(f"{side:.3g}" for side in spacing)
        raise DataError(
            f"{name} has voxels of {sides} mm, too uneven to be segmented in three planes; give planes 'one'"
        )
    thin = thin_axis(shape, affine)
    if thin is not None:
        raise DataError(
            f"{name} is a slab of {shape[thin]} voxels across, too thin to be segmented in three planes; "
            "give planes 'one'"
        )
    own = slice_plane(shape, affine, axis)
    return [plane for plane in PLANES if plane != own]


def agree(found: Sequence[tuple[SliceResults, PlaneGeometry]], planes: str) -> SliceResults:
    """One mask an object, in the slices of the first plane.

    Args:
        found: the same objects in each plane.
        planes: ``"majority"`` or ``"mean"``.

    Returns:
        With presence and predicted IoU as the first plane's slices have them.
    """
    first, own = found[0]
    votes = [own.planes_of(geometry.view(results.masks)) for results, geometry in found]
    # of each plane's slices, spread over their voxels without a copy
    weights = [own.planes_of(geometry.view(_spread(results))) for results, geometry in found]
    agreed = SliceResults(len(first))
    for number, result in enumerate(first):
        here = np.stack([vote[:, number] for vote in votes])
        if planes == "majority":
            masks = 2 * here.sum(axis=0) > len(here)
        else:
            weight = np.stack([one[:, number] for one in weights])
            masks = 2 * (here * weight).sum(axis=0) > weight.sum(axis=0)
        agreed.keep(number, replace(result, masks=torch.from_numpy(masks)))
    return agreed


def _spread(results: SliceResults) -> NDArray[np.float32]:
    """(N, D, H, W) presence of each slice's objects."""
    presence = results.presence.T.numpy()[:, :, None, None]
    spread: NDArray[np.float32] = np.broadcast_to(presence, results.masks.shape)
    return spread
