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

from __future__ import annotations

import pytest
import torch

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.networks.memory import Memory, MemoryBank


def _memory(number: float, objects: int = 1) -> Memory:
    return Memory(torch.full((objects, 2, 1, 1), number), torch.full((objects, 4), number))


def _read(bank: MemoryBank, frame: int, reverse: bool = False) -> list[tuple[int, float | None, float | None]]:
    """(distance, number of the frame whose mask, and whose pointer, is attended to)."""
    return [
        (
            entry.distance,
            None if entry.features is None else entry.features.flatten()[0].item(),
            None if entry.pointers is None else entry.pointers.flatten()[0].item(),
        )
        for entry in bank.entries(frame, reverse)
    ]


def test_a_conditioned_frame_and_the_last_two() -> None:
    bank = MemoryBank()
    bank.condition(3, _memory(3))
    bank.add(4, _memory(4))
    bank.add(5, _memory(5))
    assert _read(bank, 6) == [(0, 3, 3), (1, 5, 5), (2, 4, 4)]
    # what was drawn going forward is not seen going backward, and a conditioned frame to come lends no pointer there
    assert _read(bank, 2, reverse=True) == [(0, 3, 3)]
    assert _read(bank, 4, reverse=True) == [(0, 3, None)]
    assert bank.entries(4, reverse=True, past_pointers_only=False)[0].pointers is not None


def test_forward_and_backward_mirror_each_other() -> None:
    bank = MemoryBank()
    bank.condition(10, _memory(10))
    for step in range(1, 9):
        bank.add(10 + step, _memory(10 + step))
        bank.add(10 - step, _memory(10 - step), reverse=True)
    forward, backward = _read(bank, 19), _read(bank, 1, reverse=True)
    assert [distance for distance, _, _ in forward] == [distance for distance, _, _ in backward]
    mirrored = [tuple(n if n is None else 20 - n for n in row[1:]) for row in backward]
    assert [row[1:] for row in forward] == mirrored


def test_six_masks_and_fifteen_pointers_a_direction() -> None:
    bank = MemoryBank()
    bank.condition(0, _memory(0))
    for frame in range(1, 40):
        bank.add(frame, _memory(frame))
    read = _read(bank, 40)
    assert [distance for distance, mask, _ in read if mask is not None] == [0, 1, 2, 3, 4, 5, 6]
    assert [pointer for _, _, pointer in read] == [0, *range(39, 24, -1)]


@pytest.mark.parametrize("frames", [40, 400])
def test_it_stays_of_one_size(frames: int) -> None:
    bank = MemoryBank()
    bank.condition(0, _memory(0))
    for frame in range(1, frames):
        bank.add(frame, _memory(frame))
        bank.add(frames - frame, _memory(frame), reverse=True)
    assert len(bank) == 1 + 15 + 15
    masks = [m for last in bank._last.values() for m in last.values() if m.features is not None]
    assert len(masks) == 6 + 6


def test_conditioned_frames_are_bounded_and_the_most_crowded_goes() -> None:
    bank = MemoryBank(capacity=4)
    for frame in (0, 10, 12, 30, 50):
        bank.condition(frame, _memory(frame))
    assert bank.conditioned == [0, 12, 30, 50]


def test_the_nearest_conditioned_frames() -> None:
    bank = MemoryBank(max_conditioned=2)
    for frame in (0, 10, 20, 30):
        bank.condition(frame, _memory(frame))
    # the nearest before and after; the pointer of the one to come is left out
    # a conditioned frame that is not among them counts as any other frame where it is near
    assert _read(bank, 14) == [(0, 10, 10), (0, 20, None), (14, None, 0)]
    close = MemoryBank(max_conditioned=2)
    for frame in (1, 2, 3):
        close.condition(frame, _memory(frame))
    assert sorted(_read(close, 4)) == [(0, 2, 2), (0, 3, 3), (3, 1, 1)]
    every = MemoryBank(max_conditioned=None)
    for frame in (0, 10, 20, 30, 40):
        every.condition(frame, _memory(frame))
    assert [mask for _, mask, _ in _read(every, 41)] == [0, 10, 20, 30, 40]


def test_conditioning_a_frame_that_was_drawn() -> None:
    bank = MemoryBank()
    bank.condition(0, _memory(0))
    bank.add(1, _memory(1))
    bank.condition(1, _memory(100))
    assert _read(bank, 2) == [(0, 0, 0), (0, 100, 100)]


def test_going_over_a_stretch_again() -> None:
    bank = MemoryBank()
    bank.condition(0, _memory(0))
    for frame in range(1, 10):
        bank.add(frame, _memory(frame))
    bank.add(3, _memory(103))
    # what lay ahead belongs to the earlier pass
    assert _read(bank, 4) == [(0, 0, 0), (1, 103, 103), (2, None, 2), (3, None, 1)]
    assert len(bank) == 4


def test_nothing_to_be_drawn_from() -> None:
    with pytest.raises(DataError, match="frame 3 has no conditioned frame to be drawn from; prompt one first"):
        MemoryBank().entries(3)


def test_other_objects() -> None:
    bank = MemoryBank()
    bank.condition(0, _memory(0, objects=2))
    with pytest.raises(DataError, match="remembers 2 objects, the new memory has 3; take a new bank"):
        bank.add(1, _memory(1, objects=3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_conditioned": 1}, "max_conditioned is 1; give at least 2, or null for all"),
        ({"recent": 7}, "recent is 7; give 1 to 6"),
        ({"pointers": 5}, "pointers is 5; give at least recent, 6"),
        ({"capacity": 3}, "capacity is 3; give at least 2, and no less than max_conditioned"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MemoryBank(**arguments)


def test_features_are_kept_in_the_type_asked_for_and_pointers_in_their_own() -> None:
    bank = MemoryBank(dtype=torch.bfloat16)
    # 1 + 2^-9 lies between two numbers of bfloat16
    bank.condition(0, _memory(1 + 2**-9))
    bank.add(1, _memory(1 + 2**-9))
    for entry in bank.entries(2):
        assert entry.features is not None
        assert entry.pointers is not None
        assert entry.features.dtype == torch.bfloat16
        assert entry.features.flatten()[0].item() == 1
        assert entry.pointers.flatten()[0].item() == 1 + 2**-9
    with pytest.raises(ConfigError, match=r"dtype is torch\.int32; give a floating point type"):
        MemoryBank(dtype=torch.int32)
