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

"""Learning-rate schedules, counted in optimizer steps."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from monai_sa2va.errors import CheckpointError, ConfigError

__all__ = ["optimizer_steps_per_epoch", "warmup_cosine"]

_LOGGER = logging.getLogger(__name__)
_FOR_EVER = 2**62


def optimizer_steps_per_epoch(micro_batches: int, accumulation_steps: int) -> int:
    """Optimizer steps of an epoch of ``micro_batches``, its short last window counted."""
    return -(-micro_batches // accumulation_steps)


def warmup_cosine(
    optimizer: Optimizer,
    warmup_steps: int = 366,
    total_steps: int = 12192,
    start_lr: float = 1e-5,
    planned_steps: int | None = None,
    steps_per_epoch: int = 1,
) -> SequentialLR:
    """Linear warm-up from ``start_lr`` to the optimizer's rate, then a cosine to 0, where it stays.

    Loading the state of one of another length, into one that hasn't moved yet and after the optimizer's, goes on with
    this length from the step of that state, with a warning. It raises a ``CheckpointError`` where this length is over
    by then, and where rate or warm-up differ.

    Args:
        optimizer: its current rate is the highest one.
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps in all.
        start_lr: rate of the first step, above 0 and not above the optimizer's.
        planned_steps: optimizer steps that the run is going to make; where they miss ``total_steps`` by an epoch or
            more, a warning says so.
        steps_per_epoch: optimizer steps of an epoch, for that warning.

    Raises:
        ConfigError: when the numbers don't fit together.
    """
    highest = optimizer.param_groups[0]["lr"]
    if not 0 <= warmup_steps < total_steps:
        raise ConfigError(f"warmup_steps is {warmup_steps}, total_steps {total_steps}; 0 <= warm-up < total is needed")
    if not 0 < start_lr <= highest:
        raise ConfigError(f"warmup_start_lr is {start_lr}, learning_rate {highest}; 0 < start <= rate is needed")
    if planned_steps is not None and abs(planned_steps - total_steps) >= steps_per_epoch:
        _LOGGER.warning(
            "the schedule has %d optimizer steps (%d of warm-up), this run makes %d%s: pass --total_steps and "
            "--warmup_steps to fit them",
            total_steps,
            warmup_steps,
            planned_steps,
            ", the last ones at a rate of 0" if planned_steps > total_steps else "",
        )
    warmup = LinearLR(optimizer, start_factor=start_lr / highest, total_iters=max(warmup_steps, 1))
    cosine = CosineAnnealingLR(optimizer, T_max=total_steps - warmup_steps)
    # a cosine goes up again after its end
    end = ConstantLR(optimizer, factor=0.0, total_iters=_FOR_EVER)
    parts: list[LRScheduler] = [warmup, cosine, end] if warmup_steps else [cosine, end]
    return _WarmupCosine(optimizer, parts, milestones=[warmup_steps, total_steps] if warmup_steps else [total_steps])


class _WarmupCosine(SequentialLR):
    """What :func:`warmup_cosine` makes; it doesn't take over another one's state without a word."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        then, now = _options(state_dict), _options(self.state_dict())
        # A rate or a warm-up that was begun with can't be had back, and is more likely forgotten than meant. A longer
        # run is what total_steps is changed for: to restore the old, ended schedule would train on at a rate of 0.
        for key in ("learning_rate", "warmup_steps", "warmup_start_lr"):
            if then[key] != now[key]:
                raise CheckpointError(
                    f"the run was begun with {key} {then[key]:g}, and it is {now[key]:g} now: go on with the same, or "
                    "begin a run of its own in another ckpt_dir, without resume"
                )
        done, total = state_dict["last_epoch"], now["total_steps"]
        if then["total_steps"] == total:
            super().load_state_dict(state_dict)
            return
        if done >= total:
            raise CheckpointError(
                f"the run was begun with total_steps {then['total_steps']}, of which {done} are done, and it is "
                f"{total} now: go on with the same, or with more than {done}"
            )
        self._move_on(done)
        _LOGGER.warning(
            "the run was begun with total_steps %d, and it is %d now: from step %d on the rate is that of the new "
            "schedule, %.3g instead of %.3g, so the run doesn't end as one that had it from the start",
            then["total_steps"],
            total,
            done,
            self.get_last_lr()[0],
            state_dict["_last_lr"][0],
        )

    def _move_on(self, steps: int) -> None:
        # each rate follows from the one before, so all of them are gone through
        for group, rate in zip(self.optimizer.param_groups, self.get_last_lr(), strict=True):
            group["lr"] = rate
        with warnings.catch_warnings():
            # the optimizer made its steps before
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(steps):
                self.step()


def _options(state: Mapping[str, Any]) -> dict[str, float]:
    """What the state of a schedule says of the arguments that it was made with, by their keys in the bundle."""
    *warmup, total = state["_milestones"]
    first, last = state["_schedulers"][0], state["_schedulers"][-1]
    rate = last["base_lrs"][0]
    return {
        "learning_rate": rate,
        "warmup_steps": warmup[0] if warmup else 0,
        "warmup_start_lr": rate * first["start_factor"] if warmup else rate,
        "total_steps": total,
    }
