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

"""Checkpoints from which a run that was killed goes on as if nothing had happened, and the weights to keep."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monai_sa2va.checkpoints.companions import keep_companions
from monai_sa2va.checkpoints.info import INFO_KEY
from monai_sa2va.checkpoints.save import save_checkpoint, temporary_path
from monai_sa2va.engines.checkpoint_files import CheckpointFile, checkpoint_files, in_order, read_checkpoint
from monai_sa2va.engines.distributed import gather_all, is_main, process_number
from monai_sa2va.engines.random_state import random_state, set_random_state
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from monai_sa2va.engines.trainer import Sa2VATrainer

__all__ = ["ResumableCheckpoint", "WeightsSaver"]

_LOGGER = logging.getLogger(__name__)
_TRAINER = ("iteration", "optimizer_steps", "best_metric", "best_metric_epoch")
_VALIDATOR = ("epoch", "best_metric", "best_metric_epoch")


_HALVES: dict[str | None, torch.dtype | None] = {None: None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class WeightsSaver:
    """Write weights whole or not at all: an evaluator's best ones, or a trainer's last ones.

    A tokenizer that isn't made in code is copied beside them, so that the folder can be moved.

    Args:
        save_dir: folder.
        save_dict: what is saved, each by its ``state_dict()``: ``{"model": network, "info": ModelInfo(...)}``.
        filename: of the file, which each better one replaces.
        best: attached to an evaluator: after an epoch whose key metric is the best so far. Otherwise attached to a
            trainer: once, after its last epoch.
        dtype: ``"float16"`` or ``"bfloat16"`` halves the file: floating-point weights are rounded to it, and are
            float32 again in a network that loads them; ``None`` keeps theirs.
        resume: the run goes on from a checkpoint in ``save_dir``, where there is one, and so replaces weights of its
            own. Otherwise a warning names a file that is there already.

    Raises:
        ConfigError: when ``dtype`` is none of these.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        save_dict: Mapping[str, Any],
        filename: str = "model.pt",
        best: bool = True,
        dtype: str | None = None,
        resume: bool = False,
    ) -> None:
        if dtype not in _HALVES:
            allowed = ", ".join(name for name in _HALVES if name)
            raise ConfigError(f"dtype of the saved weights is {dtype!r}; give {allowed}, or null to keep theirs")
        self.path, self.save_dict, self.best = Path(save_dir) / filename, dict(save_dict), best
        self.dtype, self.resume = _HALVES[dtype], resume

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator or a trainer, and say so where a file of another run will be replaced."""
        # here, as an evaluator starts only when an epoch of the training is over
        if self.path.exists() and not (self.resume and checkpoint_files(self.path.parent)):
            _LOGGER.warning(
                "%s is there already, and this run replaces it after its %s: to keep it, stop now and pass another "
                "--ckpt_dir",
                self.path,
                "first validation" if self.best else "last epoch",
            )
        engine.add_event_handler(Events.EPOCH_COMPLETED if self.best else Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save, where it is time.

        Raises:
            OutputError: when the file can't be written.
        """
        state: Any = engine.state
        if not self.best or state.best_metric_epoch == state.epoch:
            content = _on_host(_states(self.save_dict), self.dtype)
            if INFO_KEY in content:
                content[INFO_KEY] = keep_companions(content[INFO_KEY], self.path.parent)
            save_checkpoint(content, self.path)


