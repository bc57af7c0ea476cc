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

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.engines.stopping import EarlyStop, FiniteGuard
from monai_sa2va.engines.trainer import Sa2VATrainer
from monai_sa2va.errors import ConfigError, TrainingError
from monai_sa2va.networks.sa2va import Sa2VA


class Engine:
    ended = False

    def terminate(self) -> None:
        self.ended = True


def _validator(epoch: int, best: int, length: int = 3) -> Any:
    state = SimpleNamespace(epoch=epoch, best_metric_epoch=best, key_metric_name="dice", epoch_length=length)
    return SimpleNamespace(state=state)


@pytest.mark.parametrize(
    ("epoch", "best", "ends"), [(0, -1, False), (1, 1, False), (4, 2, False), (5, 2, True), (6, 2, True)]
)
@pytest.mark.parametrize("event", ["__call__", "started"])
def test_ends_after_three_epochs_without_a_better_one(epoch: int, best: int, ends: bool, event: str) -> None:
    engine: Any = Engine()
    getattr(EarlyStop(_validator(epoch, best), 3), event)(engine)
    assert engine.ended is ends


@pytest.mark.parametrize("patience", [0, -1, 1.5, True, "3"])
def test_bad_patience(patience: Any) -> None:
    with pytest.raises(ConfigError, match=r"patience is .*; give a number of epochs of at least 1"):
        EarlyStop(_validator(1, 1), patience)


def test_patience_without_validation() -> None:
    with pytest.raises(ConfigError, match="patience needs a validation"):
        EarlyStop(_validator(0, -1, length=0), 3).started(Engine())  # type: ignore[arg-type]


NAN, INF = float("nan"), float("inf")


class TestFiniteGuard:
    def _guard(self, *losses: float, others: list[Any] | None = None) -> FiniteGuard:
        guard = FiniteGuard(lambda own: [*(others or []), own])
        for number, loss in enumerate(losses):
            guard.add(torch.tensor(loss), {"source": [f"{number}a.png", f"{number}b.png", ""]})
        return guard

    def test_finite_numbers_pass_and_nothing_is_exchanged(self) -> None:
        def gather(own: Any) -> list[Any]:
            raise AssertionError("all processes would have to wait for each other at each step")

        guard = FiniteGuard(gather)
        guard.add(torch.tensor(1.0), {})
        guard.check(1.0, 2.0, 1)

    @pytest.mark.parametrize("loss", [NAN, INF])
    def test_names_the_batch(self, loss: float) -> None:
        with pytest.raises(TrainingError) as error:
            self._guard(1.0, loss).check(loss, NAN, 7)
        assert str(error.value) == (
            f"[TRAINING] the loss is {loss} before step 7, in the batch of 1a.png, 1b.png; "
            "look at these files, or lower learning_rate"
        )

    def test_a_gradient_that_is_none(self) -> None:
        guard = self._guard(1.0, 2.0)
        with pytest.raises(
            TrainingError, match=r"norm is inf before step 7, in the batches of 0a.png, 0b.png, 1a.png, 1b"
        ):
            guard.check(3.0, INF, 7)
        # the next window has files of its own
        guard.add(torch.tensor(NAN), {})
        with pytest.raises(TrainingError, match="in the batch of unknown files"):
            guard.check(NAN, 1.0, 8)

    def test_names_the_batch_of_another_process_and_not_its_own(self) -> None:
        guard = self._guard(1.0, others=[[(2.0, ["good.png"]), (NAN, ["bad.png"])]])
        with pytest.raises(TrainingError) as error:
            guard.check(NAN, NAN, 3)
        assert str(error.value) == (
            "[TRAINING] the loss is nan before step 3, in process 0's batch of bad.png; "
            "look at these files, or lower learning_rate"
        )

    def test_a_gradient_may_be_spoilt_by_any_process(self) -> None:
        guard = self._guard(1.0, others=[[(2.0, ["other.png"])]])
        with pytest.raises(TrainingError, match=r"norm is nan before step 3, in the batches of other.png, 0a.png, 0b"):
            guard.check(3.0, NAN, 3)


def test_training_ends_before_the_step_that_would_spoil_the_weights(
    micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]
) -> None:
    samples = [{**sample, "source": f"{number}.png"} for number, sample in enumerate(micro_samples[:4])]
    samples[3]["pixel_values"] = samples[3]["pixel_values"] * float("nan")
    network = Sa2VA(micro_config, seed=0)
    trainer = Sa2VATrainer(
        "cpu",
        1,
        Sa2VADataLoader(samples, 1),
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        accumulation_steps=2,
    )
    with pytest.raises(TrainingError, match=r"the loss is nan before step 2, in the batch of 3.png; look at"):
        trainer.run()
    assert trainer.state.optimizer_steps == 1
    assert all(value.isfinite().all() for value in network.state_dict().values())
