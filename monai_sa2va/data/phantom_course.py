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

"""How a phantom's structures come, change and go along the slices of a volume or the frames of a cine."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from monai_sa2va.data.phantom_shapes import Field, field

__all__ = ["KINDS", "Course", "Pose", "Section"]

KINDS = ("volume", "cine")
"""What a course can be of: slices, in which structures begin and end, or frames, in which they move."""

# Half lengths of structures, parts of the volume, and where their middles lie.
_SPANS: dict[str, tuple[float, float, float, float]] = {
    "liver": (0.28, 0.42, 0.35, 0.65),
    "kidney": (0.22, 0.35, 0.35, 0.65),
    "spine": (0.35, 0.6, 0.4, 0.6),
    "optic disc": (0.2, 0.4, 0.35, 0.65),
    "macula": (0.2, 0.4, 0.35, 0.65),
    "vessels": (0.42, 0.6, 0.42, 0.58),
    "lesion": (0.09, 0.2, 0.2, 0.8),
    "cyst": (0.12, 0.25, 0.22, 0.78),
    "nodule": (0.12, 0.25, 0.22, 0.78),
}
_UNNAMED = (0.3, 0.7, 0.0, 1.0)  # ribs, bowel, echoes: about as many a slice as an image has
_PASSING = 0.35  # largest half length of the structure that surely begins or ends within the volume
_SMALL = ("lesion", "cyst", "nodule")
_FIRST_SIZE = 0.6  # of a structure where it begins and ends, as slices have a thickness
_DRIFT = 6.0  # longest way of a structure's middle along a volume, pixels of the reference size
_INDEPENDENT = 1.0  # noise of a smaller sigma, pixels of the reference size, is new in each slice


@dataclass(frozen=True)
class Pose:
    """Where a structure is in one slice or frame, against where a single image would have it.

    Attributes:
        scale: of its radii, and of the calibre of vessels.
        shift: along x and y, pixels of the reference size.
        turn: radians from x towards y.
        level: height at which a tree of vessels is cut, -1 to 1; ``None`` shows it all.
    """

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    level: float | None = None


class Course:
    """The courses of all structures of one volume or cine, and its texture: functions of the key alone.

    Args:
        kind: one of `KINDS`.
        key: numbers that all chance comes from.
        count: slices or frames.
        chosen: names of the structures that it holds; one of them that is no vessel surely comes or goes.
    """

    def __init__(self, kind: str, key: Sequence[int], count: int, chosen: Collection[str]) -> None:
        self.kind, self.key, self.count = kind, tuple(key), count
        others = sorted(set(chosen) - {"vessels"})
        self.passing = others[int(self.random("passing").integers(len(others)))] if others else ""
        self._textures: dict[tuple[int, int], tuple[Field, Field]] = {}

    def random(self, name: str, *numbers: int) -> np.random.Generator:
        """A generator of its own for whatever the name says."""
        return np.random.default_rng([*self.key, zlib.crc32(name.encode()), *numbers])

    def section(self, index: int) -> Section:
        """One slice or frame, counted from 0."""
        return Section(self, index)

    def texture(self, number: int, size: int, sigma: float) -> tuple[Field, Field]:
        """Two fields, between which the texture of this number changes along the course."""
        if (number, size) not in self._textures:
            rng = self.random("texture", number)
            self._textures[number, size] = (field(rng, size, sigma), field(rng, size, sigma))
        return self._textures[number, size]


class Section:
    """One slice of a volume or frame of a cine.

    Args:
        course: that it belongs to.
        index: counted from 0.
    """

    def __init__(self, course: Course, index: int) -> None:
        self.course, self.index = course, index
        self.place = (index + 0.5) / course.count
        self._fields = 0

    def pose(self, part: str) -> Pose | None:
        """Where a part is, or ``None`` where it is not in this section.

        Args:
            part: a structure's name, with ``#number`` where it has several that go their own ways.
        """
        return self._in_space(part) if self.course.kind == "volume" else self._in_time(part)

    def noise(self, size: int, sigma: float) -> Field:
        """As :func:`~monai_sa2va.data.phantom_shapes.field`: grain is new in each section, coarser texture goes on."""
        self._fields += 1
        if sigma < _INDEPENDENT:
            return field(self.course.random("grain", self._fields, self.index), size, sigma)
        one, other = self.course.texture(self._fields, size, sigma)
        angle = math.tau * self.place / max(1.0, sigma / 3)
        return np.asarray(math.cos(angle) * one + math.sin(angle) * other)

    def _in_space(self, part: str) -> Pose | None:
        rng, name = self.course.random(part), part.partition("#")[0]
        shortest, longest, first, last = _SPANS.get(name, _UNNAMED)
        half, middle = rng.uniform(shortest, longest), rng.uniform(first, last)
        if name == self.course.passing:
            half = min(half, _PASSING)
        drift, turn = rng.uniform(-_DRIFT, _DRIFT, 2), rng.uniform(-0.3, 0.3)
        away = self.place - middle
        scale = _size_at(away / half, 2)
        if not scale:
            return None
        shift = (float(drift[0] * away), float(drift[1] * away))
        if name == "vessels":
            return Pose(1.0, shift, turn * away, away / half)
        return Pose(scale, shift, turn * away)

    def _in_time(self, part: str) -> Pose | None:
        rng, name = self.course.random(part), part.partition("#")[0]
        half, middle = rng.uniform(0.12, 0.23), rng.uniform(0.3, 0.7)
        comes_and_goes = rng.random() < (0.5 if name in _SMALL else 0.15 if name != "vessels" else 0.0)
        scale = 1.0
        if comes_and_goes or name == self.course.passing:
            scale = _size_at((self.place - middle) / half, 4)
            if not scale:
                return None
        breath, own = _swing(self.course.random("breath"), self.index, 3.0), _swing(rng, self.index, 1.0)
        pulse = 1 + (0.12 if name == "vessels" else 0.04) * math.sin(math.tau * self.index / rng.uniform(8, 16))
        return Pose(scale * pulse, (breath[0] + own[0], breath[1] + own[1]))


def _swing(rng: np.random.Generator, index: int, widest: float) -> tuple[float, float]:
    """Shift of a frame in a motion to and fro, at most ``widest`` along x and y."""
    (x, y), period, phase = rng.uniform(-widest, widest, 2), rng.uniform(10, 20), rng.uniform(0, math.tau)
    swing = math.sin(math.tau * index / period + phase)
    return float(x) * swing, float(y) * swing


def _size_at(away: float, order: int) -> float:
    """Relative size of a structure, 1 in its middle and 0 beyond its ends, at -1 and 1."""
    return _FIRST_SIZE + (1 - _FIRST_SIZE) * math.sqrt(1 - abs(away) ** order) if abs(away) < 1 else 0.0