class ResumableCheckpoint:
    """Save all that a run consists of, and go on from there exactly, also in mid-epoch.

    Attach it to the trainer after validation and before whatever reports. It saves after optimizer steps, where no
    gradients are half added up: ``resume_<optimizer steps>.pt`` in ``save_dir``, each written whole or not at all. A
    step that ends an epoch is saved after the validation. On a CPU in float32 the weights of a resumed run are those of
    an uninterrupted one, bit for bit.

    In a run of several processes each of them needs it: all give their random state, the first writes, and all go on
    from what it wrote.

    Args:
        save_dir: folder of the checkpoints.
        save_dict: what is saved, each by its ``state_dict()``: network, optimizer, schedule, in this order. What
            refuses another configuration, as :class:`~monai_sa2va.checkpoints.info.ModelInfo`, comes first.
        validator: the evaluator whose best metric is carried on, if there is one.
        interval: optimizer steps from one checkpoint to the next, at least 1; the end of a run is always saved.
        keep: how many are kept, at least 1.
        resume: go on from the checkpoint of most steps, of the run that was begun last, that can be read; without any,
            training starts anew. Otherwise a warning says that there are some; the first one of the new run replaces
            them, once it is whole.

    Raises:
        ConfigError: when ``interval`` or ``keep`` can't be used.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        save_dict: Mapping[str, Any],
        validator: Any = None,
        interval: int = 200,
        keep: int = 2,
        resume: bool = False,
    ) -> None:
        for name, number in (("interval", interval), ("keep", keep)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ConfigError(
                    f"{name} of the resumable checkpoints is {number!r}; give a whole number of at least 1"
                )
        self.save_dir, self.save_dict, self.validator = Path(save_dir), dict(save_dict), validator
        self.interval, self.keep, self.resume = interval, keep, resume
        self._own: list[Path] = []
        self._run = self._saved = 0
        self._whole = False

    def attach(self, engine: Sa2VATrainer) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def started(self, engine: Sa2VATrainer) -> None:
        """Go on from a checkpoint, where asked to.

        Raises:
            ConfigError: when the training loader has no seed.
            CheckpointError: when no checkpoint can be read, or it is of another configuration.
        """
        if _settings(engine)["seed"] is None:
            raise ConfigError("a run can be resumed only where its training loader has a seed; give it one")
        if is_main():
            # what a killed run was writing
            for half in self.save_dir.glob(temporary_path(Path("*.pt")).name):
                half.unlink(missing_ok=True)
        found = in_order(self.save_dir)
        self._own, self._whole = [], False
        # the newest of its folder, even if the clock was set back
        self._run = max(time.time_ns(), found[-1].run + 1 if found else 0)
        if self.resume and found:
            self._resume(engine, found)
        elif self.resume:
            _LOGGER.warning("there is nothing to resume in %s: training starts anew", self.save_dir)
        elif found:
            _LOGGER.warning(
                "%s holds %s of an earlier run, which the first checkpoint of this one replaces: to go on with it, "
                "stop now and pass --resume True; to keep both, pass another --ckpt_dir",
                self.save_dir,
                found[-1].path.name,
            )
        self._saved = engine.state.optimizer_steps
        if len(steps := set(gather_all(self._saved))) > 1:
            raise CheckpointError(
                f"the processes found checkpoints of unequal steps ({', '.join(map(str, sorted(steps)))}) in "
                f"{self.save_dir.name!r}; let ckpt_dir be a folder that all of them see"
            )

    def iteration_completed(self, engine: Sa2VATrainer) -> None:
        """Save after a step, where it is time."""
        self._whole = bool(engine.state.batch[Keys.WINDOW_END])
        # what ends an epoch is saved after its validation
        if self._whole and engine.state.iteration % engine.state.epoch_length:
            self._save_if_due(engine)

    def epoch_completed(self, engine: Sa2VATrainer) -> None:
        """Save after an epoch, where it is time."""
        self._save_if_due(engine)

    def completed(self, engine: Sa2VATrainer) -> None:
        """Save what the run ends with."""
        if self._whole and engine.state.optimizer_steps > self._saved:
            self._save(engine)

    def _save_if_due(self, engine: Sa2VATrainer) -> None:
        if engine.state.optimizer_steps - self._saved >= self.interval:
            self._save(engine)

    def _save(self, engine: Sa2VATrainer) -> None:
        self._saved = engine.state.optimizer_steps
        # each process draws numbers of its own
        random = gather_all(random_state())
        if not is_main():
            return
        path = self.save_dir / f"resume_{self._saved:08d}.pt"
        content = {
            **_states(self.save_dict),
            "settings": _settings(engine),
            "trainer": _values(engine, _TRAINER),
            "validator": {} if self.validator is None else _values(self.validator, _VALIDATOR),
            "random": random,
            "run": self._run,
        }
        save_checkpoint(content, path)
        self._own = [*(own for own in self._own if own != path), path][-self.keep :]
        for old in checkpoint_files(self.save_dir):
            if old not in self._own:
                old.unlink(missing_ok=True)

    def _resume(self, engine: Sa2VATrainer, found: list[CheckpointFile]) -> None:
        damaged = [file.path.name for file in found if file.run < 0]
        whole = [file for file in found if file.run >= 0]
        while whole:
            file = whole[-1]
            name = file.path.name
            content = read_checkpoint(file.path)
            if content is None:
                damaged.append(whole.pop().path.name)
                continue
            for other in damaged:
                _LOGGER.warning("%s can't be read and is left out for %s", other, name)
            further = max(whole, key=lambda other: other.steps)
            if further.steps > file.steps:
                _LOGGER.warning(
                    "%s of an earlier run is passed over for %s of the newest one, and the next checkpoint removes it: "
                    "to keep it, stop now and move it to another folder",
                    further.path.name,
                    name,
                )
            self._restore(engine, content, name)
            self._run = content.get("run", self._run)
            self._own = [other.path for other in whole if other.run == file.run][-self.keep :]
            return
        raise CheckpointError(
            f"no resume_*.pt in {self.save_dir.name!r} can be read; start anew without resume, or name another ckpt_dir"
        )

    def _restore(self, engine: Sa2VATrainer, content: Mapping[str, Any], name: str) -> None:
        odd = [key for key in (*self.save_dict, "settings", "trainer", "validator", "random") if key not in content]
        if odd:
            raise CheckpointError(f"{name} holds no {odd[0]!r}: it is of another configuration; start anew")
        _check_settings(content["settings"], _settings(engine), name)
        kept = [
            line
            for key, thing in self.save_dict.items()
            if isinstance(thing, Optimizer)
            for line in _kept_options(thing, content[key])
        ]
        for key, thing in self.save_dict.items():
            try:
                thing.load_state_dict(content[key])
            except CheckpointError:
                raise
            except (RuntimeError, ValueError, KeyError) as error:
                raise CheckpointError(
                    f"{key!r} of {name} doesn't fit this configuration; go on with the one it was begun with"
                ) from error
        # now that nothing was refused
        for line in kept:
            _LOGGER.warning(line)
        _set_values(engine, content["trainer"])
        # whole epochs so far: the engine counts the one it goes on with
        engine.state.epoch = engine.state.iteration // engine.state.epoch_length
        if self.validator is not None:
            _set_values(self.validator, content["validator"])
        set_random_state(content["random"][process_number()])
        done, planned = engine.state.epoch, engine.state.max_epochs
        left = "" if done < planned else f": all {planned} epochs are done, pass a larger max_epochs for more"
        _LOGGER.info("going on from %s, after %d whole epochs%s", name, done, left)


def _on_host(content: Any, dtype: torch.dtype | None) -> Any:
    """The same with its tensors on the CPU, so that any machine can read them, floating-point ones in ``dtype``."""
    if isinstance(content, Mapping):
        return {key: _on_host(value, dtype) for key, value in content.items()}
    if not isinstance(content, torch.Tensor):
        return content
    return content.to("cpu", dtype if content.is_floating_point() else None)


def _states(things: Mapping[str, Any]) -> dict[str, Any]:
    return {key: thing.state_dict() for key, thing in things.items()}


def _values(engine: Any, names: tuple[str, ...]) -> dict[str, float]:
    values = {name: getattr(engine.state, name) for name in names}
    # numpy's numbers couldn't be read back without running code
    return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}


def _set_values(engine: Any, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        setattr(engine.state, name, value)


def _settings(engine: Sa2VATrainer) -> dict[str, Any]:
    """What the order of the samples, and so the run, hangs on."""
    loader: Any = engine.windows.loader
    return {
        # first, as most of the others follow from it
        "processes": engine.processes,
        "seed": getattr(loader, "seed", None),
        "batch_size": getattr(loader, "batch_size", None),
        "accumulation_steps": engine.windows.steps,
        "epoch_length": engine.state.epoch_length,
        "samples": len(loader.dataset) if hasattr(loader, "dataset") else None,
    }


def _check_settings(then: Mapping[str, Any], now: Mapping[str, Any], name: str) -> None:
    odd = [key for key in now if then.get(key) != now[key]]
    if odd:
        raise CheckpointError(
            f"{name} was written with {odd[0]} {then.get(odd[0])}, and it is {now[odd[0]]} now: go on with the same, "
            "or start anew without resume"
        )


def _kept_options(optimizer: Optimizer, state: Mapping[str, Any]) -> list[str]:
    """Say what of the optimizer's options a resumed run doesn't take over; another number of groups can't be loaded."""
    return [
        f"{'learning_rate' if key == 'initial_lr' else key} was {then[key]} and is {now[key]} now: "
        f"the run goes on with {then[key]}"
        for now, then in zip(optimizer.param_groups, state["param_groups"], strict=False)
        for key in sorted(now.keys() & then.keys() - {"params", "lr"})
        if now[key] != then[key]
    ]
