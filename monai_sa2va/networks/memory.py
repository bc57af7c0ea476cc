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

"""What SAM2 remembers of a stack of slices or frames: bounded, however long the stack is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from sam2.modeling.sam2_utils import select_closest_cond_frames

from monai_sa2va.errors import ConfigError, DataError

__all__ = ["Memory", "MemoryBank", "MemoryEntry"]


class Memory(NamedTuple):
    """What is remembered of M objects in one frame.

    Attributes:
        features: (M, mem_dim, S/16, S/16), the frame and the objects' masks in it; ``None`` once only the pointers
            are kept.
        pointers: (M, C), one object pointer each.
    """

    features: torch.Tensor | None
    pointers: torch.Tensor


class MemoryEntry(NamedTuple):
    """What one remembered frame adds to the frame that is drawn.

    Attributes:
        distance: frames between the two, 1 to 6 where ``features`` count; 0 for a conditioned frame, at any distance.
        features: as in :class:`Memory`, or ``None``.
        pointers: as in :class:`Memory`, or ``None``.
    """

    distance: int
    features: torch.Tensor | None
    pointers: torch.Tensor | None


class MemoryBank:
    """Memory of M objects in one stack: the conditioned frames and the last ones of each direction.

    SAM2's own rules: a frame attends to the nearest conditioned frames, to the masks of the last frames before it, and
    to the pointers of some more. Unlike in sam2, what was drawn going forward is not seen going backward, so that both
    directions give the same whichever comes first.

    Args:
        max_conditioned: conditioned frames that one frame attends to, the nearest before and after it among them; at
            least 2, or ``None`` for all, as the reference does.
        recent: last frames of a direction whose masks are attended to, 1 to 6.
        pointers: last frames of a direction whose object pointers are attended to, at least ``recent``.
        capacity: conditioned frames that are kept; beyond, the one nearest to another is forgotten.
        dtype: floating point type that features are kept in, bfloat16 as in the reference; ``None`` keeps their own.
            Pointers keep theirs.

    Raises:
        ConfigError: when a number is out of its range, or the type is none of floating point.
    """

    def __init__(
        self,
        max_conditioned: int | None = 4,
        recent: int = 6,
        pointers: int = 15,
        capacity: int = 32,
        dtype: torch.dtype | None = None,
    ) -> None:
        if max_conditioned is not None and max_conditioned < 2:
            raise ConfigError(f"max_conditioned is {max_conditioned}; give at least 2, or null for all")
        if not 1 <= recent <= 6:
            raise ConfigError(f"recent is {recent}; give 1 to 6")
        if pointers < recent:
            raise ConfigError(f"pointers is {pointers}; give at least recent, {recent}")
        if capacity < max(max_conditioned or 0, 2):
            raise ConfigError(f"capacity is {capacity}; give at least 2, and no less than max_conditioned")
        if dtype is not None and not dtype.is_floating_point:
            raise ConfigError(f"dtype is {dtype}; give a floating point type, or null for the features' own")
        self.max_conditioned, self.recent, self.pointers, self.capacity = max_conditioned, recent, pointers, capacity
        self.dtype = dtype
        self._conditioned: dict[int, Memory] = {}
        self._last: dict[bool, dict[int, Memory]] = {False: {}, True: {}}

    def __len__(self) -> int:
        """Frames of which anything is kept."""
        return len(self._conditioned) + sum(len(last) for last in self._last.values())

    @property
    def conditioned(self) -> list[int]:
        """Numbers of the conditioned frames, in order."""
        return sorted(self._conditioned)

    def condition(self, frame: int, memory: Memory) -> None:
        """Keep a frame in which the objects were prompted; it takes the place of what was known of it.

        Raises:
            DataError: when the memory is of another number of objects.
        """
        self._check(memory)
        for last in self._last.values():
            last.pop(frame, None)
        self._conditioned[frame] = self._kept(memory)
        if len(self._conditioned) > self.capacity:
            others = [number for number in self._conditioned if number != frame]
            del self._conditioned[min(others, key=self._nearest)]

    def add(self, frame: int, memory: Memory, reverse: bool = False) -> None:
        """Keep a frame that was drawn from memory, and let go what is too far behind it.

        Args:
            frame: its number.
            memory: of it.
            reverse: whether it was reached going from larger numbers to smaller ones.

        Raises:
            DataError: when the memory is of another number of objects.
        """
        self._check(memory)
        self._last[reverse][frame] = self._kept(memory)
        kept: dict[int, Memory] = {}
        for number, known in self._last[reverse].items():
            behind = number - frame if reverse else frame - number
            if 0 <= behind < self.pointers:
                kept[number] = known if behind < self.recent else known._replace(features=None)
        self._last[reverse] = kept

    def entries(self, frame: int, reverse: bool = False, past_pointers_only: bool = True) -> list[MemoryEntry]:
        """What a frame attends to.

        Args:
            frame: its number.
            reverse: whether the stack is gone through from larger numbers to smaller ones.
            past_pointers_only: leave out the pointers of conditioned frames that are still to come, as SAM2 does
                where it isn't trained.

        Raises:
            DataError: when there is no conditioned frame.
        """
        if not self._conditioned:
            raise DataError(f"frame {frame} has no conditioned frame to be drawn from; prompt one first")
        limit = -1 if self.max_conditioned is None else self.max_conditioned
        near, others = select_closest_cond_frames(frame, self._conditioned, limit)
        found = []
        for number, memory in near.items():
            coming = number < frame if reverse else number > frame
            found.append(MemoryEntry(0, memory.features, None if coming and past_pointers_only else memory.pointers))
        return found + self._recent(frame, reverse, others)

    def select(self, objects: Sequence[bool]) -> MemoryBank:
        """What is remembered of some objects; the bank itself where that is all.

        Args:
            objects: of each, whether it stays.
        """
        if all(objects):
            return self
        rows = [row for row, stays in enumerate(objects) if stays]
        chosen = MemoryBank(self.max_conditioned, self.recent, self.pointers, self.capacity, self.dtype)
        for known, own in (
            (self._conditioned, chosen._conditioned),
            *zip(self._last.values(), chosen._last.values(), strict=True),
        ):
            for frame, (features, pointers) in known.items():
                own[frame] = Memory(None if features is None else features[rows], pointers[rows])
        return chosen

    def _recent(self, frame: int, reverse: bool, others: Mapping[int, Memory]) -> list[MemoryEntry]:
        found = []
        for distance in range(1, self.pointers + 1):
            number = frame + distance if reverse else frame - distance
            # a conditioned frame that is not among the nearest counts as any other
            memory = self._last[reverse].get(number, others.get(number))
            if memory is not None:
                features = memory.features if distance <= self.recent else None
                found.append(MemoryEntry(distance, features, memory.pointers))
        return found

    def _kept(self, memory: Memory) -> Memory:
        if self.dtype is None or memory.features is None:
            return memory
        return memory._replace(features=memory.features.to(self.dtype))

    def _nearest(self, frame: int) -> int:
        return min(abs(frame - other) for other in self._conditioned if other != frame)

    def _check(self, memory: Memory) -> None:
        for known in (*self._conditioned.values(), *self._last[False].values(), *self._last[True].values()):
            if len(known.pointers) != len(memory.pointers):
                raise DataError(
                    f"the bank remembers {len(known.pointers)} objects, the new memory has {len(memory.pointers)}; "
                    "take a new bank where the objects change"
                )
            return
