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

"""What a training run says of itself: progress bars, a log line now and then, TensorBoard."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.handlers import ValidationHandler

from monai_sa2va.engines.distributed import unwrap
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.parts import trainable_summary, weights_hash

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from monai_sa2va.engines.trainer import Sa2VATrainer

__all__ = ["EvaluationStats", "FinalValidationHandler", "TrainingStats"]

_LOGGER = logging.getLogger(__name__)


class TrainingStats:
    """Log loss parts, learning rate, gradient norm and throughput, averaged over some iterations.

    Args:
        log_dir: of TensorBoard's files; ``None`` writes none.
        interval: optimizer steps between two lines, at least 1; ``log_interval`` in the bundle.
        progress: whether to show a progress bar.
        seed: of the initial weights, to be noted beside their hash.

    Raises:
        ConfigError: when ``interval`` can't be used.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        interval: int = 20,
        progress: bool = True,
        seed: int | None = None,
    ) -> None:
        _check_interval("log_interval", interval)
        self.log_dir, self.interval, self.progress, self.seed = log_dir, interval, progress, seed
        self._writer: SummaryWriter | None = None
        self._sums: dict[str, float] = {}
        self._samples = self._steps = 0
        self._since = 0.0

    def attach(self, engine: Sa2VATrainer) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)
        if self.progress:
            ProgressBar(desc="train").attach(engine, output_transform=lambda _: _latest_loss(engine))

    def started(self, engine: Sa2VATrainer) -> None:
        """Say what is trained, and from which weights."""
        if self.log_dir is not None:
            # imported here: TensorBoard takes seconds to load, and evaluation doesn't need it
            from torch.utils.tensorboard import SummaryWriter

            # of a run that is resumed, what it had written after its checkpoint is drawn once
            done = engine.state.optimizer_steps
            self._writer = SummaryWriter(str(self.log_dir), purge_step=done + 1 if done else None)
        network = unwrap(engine.network)
        for part, (trained, total) in trainable_summary(network).items():
            _LOGGER.info("%-34s %12s of %12s parameters trained", part, f"{trained:,}", f"{total:,}")
        seed = "" if self.seed is None or engine.state.optimizer_steps else f" (seed {self.seed})"
        _LOGGER.info("weights at the start%s: sha256 %s", seed, weights_hash(network))
        self._reset(engine)

    def iteration_completed(self, engine: Sa2VATrainer) -> None:
        """Add a micro-batch; write a line where enough optimizer steps are done."""
        batch = engine.state.batch
        if batch[Keys.WINDOW_END]:
            for key, value in engine.state.step_losses.items():
                self._sums[key] = self._sums.get(key, 0.0) + value
        # processes have batches of equal size
        self._samples += len(batch[Keys.INPUT_IDS]) * engine.processes
        done = engine.state.optimizer_steps - self._steps
        if done >= self.interval and batch[Keys.WINDOW_END]:
            self._write(engine, done)
            self._reset(engine)

    def completed(self, engine: Sa2VATrainer) -> None:
        """Close TensorBoard's file."""
        done = engine.state.optimizer_steps - self._steps
        if done:
            self._write(engine, done)
        if self._writer is not None:
            self._writer.close()

    def _write(self, engine: Sa2VATrainer, done: int) -> None:
        values = {key: total / done for key, total in self._sums.items()}
        values |= {"lr": engine.state.lr, "grad_norm": engine.state.grad_norm}
        values["samples_per_s"] = self._samples / max(time.perf_counter() - self._since, 1e-9)
        _LOGGER.info(
            "epoch %d step %d: %s",
            engine.state.epoch,
            engine.state.optimizer_steps,
            ", ".join(f"{key} {value:.4g}" for key, value in values.items()),
        )
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(f"train/{key}", value, engine.state.optimizer_steps)

    def _reset(self, engine: Sa2VATrainer) -> None:
        self._sums, self._samples, self._steps = {}, 0, engine.state.optimizer_steps
        self._since = time.perf_counter()


def _latest_loss(engine: Sa2VATrainer) -> dict[str, float]:
    loss = engine.state.step_losses.get(Keys.LOSS)
    return {} if loss is None else {"loss": loss}


class EvaluationStats:
    """Log an evaluator's metrics at the end of each epoch, mean first, then by prompt.

    Args:
        log_dir: of TensorBoard's files; ``None`` writes none.
        progress: whether to show a progress bar.
        trainer: whose optimizer steps TensorBoard counts by; without one its epochs count.
    """

    def __init__(
        self, log_dir: str | Path | None = None, progress: bool = True, trainer: Sa2VATrainer | None = None
    ) -> None:
        self.log_dir, self.progress, self.trainer = log_dir, progress, trainer

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        if self.progress:
            ProgressBar(desc="validate").attach(engine)

    def epoch_completed(self, engine: Engine) -> None:
        """Write the metrics."""
        metrics: dict[str, Any] = engine.state.metrics
        for name in sorted(key for key in metrics if "/" not in key):
            phrases = [
                f"{key.split('/', 1)[1]} {metrics[key]:.3f}" for key in sorted(metrics) if key.startswith(f"{name}/")
            ]
            _LOGGER.info("%s %.4f%s", name, metrics[name], f" ({', '.join(phrases)})" if phrases else "")
        if self.log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            step = engine.state.epoch if self.trainer is None else self.trainer.state.optimizer_steps
            with SummaryWriter(str(self.log_dir)) as writer:
                for key, value in metrics.items():
                    writer.add_scalar(f"validation/{key}", value, step)


class FinalValidationHandler(ValidationHandler):
    """MONAI's ``ValidationHandler`` that counts epochs, and validates after the last one whatever the interval.

    Without it the weights of a run's last epochs would never be compared, and a run shorter than the interval would
    leave no best weights.

    Args:
        interval: epochs from one validation to the next, at least 1; ``val_interval`` in the bundle.
        validator: an evaluator.

    Raises:
        ConfigError: when ``interval`` can't be used.
    """

    def __init__(self, interval: int, validator: Any = None) -> None:
        _check_interval("val_interval", interval)
        super().__init__(interval=interval, validator=validator, epoch_level=True)

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self._is_due), self)

    def _is_due(self, engine: Engine, epoch: int) -> bool:
        return epoch % self.interval == 0 or epoch == engine.state.max_epochs


def _check_interval(key: str, interval: Any) -> None:
    """Refuse here what would fail in mid-run only; ``key`` is what users of the bundle call it."""
    if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
        raise ConfigError(f"{key} is {interval!r}; give a whole number of at least 1")
