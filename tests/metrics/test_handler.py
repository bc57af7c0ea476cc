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
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.engines import Evaluator

from monai_sa2va.errors import DataError
from monai_sa2va.metrics.handler import PromptMetricHandler, masks_and_names, metric_names, present_masks_and_names
from monai_sa2va.metrics.segmentation import PromptSegmentationMetric


def _output(names: list[str], right: int) -> dict[str, Any]:
    """Masks of four pixels with the left two foreground; ``right`` of the right two are falsely so as well."""
    truth = torch.tensor([[[1, 1, 0, 0]]]).expand(len(names), 1, 4)
    pred = torch.where(torch.arange(4) < 2 + right, 3.0, -3.0).expand(len(names), 1, 4)
    return {"pred_masks": pred, "gt_masks": truth, "names": names}


def _run(handler: PromptMetricHandler, outputs: list[Any], epochs: int = 1) -> Engine:
    engine = Engine(lambda _, batch: batch)
    handler.attach(engine, "val_mean_dice")
    engine.run(outputs, max_epochs=epochs)
    return engine


def test_what_is_not_there_may_be_left_out() -> None:
    both = _output(["vessels", "cyst"], 2)
    both["gt_masks"] = torch.stack([both["gt_masks"][0], torch.zeros(1, 4)])
    pred, truth, names = present_masks_and_names([both, _output([], 0)])
    assert [mask.tolist() for mask in pred] == [both["pred_masks"][0].tolist()]
    assert names == ["vessels"]
    assert [mask.tolist() for mask in truth] == [[[1, 1, 0, 0]]]
    handler = PromptMetricHandler(PromptSegmentationMetric("dice"), present_masks_and_names)
    assert _run(handler, [both]).state.metrics == pytest.approx(
        {"val_mean_dice": 2 / 3, "val_mean_dice_objects": 2 / 3, "val_mean_dice/vessels": 2 / 3}
    )


def test_phrases_become_names_that_trackers_take() -> None:
    phrases = ["optic disc", "kidney (left)", "kidney, left", "a/b", "../c.", "T1-w_2", "Läsion 左", "(?)", "["]
    expected = ["optic disc", "kidney left", "kidney left 2", "a b", "c", "T1-w_2", "Läsion 左", "phrase", "phrase 2"]
    assert metric_names(phrases) == dict(zip(phrases, expected, strict=True))
    assert metric_names(["x" * 512]) == {"x" * 512: "x" * 200}
    outputs = [_output(["kidney (left)", "kidney, left"], 0)]
    metrics = _run(PromptMetricHandler(PromptSegmentationMetric("dice")), outputs).state.metrics
    names = ["", "/kidney left", "/kidney left 2", "_objects"]
    assert sorted(metrics) == [f"val_mean_dice{name}" for name in names]


def test_means_by_prompt() -> None:
    outputs = [_output(["vessels", "vessels"], 0), _output(["vessels", "optic disc"], 2), _output([], 0)]
    metrics = _run(PromptMetricHandler(PromptSegmentationMetric("dice")), outputs).state.metrics
    vessels, disc = (1 + 1 + 2 / 3) / 3, 2 / 3
    assert metrics == pytest.approx(
        {
            "val_mean_dice": (vessels + disc) / 2,
            "val_mean_dice_objects": (1 + 1 + 2 / 3 + 2 / 3) / 4,
            "val_mean_dice/vessels": vessels,
            "val_mean_dice/optic disc": disc,
        }
    )


def test_each_epoch_starts_anew() -> None:
    handler = PromptMetricHandler(PromptSegmentationMetric("iou"))
    engine = Engine(lambda engine, _: _output(["a" if engine.state.epoch == 1 else "b"], engine.state.epoch - 1))
    handler.attach(engine, "iou")
    engine.run([0], max_epochs=2)
    assert engine.state.metrics == pytest.approx({"iou": 2 / 3, "iou_objects": 2 / 3, "iou/b": 2 / 3})


def test_decollated_samples() -> None:
    samples = [_output(["a", "b"], 0), _output(["c"], 2)]
    metrics = _run(PromptMetricHandler(PromptSegmentationMetric()), [samples]).state.metrics
    assert metrics["val_mean_dice/c"] == pytest.approx(2 / 3)
    pred, truth, names = masks_and_names(samples)
    assert (len(pred), len(truth), names) == (3, 3, ["a", "b", "c"])


def test_key_metric_of_a_monai_evaluator() -> None:
    parser = ConfigParser(
        {
            "handler": {
                "_target_": "monai_sa2va.metrics.PromptMetricHandler",
                "metric_fn": {"_target_": "monai_sa2va.metrics.PromptSegmentationMetric", "metric": "dice"},
            }
        }
    )
    evaluator = Evaluator(
        device="cpu",
        val_data_loader=[_output(["a"], 0), _output(["b"], 2)],
        iteration_update=lambda _, batch: batch,
        key_val_metric={"val_mean_dice": parser.get_parsed_content("handler")},
    )
    evaluator.run()
    assert evaluator.state.best_metric == pytest.approx((1 + 2 / 3) / 2)
    assert evaluator.state.metrics["val_mean_dice/b"] == pytest.approx(2 / 3)


def test_missing_keys_and_no_objects() -> None:
    with pytest.raises(DataError, match="output has no names; it has pred_masks, gt_masks"):
        masks_and_names({"pred_masks": [], "gt_masks": []})
    with pytest.raises(DataError, match="no object was scored"):
        _run(PromptMetricHandler(PromptSegmentationMetric()), [_output([], 0)])
