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

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.engines import Evaluator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.engines.evaluator import Sa2VAEvaluator
from monai_sa2va.engines.handlers import EvaluationStats, FinalValidationHandler, TrainingStats
from monai_sa2va.engines.trainer import Sa2VATrainer
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError
from monai_sa2va.metrics.handler import PromptMetricHandler
from monai_sa2va.metrics.segmentation import PromptSegmentationMetric
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.sentences import answer_segments


@pytest.fixture
def network() -> Sa2VA:
    return Sa2VA("tiny", seed=0)


def _batch(network: Sa2VA, seed: int) -> dict[str, Any]:
    picture = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sample = dict(network.processor(picture, [("Segment the cyst.", answer_segments(["cyst"]))]))
    sample[Keys.MASKS] = torch.ones((1, 32, 32), dtype=torch.uint8)
    sample |= {Keys.FRAMES_PER_BATCH: 1, Keys.NAMES: ["cyst"]}
    return sa2va_collate([sample])


def _scalars(folder: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def test_a_line_holds_the_loss_of_whole_steps(network: Sa2VA, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches = [_batch(network, seed) for seed in range(4)]
    # a rate of 0: the weights stay, so the losses can be had again
    trainer = Sa2VATrainer(
        "cpu",
        1,
        batches,  # type: ignore[arg-type]
        network,
        torch.optim.SGD(network.parameters(), lr=0.0),
        accumulation_steps=2,
        train_handlers=[TrainingStats(tmp_path, interval=1, progress=False)],
    )
    with caplog.at_level(logging.INFO, logger="monai_sa2va"):
        trainer.run()
    with torch.no_grad():
        losses = [float(network.train()(batch)["loss_mask"]) for batch in batches]
    written = [event.value for event in _scalars(tmp_path)["train/loss_mask"]]
    # one object a batch: the loss of a step is the mean over its two micro-batches
    assert written == pytest.approx([(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2], rel=1e-5)
    assert {"train/lr", "train/grad_norm", "train/samples_per_s"} <= set(_scalars(tmp_path))
    assert "epoch 1 step 2: loss" in caplog.text
    assert "weights at the start: sha256 " in caplog.text
    assert "grounding_encoder.mask_decoder" in caplog.text


def test_metrics_are_logged_by_prompt(network: Sa2VA, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = Sa2VAEvaluator(
        "cpu",
        [_batch(network, 0)],  # type: ignore[arg-type]
        network,
        {"dice": PromptMetricHandler(PromptSegmentationMetric("dice"))},
        val_handlers=[EvaluationStats(tmp_path, progress=False)],
        epoch_length=1,
    )
    with caplog.at_level(logging.INFO, logger="monai_sa2va"):
        evaluator.run()
    assert set(_scalars(tmp_path)) == {"validation/dice", "validation/dice_objects", "validation/dice/cyst"}
    assert "cyst" in caplog.text


@pytest.mark.parametrize(("epochs", "interval", "validated"), [(1, 5, [1]), (5, 2, [2, 4, 5]), (4, 2, [2, 4])])
def test_the_last_epoch_is_always_validated(epochs: int, interval: int, validated: list[int]) -> None:
    seen: list[int] = []

    class Recorder(Evaluator):
        def __init__(self) -> None:
            super().__init__("cpu", [0])

        def run(self, global_epoch: int = 1) -> None:
            seen.append(global_epoch)

    engine = Engine(lambda _engine, _batch: None)
    FinalValidationHandler(interval, Recorder()).attach(engine)
    engine.run([0], max_epochs=epochs)
    assert seen == validated


@pytest.mark.parametrize(
    ("handler", "key"), [(FinalValidationHandler, "val_interval"), (TrainingStats, "log_interval")]
)
@pytest.mark.parametrize("interval", [0, -1, 1.5, True, "2", None])
def test_bad_intervals_are_refused_before_the_run(handler: Any, key: str, interval: Any) -> None:
    with pytest.raises(ConfigError) as error:
        handler(interval=interval)
    assert str(error.value) == f"[CONFIG] {key} is {interval!r}; give a whole number of at least 1"
