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
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.checkpoints.load import read_weights
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.engines import resume
from monai_sa2va.engines.random_state import random_state
from monai_sa2va.engines.resume import ResumableCheckpoint, WeightsSaver
from monai_sa2va.engines.schedules import warmup_cosine
from monai_sa2va.engines.trainer import Sa2VATrainer
from monai_sa2va.errors import CheckpointError, ConfigError, OutputError
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.sa2va import Sa2VA

Run = Callable[..., Sa2VATrainer]


class KilledError(Exception):
    pass


class Killer:
    """Ends a run after some iterations, as rudely as an exception can."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def attach(self, engine: Sa2VATrainer) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Sa2VATrainer) -> None:
        if engine.state.iteration >= self.iterations:
            raise KilledError


@pytest.fixture
def run(micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]], tmp_path: Path) -> Run:
    """Train on 7 samples for two epochs of 7 micro-batches: windows of 3, 3 and 1, so 3 steps an epoch."""

    def train(folder: str, kill: int | None = None, **settings: Any) -> Sa2VATrainer:
        # points are drawn from torch's global generator
        torch.manual_seed(3)
        network = Sa2VA(micro_config, Sa2VALoss(sample_points=True, num_points=16), seed=0)
        rate = settings.pop("rate", 1e-3)
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
        # a schedule of another kind says nothing of its own
        schedule: torch.optim.lr_scheduler.LRScheduler = (
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 6)
            if settings.pop("linear", False)
            else warmup_cosine(optimizer, 2, settings.pop("total", 6), 1e-4)
        )
        info = ModelInfo(micro_config, window=settings.pop("window", "auto"))
        loader = Sa2VADataLoader(
            micro_samples[:7], 1, shuffle=True, seed=settings.pop("seed", 0), num_workers=settings.pop("workers", 0)
        )
        steps, epochs = settings.pop("steps", 3), settings.pop("epochs", 2)
        save_dict = {"info": info, "model": network, "optimizer": optimizer, "lr_scheduler": schedule}
        handlers: list[Any] = [ResumableCheckpoint(tmp_path / folder, save_dict, **{"interval": 1, **settings})]
        handlers += [] if kill is None else [Killer(kill)]
        trainer = Sa2VATrainer("cpu", epochs, loader, network, optimizer, schedule, steps, train_handlers=handlers)
        if kill is None:
            trainer.run()
        else:
            with pytest.raises(KilledError):
                trainer.run()
        return trainer

    return train


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _same(first: Sa2VATrainer, second: Sa2VATrainer) -> bool:
    one, other = first.network.state_dict(), second.network.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("kill", "interval"), [(2, 1), (8, 1), (12, 2)])
def test_a_resumed_run_ends_as_an_uninterrupted_one(run: Run, tmp_path: Path, kill: int, interval: int) -> None:
    whole = run("whole", interval=interval)
    run("parted", kill=kill, interval=interval)
    resumed = run("parted", resume=True, interval=interval)
    assert _same(whole, resumed)
    assert whole.state.optimizer_steps == resumed.state.optimizer_steps == 6
    assert resumed.state.iteration == 14
    assert resumed.state.epoch == 2
    assert whole.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]
    assert _names(tmp_path / "whole") == _names(tmp_path / "parted")


def test_it_is_the_state_that_makes_them_equal(run: Run) -> None:
    whole = run("whole")
    assert not _same(whole, run("another", seed=1))
    assert not _same(whole, run("shorter", epochs=1))


def test_workers_make_no_difference(run: Run) -> None:
    run("parted", kill=5, workers=1)
    assert _same(run("whole"), run("parted", resume=True, workers=1))


def test_the_two_newest_are_kept_and_can_be_segmented_with(run: Run, tmp_path: Path) -> None:
    trainer = run("run")
    assert _names(tmp_path / "run") == ["resume_00000005.pt", "resume_00000006.pt"]
    weights = read_weights(tmp_path / "run" / "resume_00000006.pt")
    assert all(torch.equal(value, weights[name]) for name, value in trainer.network.state_dict().items())


def test_gradients_that_are_half_added_up_are_never_saved(run: Run, tmp_path: Path) -> None:
    run("run", kill=5)  # in the midst of the second window
    content = torch.load(tmp_path / "run" / "resume_00000001.pt", weights_only=True)
    assert _names(tmp_path / "run") == ["resume_00000001.pt"]
    assert (content["trainer"]["iteration"], content["trainer"]["optimizer_steps"]) == (3, 1)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-1000], id="truncated"),
        # as a disk leaves a part that it never wrote
        pytest.param(lambda content: content[:20_000] + bytes(4096) + content[24_096:], id="with a hole"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
def test_a_damaged_newest_one_gives_way_to_the_one_before(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    whole = run("whole")
    run("run", kill=12)
    newest = tmp_path / "run" / "resume_00000004.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    (tmp_path / "run" / ".resume_00000005.pt.tmp").write_bytes(b"half")
    with caplog.at_level(logging.INFO):
        assert _same(whole, run("run", resume=True))
    assert "resume_00000004.pt can't be read and is left out for resume_00000003.pt" in caplog.text
    assert "going on from resume_00000003.pt, after 1 whole epochs" in caplog.text
    assert _names(tmp_path / "run") == ["resume_00000005.pt", "resume_00000006.pt"]


def test_none_that_can_be_read(run: Run, tmp_path: Path) -> None:
    run("run", kill=7)
    for path in (tmp_path / "run").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no resume_\*.pt in 'run' can be read; start anew without resume"):
        run("run", resume=True)


def test_nothing_to_resume(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run("run", resume=True, epochs=1)
    assert "there is nothing to resume in" in caplog.text


def test_a_new_run_warns_and_replaces_the_earlier_one(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("run")
    run("run", kill=2)
    assert "holds resume_00000006.pt of an earlier run, which the first checkpoint of this one replaces" in caplog.text
    assert _names(tmp_path / "run") == ["resume_00000005.pt", "resume_00000006.pt"]
    run("run", kill=3)
    # not the earlier run's, which are newer by their steps
    run("run", kill=4)
    assert _names(tmp_path / "run") == ["resume_00000001.pt"]


def test_a_new_run_killed_before_it_removed_the_earlier_one_goes_on_with_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run("run", seed=1)

    def kill(path: Path, **_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", kill)
        run("run", kill=14)
    # the new one is on the disk before any of the earlier run goes
    assert _names(tmp_path / "run") == ["resume_00000001.pt", "resume_00000005.pt", "resume_00000006.pt"]
    with caplog.at_level(logging.INFO):
        assert _same(run("whole"), run("run", resume=True))
    assert "going on from resume_00000001.pt, after 0 whole epochs" in caplog.text
    assert _names(tmp_path / "run") == ["resume_00000005.pt", "resume_00000006.pt"]


def _age(path: Path, order: int) -> None:
    """Give a file the time that a copy may leave it with."""
    os.utime(path, ns=(order, order))


def test_the_times_of_files_decide_nothing(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("run", kill=8)
    # copied in the wrong order
    _age(tmp_path / "run" / "resume_00000003.pt", 1)
    _age(tmp_path / "run" / "resume_00000002.pt", 2)
    with caplog.at_level(logging.INFO):
        run("run", kill=10, resume=True)
    assert "going on from resume_00000003.pt" in caplog.text
    assert "passed over" not in caplog.text


def test_of_two_runs_the_one_begun_last_goes_on_and_the_other_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run("run")
    (tmp_path / "kept").mkdir()
    for path in (tmp_path / "run").iterdir():
        shutil.copy(path, tmp_path / "kept")
    # on a clock that was set back
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    run("run", kill=7)
    assert _names(tmp_path / "run") == ["resume_00000001.pt", "resume_00000002.pt"]
    for path in (tmp_path / "kept").iterdir():
        shutil.copy(path, tmp_path / "run")
    with caplog.at_level(logging.INFO):
        run("run", kill=8, resume=True)
    assert "resume_00000006.pt of an earlier run is passed over for resume_00000002.pt of the newest one" in caplog.text
    assert "going on from resume_00000002.pt" in caplog.text
    # the earlier run's, and none of this one's, are removed
    assert _names(tmp_path / "run") == ["resume_00000002.pt", "resume_00000003.pt"]


def test_a_checkpoint_without_its_run_is_older_than_any(run: Run, tmp_path: Path) -> None:
    run("run", kill=8)
    path = tmp_path / "run" / "resume_00000003.pt"
    content = torch.load(path, weights_only=True)
    began = content.pop("run")
    torch.save(content, path)
    run("run", kill=8, resume=True)
    assert torch.load(path, weights_only=True)["run"] == began


def test_what_a_killed_run_was_writing_is_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".model.pt.tmp", ".resume_00000001.pt.tmp", ".other.tmp"):
        (tmp_path / "run" / name).write_bytes(b"half")
    run("run", kill=1)
    assert _names(tmp_path / "run") == [".other.tmp"]


def test_a_disk_that_is_full_ends_the_run_and_keeps_what_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("run", kill=7)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        with pytest.raises(
            OutputError,
            match=r"^\[OUTPUT\] the checkpoint 'resume_00000003.pt' can't be written: No space left on device;",
        ):
            run("run", resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert _same(run("whole"), run("run", resume=True))


def test_a_whole_run_is_left_as_it_is(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = run("run")
    before = (tmp_path / "run" / "resume_00000006.pt").read_bytes()
    with caplog.at_level(logging.INFO):
        assert _same(whole, run("run", resume=True))
    assert "all 2 epochs are done" in caplog.text
    assert (tmp_path / "run" / "resume_00000006.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, r"resume_00000002.pt was written with seed 0, and it is 1 now"),
        ({"steps": 2}, r"was written with accumulation_steps 3, and it is 2 now"),
        ({"window": "dtype"}, r"trained with another window"),
    ],
)
def test_another_configuration_is_refused(run: Run, other: dict[str, Any], message: str) -> None:
    run("run", kill=7)
    with pytest.raises(CheckpointError, match=message):
        run("run", resume=True, **other)


def test_another_number_of_processes_is_refused(run: Run, tmp_path: Path) -> None:
    run("run", kill=4)
    path = tmp_path / "run" / "resume_00000001.pt"
    content = torch.load(path, weights_only=True)
    assert content["settings"] == {
        "processes": 1,
        "seed": 0,
        "batch_size": 1,
        "accumulation_steps": 3,
        "epoch_length": 7,
        "samples": 7,
    }
    # two share an epoch, so that other settings differ, too
    content["settings"] |= {"processes": 2, "epoch_length": 4}
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        run("run", resume=True)
    assert str(error.value) == (
        "[CHECKPOINT] resume_00000001.pt was written with processes 2, and it is 1 now: go on with the same, "
        "or start anew without resume"
    )


def test_each_process_gets_its_own_random_state_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(own: Any) -> list[Any]:
        if not isinstance(own, dict):
            return [own, own]
        torch.manual_seed(7)
        return [own, random_state()]

    monkeypatch.setattr(resume, "gather_all", gather)
    run("run", epochs=1)
    monkeypatch.setattr(resume, "process_number", lambda: 1)
    run("run", epochs=1, resume=True)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


def test_another_learning_rate_is_not_taken_over_quietly(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    whole = run("whole", linear=True)
    run("run", kill=7, linear=True)
    assert _same(whole, run("run", resume=True, rate=2e-3, linear=True))
    assert "learning_rate was 0.001 and is 0.002 now: the run goes on with 0.001" in caplog.text
    assert "initial_lr" not in caplog.text


def test_another_learning_rate_of_the_own_schedule_is_refused(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run("run", kill=7)
    with pytest.raises(CheckpointError, match=r"begun with learning_rate 0.001, and it is 0.002 now: go on with"):
        run("run", resume=True, rate=2e-3)
    # one line, not two that contradict each other
    assert "goes on with" not in caplog.text


def test_more_epochs_of_a_longer_schedule_change_the_weights(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    ended = run("run")
    longer = run("run", resume=True, epochs=3, total=9)
    assert "begun with total_steps 6, and it is 9 now: from step 6 on the rate is that of the new" in caplog.text
    assert longer.state.optimizer_steps == 9
    # the rate of the last step, by the cosine of 7 steps after the warm-up of 2
    assert longer.state.lr == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * 6 / 7)))
    assert not _same(ended, longer)


def test_a_loader_without_a_seed(run: Run) -> None:
    with pytest.raises(ConfigError, match="can be resumed only where its training loader has a seed"):
        run("run", seed=None)


@pytest.mark.parametrize("name", ["interval", "keep"])
@pytest.mark.parametrize("number", [0, 1.5, True])
def test_bad_numbers(tmp_path: Path, name: str, number: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name} of the resumable checkpoints is .*; give a whole number"):
        ResumableCheckpoint(tmp_path, {}, **{name: number})


def test_the_best_metric_is_carried_on(run: Run, tmp_path: Path) -> None:
    validator = SimpleNamespace(state=SimpleNamespace(epoch=1, best_metric=torch.tensor(0.5), best_metric_epoch=1))
    run("run", kill=8, validator=validator)
    fresh = SimpleNamespace(state=SimpleNamespace(epoch=0, best_metric=-1, best_metric_epoch=-1))
    run("run", resume=True, validator=fresh)
    assert vars(fresh.state) == {"epoch": 1, "best_metric": 0.5, "best_metric_epoch": 1}


@pytest.mark.parametrize(("best", "epoch", "saved"), [(True, 2, True), (True, 3, False), (False, 3, True)])
def test_weights_are_saved_where_they_are_the_best_or_the_last(
    tmp_path: Path, best: bool, epoch: int, saved: bool
) -> None:
    network = torch.nn.Linear(1, 1)
    engine: Any = SimpleNamespace(state=SimpleNamespace(epoch=epoch, best_metric_epoch=2))
    WeightsSaver(tmp_path, {"model": network}, best=best)(engine)
    assert (tmp_path / "model.pt").is_file() is saved
    if saved:
        assert torch.equal(read_weights(tmp_path / "model.pt")["weight"], network.weight)


@pytest.mark.parametrize(("best", "when"), [(True, "first validation"), (False, "last epoch")])
def test_weights_of_another_run_are_not_replaced_without_a_word(
    tmp_path: Path, best: bool, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    def attach(resume: bool) -> list[str]:
        caplog.clear()
        WeightsSaver(tmp_path, {}, best=best, resume=resume).attach(Engine(lambda *_: None))
        return caplog.messages

    assert attach(resume=False) == []
    (tmp_path / "model.pt").write_bytes(b"weights")
    told = [
        f"{tmp_path / 'model.pt'} is there already, and this run replaces it after its {when}: to keep it, stop now "
        "and pass another --ckpt_dir"
    ]
    assert attach(resume=False) == told
    # there is nothing to resume: the run is a new one
    assert attach(resume=True) == told
    (tmp_path / "resume_00000001.pt").write_bytes(b"")
    assert attach(resume=True) == []
    assert attach(resume=False) == told
