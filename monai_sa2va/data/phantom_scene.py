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

"""A phantom in the making: which structures it holds, the image they are painted on, and what stays visible."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from monai_sa2va.data.phantom_course import Pose, Section
from monai_sa2va.data.phantom_shapes import REFERENCE_SIZE, BoolMask, Field, blob, field, vessel_tree

__all__ = ["STRUCTURES", "Scene"]

_PRESENT = 0.76  # chance of a structure that may be missing, before _SHARED is seen to
_SMALLEST = 30  # a structure with fewer visible pixels (of the reference size) counts as hidden
_SMALLEST_IN_SECTION = 8  # likewise in a slice or frame, where structures begin and end

STRUCTURES: dict[str, tuple[str, ...]] = {
    "fundus": ("macula", "optic disc", "lesion", "vessels"),
    "ct": ("liver", "lesion", "vessels", "kidney", "spine"),
    "ultrasound": ("cyst", "nodule", "vessels"),
}
"""Names that a look may hold, in paint order: a later structure hides an earlier one."""

_SHARED: dict[str, tuple[frozenset[str], ...]] = {
    "fundus": (frozenset({"macula"}), frozenset({"optic disc", "lesion"})),
    "ct": (frozenset({"kidney"}), frozenset({"spine"})),
    "ultrasound": (frozenset({"cyst"}), frozenset({"nodule"})),
}
"""Every image holds all of one of these sets: two structures then share their grey values (in 99 % of images)."""


class Scene:
    """An image in the making and the structures painted so far.

    Args:
        rng: source of the structures.
        texture: source of noise, apart, so that the structures are the same at every size.
        size: side of the image, pixels.
        section: which slice or frame of a longer scene this is; a single image by default.

    Attributes:
        image: (H, W, 3) float64, 0 is black and 1 white.
        masks: (H, W) bool by name, what has been painted, overlaps and all.
    """

    def __init__(
        self, rng: np.random.Generator, texture: np.random.Generator, size: int, section: Section | None = None
    ) -> None:
        self.rng = rng
        self.texture = texture
        self.size = size
        self.section = section
        self.image: Field = np.zeros((size, size, 3))
        self.masks: dict[str, BoolMask] = {}

    def near(self, x: float, y: float, jitter: float) -> tuple[float, float]:
        """A point at most ``jitter`` from (x, y) along each axis."""
        dx, dy = self.rng.uniform(-jitter, jitter, 2)
        return x + float(dx), y + float(dy)

    def between(self, low: float, high: float) -> float:
        """A uniform random number."""
        return float(self.rng.uniform(low, high))

    def noise(self, sigma: float) -> Field:
        """Smooth noise of mean 0 and deviation 1, see :func:`~monai_sa2va.data.phantom_shapes.field`."""
        return field(self.texture, self.size, sigma) if self.section is None else self.section.noise(self.size, sigma)

    def blob(
        self,
        part: str,
        centre: tuple[float, float],
        radii: tuple[float, float],
        angle: float = 0.0,
        roughness: float = 0.0,
        harmonics: tuple[int, int] = (2, 4),
        bend: float = 0.0,
    ) -> BoolMask:
        """A :func:`~monai_sa2va.data.phantom_shapes.blob` where the section has it, and empty where it has none.

        Args:
            part: whose course it follows, see :meth:`~monai_sa2va.data.phantom_course.Section.pose`.
            centre: as for the function, like all that follow.
            radii: half axes.
            angle: of the first one.
            roughness: of the outline.
            harmonics: of the outline.
            bend: of the first axis.
        """
        pose = self._pose(part)
        # drawn even where it is not there: what comes after it has to be the same in all sections
        here = pose or Pose()
        centre = (centre[0] + here.shift[0], centre[1] + here.shift[1])
        radii = (radii[0] * here.scale, radii[1] * here.scale)
        mask = blob(self.rng, self.size, centre, radii, angle + here.turn, roughness, harmonics, bend)
        return mask if pose else np.zeros_like(mask)

    def tree(
        self,
        part: str,
        root: tuple[float, float],
        heading: float,
        calibre: float,
        length: float,
        curvature: float = 0.02,
        spread: float = 0.6,
    ) -> BoolMask:
        """A :func:`~monai_sa2va.data.phantom_shapes.vessel_tree`, likewise."""
        pose = self._pose(part)
        here = pose or Pose()
        root, heading = (root[0] + here.shift[0], root[1] + here.shift[1]), heading + here.turn
        mask = vessel_tree(
            self.rng, self.size, root, heading, calibre, length, curvature, spread, swell=here.scale, level=here.level
        )
        return mask if pose else np.zeros_like(mask)

    def _pose(self, part: str) -> Pose | None:
        return Pose() if self.section is None else self.section.pose(part)

    def choose(self, look: str) -> set[str]:
        """The structures of an image of this look: vessels always, the others by chance."""
        others = [name for name in STRUCTURES[look] if name != "vessels"]
        while True:
            chosen = {name for name in others if self.rng.random() < _PRESENT}
            if any(group <= chosen for group in _SHARED[look]):
                return chosen

    def paint(
        self, mask: BoolMask, colour: float | Sequence[float] | Field, strength: float = 1.0, soft: float = 0.5
    ) -> None:
        """Lay a colour over the pixels of ``mask``, its edge smoothed by ``soft`` pixels of the reference size."""
        if not mask.any():
            return
        sigma = soft * self.size / REFERENCE_SIZE
        margin = math.ceil(4 * sigma) + 1
        window = []
        for axis in (1, 0):
            inside = np.flatnonzero(mask.any(axis=axis))
            window.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
        rows, columns = window
        alpha = gaussian_filter(mask[rows, columns].astype(np.float64), sigma)[..., None] * strength
        part = self.image[rows, columns]
        part += alpha * (np.asarray(colour, dtype=np.float64) - part)

    def add(
        self, name: str, mask: BoolMask, colour: float | Sequence[float] | Field, soft: float = 0.5, mottle: float = 0.0
    ) -> None:
        """Paint a named structure in front of the earlier ones; ``mottle`` is the deviation of its brightness."""
        self.masks[name] = self.masks[name] | mask if name in self.masks else mask
        self.paint(mask, colour, soft=soft)
        if mottle:
            self.image[mask] *= 1 + mottle * self.noise(2.5)[mask][:, None]

    def visible(self) -> dict[str, BoolMask]:
        """Disjoint masks of what can be seen: later structures win; those that are nearly hidden are left out."""
        smallest = _SMALLEST if self.section is None else _SMALLEST_IN_SECTION
        covered = np.zeros((self.size, self.size), dtype=bool)
        seen: dict[str, BoolMask] = {}
        for name in reversed(self.masks):
            mask = self.masks[name] & ~covered
            covered |= self.masks[name]
            if mask.sum() >= smallest * (self.size / REFERENCE_SIZE) ** 2:
                seen[name] = mask
        return dict(reversed(seen.items()))
