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

"""The trainer: MONAI's SupervisedTrainer with bfloat16, exact accumulation and clipping where a step is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.inferers import Inferer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from monai_sa2va.engines.accumulation import AccumulationWindows, check_steps
from monai_sa2va.engines.distributed import DistributedSa2VA, gather_all, unwrap
from monai_sa2va.engines.stopping import FiniteGuard
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError

__all__ = ["Sa2VATrainer", "move_to"]


class Sa2VATrainer(SupervisedTrainer):
    """Train a Sa2VA on collated batches; the losses are the network's own.

    What differs from ``SupervisedTrainer``: autocast follows the device's type, so bfloat16 works on a CPU too, and
    there is no gradient scaler, which bfloat16 doesn't need; the losses of the micro-batches of a step add up to
    exactly the loss of one large batch; gradients are clipped, and the schedule moves on, only where a step is taken.

    Args:
        device: where to train.
        max_epochs: epochs to run.
        train_data_loader: of batches from :func:`~monai_sa2va.data.collate.sa2va_collate`.
        network: a :class:`~monai_sa2va.networks.sa2va.Sa2VA`, or one in a
            :class:`~monai_sa2va.engines.distributed.DistributedSa2VA`: a step is then that of the micro-batches of all
            processes, and gradients go around once a step.
        optimizer: over the network's trainable parameters.
        lr_scheduler: moved on once an optimizer step.
        accumulation_steps: micro-batches an optimizer step; the last window of an epoch may be shorter.
        clip_norm: largest 2-norm of the gradient; ``None`` leaves it alone.
        amp: autocast to bfloat16.
        train_handlers: MONAI or Ignite handlers.
        epoch_length: micro-batches an epoch; all of the loader's by default. No window reaches over its end.
        inferer: applies the network to a batch; by default ``SimpleInferer``, which just calls it.

    After each iteration ``state.output`` is a list of one dictionary, in the form in which MONAI's handlers expect it
    (``from_engine``, and with it ``--tracking mlflow``): ``loss`` and its parts, detached scalars that are the
    micro-batch's own share of the window, and ``pred_masks``; after each optimizer step ``state.step_losses`` (``loss``
    and its parts as numbers, over all micro-batches and processes), ``state.grad_norm`` (before clipping), ``state.lr``
    (of that step) and ``state.optimizer_steps``. The last is part of ``state_dict()``, so that MONAI's
    ``CheckpointSaver`` and ``CheckpointLoader`` carry it on.

    A run ends with a ``TrainingError``, in all processes, before a step whose losses or gradient aren't finite; the
    weights are then still those before it. A loader that can be entered in mid-epoch is, where the state says so.

    Raises:
        ConfigError: when ``accumulation_steps``, ``clip_norm`` or ``epoch_length`` can't be used, or the network is in
            another ``DistributedDataParallel``.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: torch.nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler | None = None,
        accumulation_steps: int = 1,
        clip_norm: float | None = 1.0,
        amp: bool = False,
        train_handlers: Sequence[Any] | None = None,
        epoch_length: int | None = None,
        inferer: Inferer | None = None,
    ) -> None:
        check_steps(accumulation_steps)
        if clip_norm is not None and not clip_norm > 0:
            raise ConfigError(f"clip_norm is {clip_norm}; give a positive number, or null for none")
        if isinstance(network, DistributedDataParallel) and not isinstance(network, DistributedSa2VA):
            raise ConfigError(
                "network is in a DistributedDataParallel, which would average losses; use DistributedSa2VA"
            )
        self.lr_scheduler, self.clip_norm = lr_scheduler, clip_norm
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=_own_loss,
            inferer=inferer,
            epoch_length=epoch_length,
            train_handlers=None,
            amp=amp,
            decollate=False,
            optim_set_to_none=True,
            accumulation_steps=accumulation_steps,
        )
        self.parallel = network if isinstance(network, DistributedSa2VA) else None
        self.processes = 1 if self.parallel is None else torch.distributed.get_world_size()
        module: Any = unwrap(network)
        self.windows = self.data_loader = AccumulationWindows(
            train_data_loader,
            accumulation_steps,
            module.loss_counts,
            epoch_length,
            dict if self.parallel is None else self.parallel.add_up,
        )
        self._guard = FiniteGuard(gather_all)
        # the place in the data is the engine's iteration, whatever restored it
        self.add_event_handler(Events.EPOCH_STARTED, lambda: self.windows.seek(self.state.iteration))
        self._window_losses: list[dict[str, torch.Tensor]] = []
        self.state.step_losses = {}
        self.state.grad_norm = 0.0
        self.state.optimizer_steps = 0
        self.state_dict_user_keys.append("optimizer_steps")
        self.state.lr = optimizer.param_groups[0]["lr"]
        # handlers last: they may read the state above when they are attached
        if train_handlers is not None:
            self._register_handlers(train_handlers)

    def run(self) -> None:  # type: ignore[override]  # as MONAI's: all arguments of ignite's are the constructor's
        """Train. Unlike MONAI's trainers this one makes no gradient scaler."""
        # what an interrupted run left behind belongs to no window of this one
        self.optimizer.zero_grad(set_to_none=True)
        self._guard.clear()
        self._window_losses = []
        Workflow.run(self)

    def _iteration(  # type: ignore[override]  # MONAI's decollate their dictionary into a list later
        self, engine: SupervisedTrainer, batchdata: dict[str, Any]
    ) -> list[dict[str, Any]]:
        if batchdata is None or Keys.MASKS not in batchdata:
            raise DataError("a training batch needs gt_masks; build it with sa2va_collate")
        batch = move_to(batchdata, self.state.device, non_blocking=self.non_blocking)
        self.network.train()
        last = batch[Keys.WINDOW_END]
        with nullcontext() if last or self.parallel is None else self.parallel.no_sync():
            with torch.autocast(self.state.device.type, dtype=torch.bfloat16, enabled=self.amp):
                predictions = self.inferer(batch, self.network)  # type: ignore[arg-type]  # MONAI types one tensor
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            self.fire_event(IterationEvents.LOSS_COMPLETED)
            # gradients are averaged over processes, and each has its share of a sum
            (predictions[Keys.LOSS] * self.processes).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self._guard.add(predictions[Keys.LOSS], batch)
        output = {key: value.detach() for key, value in predictions.items() if key.startswith("loss")}
        self._window_losses.append(output.copy())
        if last:
            self._step()
        output[Keys.PRED_MASKS] = predictions[Keys.PRED_MASKS].detach()
        self.state.output = [output]
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def _step(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        self.state.grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        # after the norm, which waits for the device anyway
        losses = self._losses_of_window()
        self._guard.check(losses[Keys.LOSS], self.state.grad_norm, self.state.optimizer_steps + 1)
        self.state.step_losses = losses
        self.state.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.state.optimizer_steps += 1

    def _losses_of_window(self) -> dict[str, float]:
        names = list(self._window_losses[0])
        rows = torch.stack([torch.stack([losses[name] for name in names]) for losses in self._window_losses])
        self._window_losses = []
        totals = dict(zip(names, rows.sum(0).tolist(), strict=True))
        return totals if self.parallel is None else self.parallel.add_up(totals)


def move_to(batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False) -> dict[str, Any]:
    """Copy of a batch with its tensors on ``device``."""
    return {
        key: value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def _own_loss(*_: Any) -> torch.Tensor:
    raise ConfigError("Sa2VATrainer takes its loss from the network's criterion; set it there")
