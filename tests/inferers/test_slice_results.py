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

"""What is kept of slices: where masks lie, what isn't kept, and several prompts as one."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.errors import OutputError
from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.slice_results import SliceResults, join_slices, mask_array


def _result(masks: Any, names: list[str], presence: float = 0.75) -> ImageResult:
    held, scores = torch.as_tensor(masks, dtype=torch.bool), torch.full((len(names),), presence)
    return ImageResult(held, names, [0] * len(names), scores, scores / 2, ["Sure."], [names], presence_threshold=0.5)


def test_slices_in_any_order_and_objects_one_by_one() -> None:
    steps: list[tuple[int, int]] = []
    results = SliceResults(4, lambda *step: steps.append(step))
    results.keep(2, _result([[[1, 0]], [[0, 1]]], ["a", "b"]))
    results.keep(0, _result([[[1, 1]]], ["b"], 0.25), [1])
    results.keep(0, _result([[[0, 1]]], ["a"], 0.5), [0])
    assert results.masks.tolist() == [
        [[[False, True]], [[False, False]], [[True, False]], [[False, False]]],
        [[[True, True]], [[False, False]], [[False, True]], [[False, False]]],
    ]
    assert results.presence.tolist() == [[0.5, 0.25], [0, 0], [0.75, 0.75], [0, 0]]
    assert results.iou_scores.tolist() == [[0.25, 0.125], [0, 0], [0.375, 0.375], [0, 0]]
    assert [one.names for one in results] == [["a", "b"]] * 4
    assert results[-4].masks.tolist() == [[[False, True]], [[True, True]]]
    assert [one.presence.tolist() for one in results[1:3]] == [[0, 0], [0.75, 0.75]]
    results.finish()
    assert steps == [(1, 4), (2, 4), (2, 4), (4, 4)]


def test_nothing_is_there_before_anything_is_kept() -> None:
    with pytest.raises(IndexError, match="nothing was kept of slice 1"):
        SliceResults(2)[1]
    with pytest.raises(IndexError):
        SliceResults(2)[2]


def test_prompts_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = SliceResults(2), SliceResults(2)
    for number in range(2):
        one.keep(number, _result([[[1, 0]]], ["a"]))
        other.keep(number, _result([[[0, number]], [[1, 1]]], ["b", "c"], 0.5))
    assert join_slices([one]) is one
    joined = join_slices([one, other])
    assert joined[1].names == ["a", "b", "c"]
    assert joined[1].prompt_indices == [0, 1, 1]
    assert joined[1].masks.tolist() == [[[True, False]], [[False, True]], [[True, True]]]
    assert joined[0].presence.tolist() == [0.75, 0.5, 0.5]
    assert joined[0].presence_threshold == 0.5


def test_large_masks_lie_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    small, large = mask_array((2, 3)), mask_array((5, 1024, 1024))
    assert not isinstance(small, np.memmap)
    assert isinstance(large, np.memmap)
    assert not any(tmp_path.iterdir())
    assert (large.dtype, large.shape, large.any()) == (bool, (5, 1024, 1024), False)
    large[4, 1023, 1023] = True
    assert large.sum() == 1


def test_no_room_for_masks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="no room for 5 MiB of masks: No space left on device; make room"):
        mask_array((5, 1024, 1024))
