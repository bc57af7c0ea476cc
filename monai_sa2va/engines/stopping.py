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

"""When training ends before its time: no better validation for long, or numbers that are none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, TrainingError

__all__ = ["EarlyStop", "FiniteGuard"]

_LOGGER = logging.getLogger(__name__)


class EarlyStop:
    """End the training where validation hasn't got better for some epochs; attached to the trainer, after validation.

    It remembers nothing that the validator doesn't, so a run that was resumed ends where an uninterrupted one would.

    Args:
        validator: whose best key metric counts.
        patience: epochs without a better one, at least 1; looked at after each validation.

    Raises:
        ConfigError: when ``patience`` can't be used.
    """

    def __init__(self, validator: Any, patience: int) -> None:
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise ConfigError(f"patience is {patience!r}; give a number of epochs of at least 1, or null for none")
        self.validator, self.patience = validator, patience

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def started(self, engine: Engine) -> None:
        """Look whether there is a validation, and whether a run that is resumed had ended already.

        Raises:
            ConfigError: when nothing is validated.
        """
        if not self.validator.state.epoch_length:
            raise ConfigError("patience needs a validation, and the datalist has no 'validation' entries; leave it out")
        self(engine)

    def __call__(self, engine: Engine) -> None:
        """End the training where the best validation lies too far back."""
        state = self.validator.state
        # between validations both numbers stay as they are
        if state.best_metric_epoch > 0 and state.epoch - state.best_metric_epoch >= self.patience:
            _LOGGER.info(
                "no better %s since epoch %d: training ends after epoch %d, as patience is %d",
                state.key_metric_name,
                state.best_metric_epoch,
                state.epoch,
                self.patience,
            )
            engine.terminate()


class FiniteGuard:
    """Losses of the micro-batches of a step, with the files they come from, looked at before the step is taken.

    Args:
        gather: gives what each process has, called only where a number isn't finite; of one process by default.
    """

    def __init__(self, gather: Callable[[Any], list[Any]] = lambda own: [own]) -> None:
        self._gather = gather
        self._window: list[tuple[torch.Tensor, list[str]]] = []

    def clear(self) -> None:
        """Forget the micro-batches so far."""
        self._window = []

    def add(self, loss: torch.Tensor, batch: Mapping[str, Any]) -> None:
        """Take down a micro-batch.

        Args:
            loss: a scalar; it isn't read yet, as a GPU would have to be waited for.
            batch: names its files in ``source`` (list[str]), where they are known.
        """
        self._window.append((loss.detach(), [name for name in batch.get(Keys.SOURCE, []) if name]))

    def check(self, loss: float, grad_norm: float, step: int) -> None:
        """Look at all since the last call.

        Args:
            loss: sum over the micro-batches of all processes.
            grad_norm: 2-norm of the gradient, which all processes share as well.
            step: number of the optimizer step that would be taken, for the message.

        Raises:
            TrainingError: in all processes, when one of both isn't finite, naming the files of the batch, whichever
                process had it.
        """
        window, self._window = self._window, []
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        found = self._gather([(float(value), files) for value, files in window])
        for number, batches in enumerate(found):
            owner = f"process {number}'s" if len(found) > 1 else "the"
            for value, files in batches:
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss is {value} before step {step}, in {owner} batch of {_listed(files)}; {_ADVICE}"
                    )
        # the gradient is a sum, which doesn't tell whose part spoilt it
        files = [name for batches in found for _, names in batches for name in names]
        raise TrainingError(
            f"the gradient's norm is {grad_norm} before step {step}, in the batches of {_listed(files)}; {_ADVICE}"
        )


_ADVICE = "look at these files, or lower learning_rate"


def _listed(files: list[str]) -> str:
    return ", ".join(files) if files else "unknown files"
