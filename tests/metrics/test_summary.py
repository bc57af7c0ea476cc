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

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from monai_sa2va.errors import ConfigError
from monai_sa2va.metrics.objects import ObjectScore
from monai_sa2va.metrics.summary import Summary


def make(prompt: str, group: int, value: float, truth: int = 10, predicted: int = 10, **more: Any) -> ObjectScore:
    scores = dict.fromkeys(("dice", "iou", "precision", "recall", "surface_dice"), value)
    return ObjectScore(
        prompt, group, truth, predicted, **{**scores, "hd95": 10 * (1 - value) if predicted else math.nan, **more}
    )


OBJECTS = [
    make("vessels", 1, 1.0, unit="mm"),
    make("vessels", 1, 0.8, unit="mm"),
    make("vessels", 2, 0.0, predicted=0, unit="mm"),
    make("disc", 2, 0.6, unit="pixel"),
    make("nodule", 1, 0.0, truth=0, hd95=math.nan, unit="mm"),
    make("nodule", 2, 1.0, truth=0, predicted=0, hd95=0.0, unit="mm"),
]


def test_means_are_those_of_what_is_there() -> None:
    found = Summary()(OBJECTS)
    overall = found["overall"]
    assert (overall["objects"], overall["present"], overall["absent"]) == (6, 4, 2)
    dice = overall["scores"]["dice"]
    assert dice["mean"] == pytest.approx(2.4 / 4)
    # resamples: 1, 1 has (1 + 0.8) / 2; 2, 2 has (0 + 0.6) / 2
    assert (dice["low"], dice["high"]) == pytest.approx((0.3, 0.9))
    assert (dice["objects"], dice["excluded"]) == (4, 0)
    assert found["prompts"]["vessels"]["scores"]["recall"]["mean"] == pytest.approx(0.6)
    assert found["prompts"]["disc"]["scores"]["iou"] == {
        **{"mean": 0.6, "low": None, "high": None},
        **{"objects": 1, "excluded": 0},
    }
    assert found["mean_of_prompts"]["dice"]["mean"] == pytest.approx((0.6 + 0.6) / 2)
    assert list(found["prompts"]) == ["disc", "nodule", "vessels"]


def test_distances_say_their_unit_and_what_has_none() -> None:
    scores = Summary()(OBJECTS)["overall"]["scores"]
    names = {"dice", "iou", "precision", "recall", "surface_dice_mm", "surface_dice_pixel", "hd95_mm", "hd95_pixel"}
    assert set(scores) == names
    # 0 and 2 mm; the empty mask has no distance
    assert scores["hd95_mm"]["mean"] == pytest.approx(1.0)
    assert (scores["hd95_mm"]["objects"], scores["hd95_mm"]["excluded"]) == (2, 1)
    assert scores["hd95_pixel"]["mean"] == pytest.approx(4.0)
    assert scores["surface_dice_mm"]["objects"] == 3


def test_rates() -> None:
    found = Summary()(OBJECTS)
    # patient 1 has 0 of 2 and patient 2 has 1 of 2; of what isn't there, each has one
    assert found["overall"]["false_empty"] == {"count": 1, "of": 4, "rate": 0.25, "low": 0.0, "high": 0.5}
    assert found["overall"]["false_positive"] == {"count": 1, "of": 2, "rate": 0.5, "low": 0.0, "high": 1.0}
    assert found["prompts"]["disc"]["false_positive"] == {
        **{"count": 0, "of": 0, "rate": None},
        **{"low": None, "high": None},
    }
    assert found["prompts"]["nodule"]["scores"]["dice"]["mean"] is None


def test_absent_objects_may_count() -> None:
    found = Summary(score_absent=True)(OBJECTS)
    assert found["overall"]["scores"]["dice"]["mean"] == pytest.approx(3.4 / 6)
    assert found["prompts"]["nodule"]["scores"]["dice"]["mean"] == pytest.approx(0.5)
    hd95 = found["prompts"]["nodule"]["scores"]["hd95_mm"]
    assert (hd95["mean"], hd95["objects"], hd95["excluded"]) == (0.0, 1, 1)
    assert found["overall"]["false_positive"]["count"] == 1


def test_it_is_json_also_without_any_object() -> None:
    json.dumps(Summary()(OBJECTS), allow_nan=False)
    empty = Summary()([])
    json.dumps(empty, allow_nan=False)
    assert empty["overall"]["scores"]["dice"] == {
        **{"mean": None, "low": None, "high": None},
        **{"objects": 0, "excluded": 0},
    }


def test_settings_decide() -> None:
    narrow = Summary(confidence=0.4)(OBJECTS)["overall"]["scores"]["dice"]
    assert (narrow["low"], narrow["high"]) == pytest.approx((0.6, 0.6))
    assert Summary(resamples=7, seed=3).settings == {
        **{"resamples": 7, "confidence": 0.95},
        **{"seed": 3, "score_absent": False},
    }
    more = [replace(item, group=number) for number, item in enumerate(OBJECTS)]
    assert Summary(seed=1)(more) != Summary(seed=2)(more)
    with pytest.raises(ConfigError, match="resamples is 0"):
        Summary(resamples=0)
