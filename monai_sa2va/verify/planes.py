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


"""Masks of one object in any format as planes that are counted as the source's frames, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Planes", "corner_error", "corners", "matrix_of", "step_mm"]


@dataclass(eq=False)
class Planes:
    """What one file, or several that belong together, say of an object.

    Attributes:
        kind: the format, as messages call it.
        masks: (X, Y) bool by number of the source's frame; frames without any voxel are left out.
        places: (4, 4) index -> LPS in mm of the first voxel's plane, by number of the source's frame.
        frame_of_reference: UID; ``None`` where the format has none, or the file doesn't say.
    """

    kind: str
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    places: dict[int, np.ndarray] = field(default_factory=dict)
    frame_of_reference: str | None = None

    @property
    def voxels(self) -> int:
        """How many belong to the object."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    def put(self, z: int, mask: np.ndarray) -> None:
        """Add a frame's mask, unless it is empty."""
        if mask.any():
            self.masks[z] = mask

    def differs(self, other: Planes) -> int:
        """How many voxels only one of both has; a frame of another size counts with all of its voxels."""
        count = 0
        for z in {*self.masks, *other.masks}:
            first, second = self.masks.get(z), other.masks.get(z)
            if first is None or second is None or first.shape != second.shape:
                count += sum(int(mask.sum()) for mask in (first, second) if mask is not None)
            else:
                count += int((first != second).sum())
        return count


def matrix_of(position: Any, orientation: Any, spacing: Any) -> np.ndarray:
    """(4, 4): (column, row, 0, 1) -> LPS in mm, of DICOM's attributes."""
    where, ways, steps = (np.asarray(value, dtype=np.float64) for value in (position, orientation, spacing))
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 3] = ways[:3] * steps[1], ways[3:] * steps[0], where
    matrix[:3, 2] = np.cross(ways[:3], ways[3:])
    return matrix


def corners(matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(4, 3) mm: the centres of a plane's corner pixels."""
    far = np.array(shape) - 1
    index = np.array([[0, 0, 0, 1], [far[0], 0, 0, 1], [0, far[1], 0, 1], [far[0], far[1], 0, 1]])
    placed: np.ndarray = (index @ matrix.T)[:, :3]
    return placed


def corner_error(
    places: Mapping[int, np.ndarray], reference: Mapping[int, np.ndarray], shape: tuple[int, int]
) -> float | None:
    """The largest distance in mm between corners of the same frames; ``None`` where no frame is in both."""
    both = places.keys() & reference.keys()
    errors = [
        np.linalg.norm(corners(places[z], shape) - corners(reference[z], shape), axis=1).max() for z in sorted(both)
    ]
    return float(max(errors)) if errors else None


def step_mm(matrix: np.ndarray) -> float:
    """How far the next plane is across this one, whatever shear there is."""
    across = np.cross(matrix[:3, 0], matrix[:3, 1])
    return abs(float(matrix[:3, 2] @ across)) / float(np.linalg.norm(across))
