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
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.errors import DataError


def _sample(tiles: int = 1, length: int = 5, objects: int = 1, size: int = 4, frames: int = 1) -> dict[str, Any]:
    return {
        "pixel_values": torch.full((tiles, 3, 2, 2), float(tiles)),
        "g_pixel_values": torch.full((frames, 3, 8, 8), float(frames)),
        "input_ids": torch.arange(1, length + 1),
        "labels": torch.arange(1, length + 1),
        "gt_masks": torch.ones((objects, size, size), dtype=torch.uint8),
        "frames_per_batch": frames,
        "names": ["a"] * objects,
    }


def test_unequal_samples() -> None:
    batch = sa2va_collate([_sample(1, 3, 2), _sample(3, 5, 0), _sample(2, 2, 1)])
    assert batch["pixel_values"].shape == (6, 3, 2, 2)
    # one after another, in the samples' order
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1, 3, 3, 3, 2, 2]
    assert batch["g_pixel_values"].shape == (3, 3, 8, 8)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5], [1, 2, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3, -100, -100], [1, 2, 3, 4, 5], [1, 2, -100, -100, -100]]
    assert batch["gt_masks"].shape == (3, 2, 4, 4)
    assert batch["gt_masks"].dtype == torch.uint8
    assert batch["gt_masks"].flatten(2).amax(-1).tolist() == [[1, 1], [0, 0], [1, 0]]
    assert batch["frames_per_batch"] == [1, 1, 1]
    assert batch["names"] == [["a", "a"], [], ["a"]]


def test_masks_of_several_frames() -> None:
    moving = _sample(frames=3, objects=2)
    moving["gt_masks"] = torch.stack([torch.full((2, 4, 4), value, dtype=torch.uint8) for value in (1, 0, 1)])
    still = _sample(frames=2, objects=1)
    batch = sa2va_collate([moving, still])
    assert batch["gt_masks"].shape == (5, 2, 4, 4)
    assert batch["gt_masks"].flatten(2).amax(-1).tolist() == [[1, 1], [0, 0], [1, 1], [1, 0], [1, 0]]
    assert batch["frames_per_batch"] == [3, 2]


def test_no_objects_anywhere() -> None:
    assert sa2va_collate([_sample(objects=0), _sample(objects=0)])["gt_masks"].shape == (2, 0, 4, 4)


def test_without_truth() -> None:
    samples = [_sample(length=n) for n in (2, 4)]
    for sample in samples:
        del sample["gt_masks"], sample["labels"]
    batch = sa2va_collate(samples)
    assert "gt_masks" not in batch
    assert "labels" not in batch
    assert batch["attention_mask"].sum(1).tolist() == [2, 4]


def test_samples_are_left_alone() -> None:
    first, second = _sample(length=2), _sample(length=4)
    sa2va_collate([first, second])
    assert first["input_ids"].tolist() == [1, 2]
    assert first["frames_per_batch"] == 1


def test_monai_tensors_become_plain() -> None:
    sample = _sample()
    sample["gt_masks"] = MetaTensor(sample["gt_masks"])
    batch = sa2va_collate([sample])
    assert type(batch["gt_masks"]) is Tensor


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no samples"),
        ([_sample(size=4), _sample(size=6)], r"gt_masks of one batch have sizes \[\(4, 4\), \(6, 6\)\]; set mask_size"),
        ([{**_sample(), "gt_masks": torch.zeros(4, 4)}], r"gt_masks has shape \(4, 4\); expected \(N, H, W\)"),
        ([{**_sample(frames=2), "gt_masks": torch.zeros(3, 1, 4, 4)}], r"expected \(N, H, W\) or \(2, N, H, W\)"),
        ([_sample(), {k: v for k, v in _sample().items() if k != "labels"}], "sample 1 .* don't all have 'labels'"),
        ([{k: v for k, v in _sample().items() if k != "input_ids"}], "sample 0 .* don't all have 'input_ids'"),
        ([{k: v for k, v in _sample().items() if k != "names"}, _sample()], "sample 1 .* don't all have 'names'"),
    ],
)
def test_refusals(samples: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sa2va_collate(samples)
