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

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from monai_sa2va.checkpoints.info import ModelInfo, stored
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.engines.presence import PresenceTuner
from monai_sa2va.engines.resume import WeightsSaver
from monai_sa2va.errors import ConfigError


class _Network(torch.nn.Module):
    """What the tuner knows of a network."""

    def __init__(self, config: Sa2VAConfig) -> None:
        super().__init__()
        self.config = config


def _engine(scores: list[float], present: list[bool]) -> Engine:
    """An evaluator that gives two objects an iteration."""
    masks = torch.zeros(len(scores), 2, 2, dtype=torch.uint8)
    masks[torch.tensor(present), 0, 0] = 1

    def step(engine: Engine, number: int) -> dict[str, Any]:
        part = slice(2 * number, 2 * number + 2)
        return {"object_scores": torch.tensor(scores[part]), "gt_masks": masks[part]}

    engine = Engine(step)
    engine.state.best_metric_epoch = 1
    return engine


def _run(engine: Engine, count: int) -> None:
    engine.run(range(count // 2), max_epochs=1)


def test_the_checkpoint_holds_what_was_tuned_on_its_weights(micro_config: Sa2VAConfig, tmp_path: Path) -> None:
    network = torch.nn.Sequential()
    network.module = _Network(micro_config)
    info = ModelInfo(micro_config, window="auto")
    tuner = PresenceTuner(network, info, min_objects=4)
    engine = _engine([3.0, -3.0] * 8, [True, False] * 8)
    tuner.attach(engine)
    WeightsSaver(tmp_path, {"info": info}).attach(engine)
    _run(engine, 16)
    # Platt's targets are 0.9 and 0.1, in the middle of the gap lies 0
    config = Sa2VAConfig.from_dict(stored(tmp_path / "model.pt", "config", None))
    assert config.presence_threshold == pytest.approx(0.5)
    assert torch.tensor(3.0 * config.presence_scale + config.presence_bias).sigmoid() == pytest.approx(0.9)
    assert network.module.config == config
    assert {key: value for key, value in engine.state.metrics.items() if key.startswith("val_")} == {
        "val_presence_auc": 1.0,
        "val_emptied_present": 0.0,
        "val_emptied_absent": 1.0,
    }


@pytest.mark.parametrize(
    ("scores", "present", "reason"),
    [
        ([1.0] * 6, [True] * 6, "asked for 6 objects that are there and 0 that are not, and 2 of each are needed"),
        ([1.0, 2.0] * 3, [True, False] * 3, "no higher where the object is there"),
    ],
)
def test_where_nothing_can_be_tuned_no_mask_is_emptied(
    micro_config: Sa2VAConfig,
    caplog: pytest.LogCaptureFixture,
    scores: list[float],
    present: list[bool],
    reason: str,
) -> None:
    network, info = _Network(micro_config), ModelInfo(micro_config)
    info.set_presence(0.7, 2.0, 1.0)
    engine = _engine(scores, present)
    engine.state.metrics["val_presence_auc"] = 0.9
    PresenceTuner(network, info, min_objects=2).attach(engine)
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        _run(engine, len(scores))
    assert "no mask will be emptied" in caplog.text
    assert reason in caplog.text
    assert info.state_dict()["config"] == micro_config.to_dict()
    assert network.config == micro_config
    assert "val_presence_auc" not in engine.state.metrics


def test_an_earlier_validation_does_not_count(micro_config: Sa2VAConfig) -> None:
    network, info = _Network(micro_config), ModelInfo(micro_config)
    tuner = PresenceTuner(network, info, min_objects=2, calibration="none")
    for shift in (100.0, 0.0):
        engine = _engine([shift - 1, shift + 2] * 2, [False, True] * 2)
        tuner.attach(engine)
        _run(engine, 4)
    assert network.config.presence_threshold == pytest.approx(0.6224593312)  # sigmoid of 0.5
    assert (network.config.presence_scale, network.config.presence_bias) == (1, 0)


def test_the_scores_of_all_processes_count(
    micro_config: Sa2VAConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other process has seen what this one's two objects say nothing of."""
    other = [(2.0, True), (-4.0, False)]
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("ignite.distributed.all_gather", lambda rows: [rows, other])
    network, info = _Network(micro_config), ModelInfo(micro_config)
    engine = _engine([9.0, -9.0], [True, False])
    PresenceTuner(network, info, min_objects=2, calibration="none").attach(engine)
    with caplog.at_level(logging.INFO, logger="monai_sa2va"):
        _run(engine, 2)
    assert network.config.presence_threshold == pytest.approx(0.2689414214)  # sigmoid of -1
    assert "masks are emptied below a presence of 0.2689" in caplog.text
    caplog.clear()
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    with caplog.at_level(logging.INFO, logger="monai_sa2va"):
        _run(engine, 2)
    # ignite's own lines come where an earlier test configured logging
    assert not [record for record in caplog.records if record.name.startswith("monai_sa2va")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_emptied": 1.0}, "max_emptied is 1.0"),
        ({"calibration": "x"}, "calibration is 'x'; allowed"),
        ({"min_objects": 0}, "min_objects is 0"),
    ],
)
def test_bad_settings(micro_config: Sa2VAConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PresenceTuner(_Network(micro_config), ModelInfo(micro_config), **settings)
