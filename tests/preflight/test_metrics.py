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

import math

import pytest

from monai_sa2va.preflight import metrics
from monai_sa2va.preflight.metrics import check_metrics


def test_metrics_are_as_computed_by_hand():
    assert list(check_metrics(None)) == [
        ("pass", "Dice, IoU, precision, recall, surface Dice, HD95 of 8 cases are as computed by hand")
    ]


def _swapped(right):
    def wrong(pred, gt):
        precision, recall = right(pred, gt)
        return recall, precision

    return wrong


@pytest.mark.parametrize(
    ("name", "wrong", "line"),
    [
        ("calculate_precision_recall", _swapped, "precision of case 1 is 0.333333, not 0.5"),
        # the tolerance taken for pixels, the spacing left out, axes mixed up, an empty mask hidden
        (
            "calculate_surface_dice",
            lambda right: lambda p, g, t, s: right(p, g, t),
            "surface Dice of case 3 is 0, not 1",
        ),
        ("calculate_hd95", lambda right: lambda p, g, s: right(p, g), "HD95 of case 3 is 3, not 1.5"),
        ("calculate_hd95", lambda right: lambda p, g, s: right(p, g, s[::-1]), "HD95 of case 3 is 3, not 1.5"),
        (
            "calculate_hd95",
            lambda right: lambda p, g, s: 0.0 if math.isnan(right(p, g, s)) else right(p, g, s),
            "HD95 of case 7 is 0, not nan",
        ),
        ("calculate_iou", lambda right: lambda p, g: right(p, g) if sum(p[0]) else 0.0, "IoU of case 6 is 0, not 1"),
    ],
)
def test_faulty_metrics_are_found(monkeypatch, name, wrong, line):
    monkeypatch.setattr(metrics, name, wrong(getattr(metrics, name)))
    assert list(check_metrics(None)) == [("fail", f"{line}; reinstall monai-sa2va")]
