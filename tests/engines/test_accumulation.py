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

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.engines.accumulation import AccumulationWindows, check_steps
from monai_sa2va.errors import ConfigError, DataError


def _count(batch: dict[str, Any]) -> dict[str, float]:
    return {"masks": float(batch["n"]), "tokens": 10.0 * batch["n"]}


def _epoch(windows: AccumulationWindows) -> list[tuple[int, float, bool]]:
    return [(b["n"], b["loss_counts"]["masks"], b["window_end"]) for b in windows]


def test_every_micro_batch_knows_its_whole_window() -> None:
    loader = [{"n": n} for n in (1, 2, 3, 4)]
    assert _epoch(AccumulationWindows(loader, 2, _count)) == [(1, 3, False), (2, 3, True), (3, 7, False), (4, 7, True)]
    first = next(iter(AccumulationWindows(loader, 4, _count)))
    assert first["loss_counts"] == {"masks": 10.0, "tokens": 100.0}
    assert loader[0] == {"n": 1}


def test_last_window_may_be_shorter() -> None:
    windows = AccumulationWindows([{"n": n} for n in (1, 2, 3, 4, 5)], 3, _count)
    assert len(windows) == 5
    assert _epoch(windows) == [(1, 6, False), (2, 6, False), (3, 6, True), (4, 9, False), (5, 9, True)]
    assert _epoch(windows) == _epoch(windows)


def test_single_steps() -> None:
    assert _epoch(AccumulationWindows([{"n": 2}, {"n": 3}], 1, _count)) == [(2, 2, True), (3, 3, True)]


def test_window_without_anything_to_count() -> None:
    # its sums are zero, which one divides as well as any number
    assert _epoch(AccumulationWindows([{"n": 0}, {"n": 0}], 2, _count)) == [(0, 1, False), (0, 1, True)]


def test_short_epochs_go_on_where_the_last_one_stopped() -> None:
    windows = AccumulationWindows([{"n": n} for n in (1, 2, 3, 4, 5)], 2, _count, epoch_length=3)
    assert len(windows) == 3
    # no window reaches into the next epoch
    assert _epoch(windows) == [(1, 3, False), (2, 3, True), (3, 3, True)]
    assert _epoch(windows) == [(4, 9, False), (5, 9, True), (1, 1, True)]


def test_long_epochs_start_the_loader_anew() -> None:
    windows = AccumulationWindows([{"n": 1}, {"n": 2}, {"n": 3}], 2, _count, epoch_length=5)
    assert [n for n, _, _ in _epoch(windows)] == [1, 2, 3, 1, 2]


def test_interrupted_epoch_starts_anew() -> None:
    windows = AccumulationWindows([{"n": 1}, {"n": 2}, {"n": 3}], 1, _count)
    next(iter(windows))
    assert [n for n, _, _ in _epoch(windows)] == [1, 2, 3]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 20))
def test_windows_part_an_epoch(numbers: list[int], steps: int, length: int) -> None:
    windows = AccumulationWindows([{"n": n} for n in numbers], steps, _count, length)
    for _ in range(3):
        epoch = _epoch(windows)
        assert len(epoch) == length
        ends = [i for i, (_, _, end) in enumerate(epoch) if end]
        assert ends == [*range(steps - 1, length - 1, steps), length - 1]
        for first, last in zip([0, *(e + 1 for e in ends)], ends, strict=False):
            window = epoch[first : last + 1]
            assert {total for _, total, _ in window} == {max(sum(n for n, _, _ in window), 1)}


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", True, None])
def test_bad_steps(steps: Any) -> None:
    with pytest.raises(ConfigError, match=r"accumulation_steps is .*; give a whole number of at least 1"):
        check_steps(steps)


def test_bad_epoch_length_and_empty_loader() -> None:
    with pytest.raises(ConfigError, match="epoch_length is 0; at least 1"):
        AccumulationWindows([], 1, _count, epoch_length=0)
    with pytest.raises(DataError, match="the training loader gives no batch"):
        list(AccumulationWindows([], 1, _count, epoch_length=2))


class Seekable(list[dict[str, int]]):
    """A loader of three batches, each named by its epoch and its place."""

    def __init__(self) -> None:
        super().__init__([{"n": 0}] * 3)
        self.place = (0, 0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        self.place = (epoch, first_batch)

    def __iter__(self) -> Any:
        epoch, first = self.place
        return iter([{"n": 10 * epoch + number} for number in range(first, 3)])


@pytest.mark.parametrize("epoch_length", [None, 2, 5])
def test_a_run_is_entered_anywhere(epoch_length: int | None) -> None:
    length = epoch_length or 3
    windows = AccumulationWindows(Seekable(), 1, _count, epoch_length)
    whole = []
    for epoch in range(4):
        windows.seek(epoch * length)
        whole += [n for n, _, _ in _epoch(windows)]
    assert whole[:7] == [0, 1, 2, 10, 11, 12, 20]
    for done in range(len(whole)):
        windows = AccumulationWindows(Seekable(), 1, _count, epoch_length)
        windows.seek(done)
        assert [n for n, _, _ in _epoch(windows)] == whole[done : (done // length + 1) * length]


def test_a_plain_loader_is_entered_at_its_beginning_only() -> None:
    windows = AccumulationWindows([{"n": 1}, {"n": 2}], 1, _count)
    windows.seek(4)
    assert [n for n, _, _ in _epoch(windows)] == [1, 2]
    with pytest.raises(ConfigError, match="no set_epoch, so training can't go on in the midst of an epoch"):
        windows.seek(5)
