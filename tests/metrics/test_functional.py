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

import numpy as np
import pytest
import torch

import monai_sa2va.metrics as metrics
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.functional import calculate_dice, calculate_iou, calculate_precision_recall

# Two hits, one false alarm, two misses.
PRED = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
TRUTH = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]])
EMPTY = np.zeros((3, 3))


def test_hand_computed() -> None:
    assert calculate_dice(PRED, TRUTH, 0.5) == pytest.approx(4 / 7)
    assert calculate_iou(PRED, TRUTH, 0.5) == pytest.approx(2 / 5)
    assert calculate_precision_recall(PRED, TRUTH, 0.5) == pytest.approx((2 / 3, 1 / 2))
    assert isinstance(calculate_iou(PRED, TRUTH), float)


@pytest.mark.parametrize(
    ("pred", "input_range"),
    [(PRED, "probabilities"), (PRED * 255, "image"), (PRED * 8.0 - 4, "logits"), (PRED.astype(bool), "probabilities")],
)
def test_input_ranges(pred: Any, input_range: str) -> None:
    assert calculate_iou(pred, TRUTH, input_range=input_range) == pytest.approx(0.4)
    assert calculate_dice(torch.as_tensor(pred), TRUTH, input_range=input_range) == pytest.approx(4 / 7)
    assert calculate_precision_recall(pred, TRUTH, input_range=input_range) == pytest.approx((2 / 3, 1 / 2))


def test_threshold_decides() -> None:
    pred = np.where(PRED, 0.6, 0.3)
    assert calculate_iou(pred, TRUTH) == pytest.approx(0.4)
    assert calculate_iou(pred, TRUTH, 0.2) == pytest.approx(4 / 9)
    assert calculate_iou(pred, TRUTH, 0.6) == 0.0


def test_truth_of_an_image() -> None:
    assert calculate_iou(PRED * 255, TRUTH * 255, input_range="image", gt_range="image") == pytest.approx(0.4)
    with pytest.raises(DataError, match="gt holds 255"):
        calculate_iou(PRED, TRUTH * 255)


def test_empty_cases() -> None:
    for pred, gt, expected in ((EMPTY, EMPTY, 1.0), (EMPTY, TRUTH, 0.0), (PRED, EMPTY, 0.0)):
        assert calculate_dice(pred, gt) == expected
        assert calculate_iou(pred, gt) == expected
        assert calculate_precision_recall(pred, gt) == (expected, expected)


def test_volumes_are_one_mask() -> None:
    pred, gt = np.stack([PRED, EMPTY]), np.stack([TRUTH, EMPTY])
    assert calculate_dice(pred, gt) == pytest.approx(4 / 7)
    assert calculate_dice(np.stack([PRED, PRED]), gt) == pytest.approx(4 / 10)


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 1, 1, 3, 3)])
def test_batches_give_a_value_each(shape: tuple[int, ...]) -> None:
    pred, gt = np.stack([PRED, EMPTY]).reshape(shape), np.stack([TRUTH, EMPTY]).reshape(shape)
    for value, expected in zip(
        (calculate_dice(pred, gt), *calculate_precision_recall(pred, gt)), (4 / 7, 2 / 3, 1 / 2), strict=True
    ):
        assert isinstance(value, torch.Tensor)
        assert value.tolist() == pytest.approx([expected, 1.0])


@pytest.mark.parametrize(
    ("pred", "gt", "words"),
    [
        (PRED, TRUTH[:2], "give the same shape"),
        (PRED[None, None], TRUTH, "give the same shape"),
        (PRED[0], TRUTH[0], r"\(H, W\)"),
        (np.stack([[PRED, PRED]] * 2), np.stack([[TRUTH, TRUTH]] * 2), r"\(B, 1"),
        (PRED * 2, TRUTH, "pred has values from 0 to 2"),
        (PRED, TRUTH * 2, "gt holds 2"),
        (np.full((3, 3), np.nan), TRUTH, "pred holds NaN"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "no element"),
    ],
)
def test_refuses(pred: Any, gt: Any, words: str) -> None:
    for function in (calculate_dice, calculate_iou, calculate_precision_recall):
        with pytest.raises(DataError, match=words):
            function(pred, gt)


def test_refuses_ranges() -> None:
    with pytest.raises(ConfigError, match="input_range"):
        calculate_iou(PRED, TRUTH, input_range="auto")
    with pytest.raises(ConfigError, match="gt_range"):
        calculate_iou(PRED, TRUTH, gt_range="auto")


def test_public_names_exist() -> None:
    assert all(hasattr(metrics, name) for name in metrics.__all__)
