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

"""Checks of what is trained and how: parameters, learning rate, schedule, weights of the loss, the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai_sa2va.engines.distributed import unwrap
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.parts import trainable_summary
from monai_sa2va.preflight.data import scanned
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings

__all__ = ["check_learning_rate", "check_loss", "check_parameters", "check_schedule", "check_trainer"]

_USUAL, _HIGHEST = 1e-3, 1e-2
_UNEVEN = 100.0


def check_parameters(settings: Settings) -> Iterator[Remark]:
    """Which parts train, how many parameters they have, and whether the optimizer holds just these."""
    if not settings.has("network"):
        return
    network = unwrap(settings.value("network"))
    parts = trainable_summary(network)
    trained = sum(count for count, _ in parts.values())
    if trained == 0:
        yield Status.FAIL, "no parameter is trained; correct freeze"
        return
    frozen = [part for part, (count, total) in parts.items() if total and not count]
    if "text_hidden_fcs" in frozen:
        yield Status.WARN, "text_hidden_fcs, which turns [SEG] into SAM2's token, is frozen; leave it out of freeze"
    if settings.has("optimizer"):
        optimizer = settings.notes["optimizer"] = settings.value("optimizer")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [name for name, p in network.named_parameters() if p.requires_grad and id(p) not in held]
        if missing:
            yield Status.FAIL, f"the optimizer lacks {len(missing)} trained parameters ({missing[0]}, ...); give it all"
            return
    total = sum(count for _, count in parts.values())
    each = ", ".join(f"{part} {count:,}" for part, (count, _) in parts.items() if count)
    kept = f": {each}; frozen: {', '.join(frozen)}" if frozen else ""
    yield Status.PASS, f"{trained:,} of {total:,} parameters are trained{kept}"


def check_learning_rate(settings: Settings) -> Iterator[Remark]:
    """Whether AdamW can use the learning rates: ``learning_rate``, and what the optimizer was really given."""
    rates = {"learning_rate": settings.value("learning_rate")} if settings.has("learning_rate") else {}
    optimizer = settings.notes.get("optimizer")
    for number, group in enumerate(optimizer.param_groups if optimizer is not None else ()):
        # a schedule that was built has set lr to that of its first step
        rate = group.get("initial_lr", group["lr"])
        if rate not in rates.values():
            rates[f"lr of the optimizer's group {number}"] = rate
    sound = []
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= _HIGHEST:
            yield Status.FAIL, f"{name} is {rate!r}; give a number above 0, usually 1e-6 to {_USUAL:g}"
        elif rate > _USUAL:
            yield Status.WARN, f"{name} is {rate:g}, high for AdamW on a transformer; 1e-6 to {_USUAL:g} is usual"
        else:
            sound.append(f"{rate:g}")
    if rates and len(sound) == len(rates):
        yield Status.PASS, ", ".join(sound)


def check_schedule(settings: Settings) -> Iterator[Remark]:
    """Whether warm-up and schedule fit the steps that the run makes."""
    known = ("max_epochs", "steps_per_epoch", "warmup_steps", "total_steps")
    # steps are counted from the data, which torn files keep from being cached
    scans = scanned(settings)
    if settings.notes.get("unusable") or not all(map(settings.has, known)):
        return
    if "training" not in scans or any(found.faults for found in scans.values()):
        return
    unsound = False
    for key in known:
        value = settings.value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            unsound = True
            yield Status.FAIL, f"{key} is {value!r}; give a whole number"
    if unsound:
        return
    if settings.has("lr_scheduler"):
        settings.value("lr_scheduler")
    epochs, per_epoch, warmup, total = (settings.value(key) for key in known)
    planned = settings.notes["planned_steps"] = epochs * per_epoch
    if planned < 1:
        yield Status.FAIL, f"the run makes no step: max_epochs is {epochs}, steps_per_epoch {per_epoch}"
    elif planned <= warmup:
        yield (
            Status.WARN,
            f"the run's {planned} steps end within the warm-up of {warmup}: its rate is never reached; "
            "lower warmup_steps",
        )
    elif planned - total >= per_epoch:
        yield (
            Status.WARN,
            f"the run makes {planned} steps, {planned - total} of them at a rate of 0; raise total_steps",
        )
    elif total - planned >= per_epoch:
        yield Status.WARN, f"the run makes {planned} of the schedule's {total} steps; lower total_steps to them"
    else:
        yield Status.PASS, f"{planned} optimizer steps in {epochs} epochs, {warmup} of them warm-up"


def check_trainer(settings: Settings) -> Iterator[Remark]:
    """Whether the trainer can be built with its loaders and handlers, whose constructors refuse what they can't use.

    It is built where steps could be counted, which needs the data, too. A run that is about to begin builds it next,
    and a trainer of several processes needs them all.
    """
    built_here = not settings.make_data and not settings.has("parallel_network")
    if built_here and settings.notes.get("planned_steps", 0) > 0 and settings.has("train#trainer"):
        settings.value("train#trainer")
        yield Status.PASS, "it can be built with its loaders and handlers"


def check_loss(settings: Settings) -> Iterator[Remark]:
    """Whether the weights of the loss leave something to learn."""
    if not settings.has("network_def"):
        return
    criterion: Any = getattr(settings.value("network_def"), "criterion", None)
    if not isinstance(criterion, Sa2VALoss):
        return
    weights = dict(criterion.weights)
    if criterion.segmentation_loss is not None:
        weights.pop("dice")
    masks = {part: weights[part] for part in ("mask", "dice") if part in weights}
    shown = ", ".join(f"{part} {weight:g}" for part, weight in weights.items() if weight)
    if not any(weights.values()):
        yield Status.FAIL, "all weights of the loss are 0: nothing is learned; set mask_weight and dice_weight"
    elif not any(masks.values()):
        yield Status.FAIL, f"mask_weight and dice_weight are 0, so no mask is learned ({shown}); set one of them"
    elif not weights["lang"]:
        yield Status.WARN, "language_weight is 0: answers and their [SEG] are not learned; the recipe has 0.5"
    elif max(weights.values()) > _UNEVEN * min(weight for weight in weights.values() if weight):
        yield Status.WARN, f"weights differ more than {_UNEVEN:g}-fold ({shown}): the smaller ones hardly count"
    else:
        yield Status.PASS, shown
