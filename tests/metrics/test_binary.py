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
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_iou

from monai_sa2va.enums import InputRange, MaskScore
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.binary import binarize_prediction, binarize_truth, score_masks


@pytest.mark.parametrize(
    ("input_range", "values", "expected"),
    [
        ("logits", [-3.0, 0.0, 0.01, 50.0], [False, False, True, True]),
        ("probabilities", [0.0, 0.5, 0.51, 1.0], [False, False, True, True]),
        ("image", [0.0, 127.0, 128.0, 255.0], [False, False, True, True]),
        (InputRange.LOGITS, [-1.0, 1.0], [False, True]),
    ],
)
def test_thresholds_of_the_ranges(input_range: str, values: list[float], expected: list[bool]) -> None:
    assert binarize_prediction(values, input_range).tolist() == expected


def test_threshold_takes_the_place_of_the_ranges() -> None:
    assert binarize_prediction([0.2, 0.3, 0.9], threshold=0.25).tolist() == [False, True, True]
    assert binarize_prediction([0, 1, 200], "image", threshold=0).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 1], [1, 0]], dtype=dtype)
        for dtype in ("bool", "u1", "i1", "u2", "i4", "u8", "f2", "f4", "f8", ">u2", ">f4")
    ]
    + [torch.tensor([[0, 1], [1, 0]], dtype=dtype) for dtype in (torch.uint16, torch.bfloat16, torch.bool)]
    + [[[0, 1], [1, 0]], MetaTensor([[0.0, 1.0], [1.0, 0.0]]), np.array([[1, 0], [0, 1]])[::-1]],
)
def test_takes_arrays_of_all_kinds(values: Any) -> None:
    for found in (binarize_prediction(values), binarize_truth(values)):
        assert type(found) is torch.Tensor
        assert found.tolist() == [[False, True], [True, False]]


def test_truth_of_an_image() -> None:
    assert binarize_truth(np.array([0, 255], dtype=np.uint8), gt_range="image").tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "input_range", "words"),
    [
        ([0.0, 1.2], "probabilities", "pred has values from 0 to 1.2"),
        ([-0.1, 1.0], "probabilities", "outside of input_range probabilities"),
        ([0, 255], "probabilities", "say by input_range"),
        ([-1, 255], "image", "from -1"),
        ([0, 256], "image", "to 256"),
        ([float("inf"), 0.0], "probabilities", "inf"),
        ([float("nan"), 0.0], "logits", "NaN"),
        ([True, False], "image", "boolean"),
        ([True, False], "logits", "boolean"),
        ([], "logits", "no element"),
        (["a"], "logits", "pred"),
        (None, "logits", "NoneType"),
        ([1j], "logits", "pred"),
    ],
)
def test_refuses_predictions(values: Any, input_range: str, words: str) -> None:
    pred = values if values is None else np.array(values)
    with pytest.raises(DataError, match=words):
        binarize_prediction(pred, input_range)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_range": "percent"}, "input_range is 'percent'; allowed: logits, probabilities, image"),
        ({"threshold": 127}, "threshold is 127"),
        ({"threshold": float("nan")}, "threshold"),
        ({"input_range": "image", "threshold": 300}, "0 to 255"),
    ],
)
def test_refuses_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        binarize_prediction([0.0, 1.0], **arguments)


@pytest.mark.parametrize(
    ("values", "gt_range", "words"),
    [([0, 255], "binary", "255.*gt_range=image"), ([0, 0.5], "binary", "0.5"), ([0, 1], "image", "holds 1")],
)
def test_refuses_truths(values: Any, gt_range: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        binarize_truth(values, gt_range)
    with pytest.raises(ConfigError, match="gt_range"):
        binarize_truth(values, "auto")


@pytest.mark.parametrize("score", list(MaskScore))
def test_empty_cases(score: MaskScore) -> None:
    empty, full = torch.zeros(1, 3, 3, dtype=torch.bool), torch.ones(1, 3, 3, dtype=torch.bool)
    pairs = [(empty, empty, 1.0), (empty, full, 0.0), (full, empty, 0.0), (full, full, 1.0)]
    for pred, gt, expected in pairs:
        assert score_masks(pred, gt, score).tolist() == [expected]
    # The same side by side, where a wrong reduction would mix them.
    pred, gt, expected_all = zip(*pairs, strict=True)
    assert score_masks(torch.cat(pred), torch.cat(gt), score).tolist() == list(expected_all)


@given(st.integers(0, 2**9 - 1), st.integers(0, 2**9 - 1))
def test_agrees_with_monai_and_its_identities(pred_bits: int, gt_bits: int) -> None:
    pred, gt = (
        torch.tensor([bits >> i & 1 for i in range(9)]).reshape(1, 3, 3).bool() for bits in (pred_bits, gt_bits)
    )
    scores = {score: score_masks(pred, gt, score).item() for score in MaskScore}
    one_hot = pred[None].float(), gt[None].float()
    assert scores[MaskScore.IOU] == pytest.approx(compute_iou(*one_hot, ignore_empty=False).item(), abs=1e-6)
    dice = compute_dice(pred[None], gt[None], ignore_empty=False).item()
    assert scores[MaskScore.DICE] == pytest.approx(dice, abs=1e-6)
    iou = scores[MaskScore.IOU]
    assert scores[MaskScore.DICE] == pytest.approx(2 * iou / (1 + iou))
    precision, recall = scores[MaskScore.PRECISION], scores[MaskScore.RECALL]
    if precision + recall:
        assert scores[MaskScore.DICE] == pytest.approx(2 * precision * recall / (precision + recall))
    assert score_masks(gt, pred, "recall").item() == precision


def test_one_voxel_counts_in_a_large_volume() -> None:
    # 2**24 + 64 voxels: float32 can't count them one by one.
    gt = torch.zeros(1, 2**24 + 64, dtype=torch.bool)
    gt[0, 0] = True
    pred = gt.clone()
    pred[0, 1] = True
    assert score_masks(pred, gt, "precision").item() == 0.5
    assert score_masks(~pred, ~gt, "recall").item() == 1 - 1 / (2**24 + 63)


def test_scores_refuse() -> None:
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    with pytest.raises(DataError, match="one grid"):
        score_masks(mask, mask[:, :1], "dice")
    with pytest.raises(ConfigError, match="dice, iou, precision, recall"):
        score_masks(mask, mask, "accuracy")
