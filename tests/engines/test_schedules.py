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
import warnings
from typing import Any

import pytest
import torch

from monai_sa2va.engines.schedules import optimizer_steps_per_epoch, warmup_cosine
from monai_sa2va.errors import CheckpointError, ConfigError


def _optimizer(lr: float = 2e-5) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def _rates(optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_recipe_warms_up_from_1e5_and_ends_at_zero() -> None:
    optimizer = _optimizer()
    rates = _rates(optimizer, warmup_cosine(optimizer), 12193)
    assert rates[0] == pytest.approx(1e-5)
    assert rates[183] == pytest.approx(1.5e-5)
    assert rates[366] == pytest.approx(2e-5)
    # half-way through the cosine
    assert rates[366 + (12192 - 366) // 2] == pytest.approx(1e-5)
    assert rates[12192] == pytest.approx(0, abs=1e-12)
    assert max(rates) == pytest.approx(2e-5)


def test_without_warmup_the_first_step_has_the_highest_rate() -> None:
    optimizer = _optimizer(1e-3)
    rates = _rates(optimizer, warmup_cosine(optimizer, warmup_steps=0, total_steps=4), 5)
    assert rates == pytest.approx([1e-3, 8.535533905932738e-4, 5e-4, 1.4644660940672624e-4, 0.0], abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_rate_stays_at_zero_after_the_end(warmup: int) -> None:
    optimizer = _optimizer()
    schedule = warmup_cosine(optimizer, warmup_steps=warmup, total_steps=100)
    rates = _rates(optimizer, schedule, 400)
    assert min(rates[1:100]) > 0
    assert max(rates[100:]) == pytest.approx(0, abs=1e-12)
    # and in a run that is resumed there
    again = _optimizer()
    resumed = warmup_cosine(again, warmup_steps=warmup, total_steps=100)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert max(_rates(again, resumed, 100)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"warmup_steps": 5, "total_steps": 5}, "warmup_steps"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"start_lr": 0.0}, "warmup_start_lr"),
        ({"start_lr": 1e-3}, "warmup_start_lr"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        warmup_cosine(_optimizer(), **arguments)  # type: ignore[arg-type]


def test_a_run_of_another_length_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        warmup_cosine(_optimizer(), planned_steps=12192)
        assert not caplog.records
        warmup_cosine(_optimizer(), planned_steps=6)
    assert "this run makes 6:" in caplog.text
    assert "--total_steps" in caplog.text


def test_an_unfinished_last_epoch_is_no_other_length(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        # 305 epochs of 40 steps: the default run on phantoms
        warmup_cosine(_optimizer(), planned_steps=12200, steps_per_epoch=40)
        assert not caplog.records
        warmup_cosine(_optimizer(), planned_steps=12240, steps_per_epoch=40)
    assert "this run makes 12240, the last ones at a rate of 0" in caplog.text


def _loaded(
    done: int, then: dict[str, Any], now: dict[str, Any]
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """A schedule that goes on after some steps of another one."""
    first, second = _optimizer(then.pop("lr", 1e-3)), _optimizer(now.pop("lr", 1e-3))
    begun, resumed = warmup_cosine(first, **then), warmup_cosine(second, **now)
    _rates(first, begun, done)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(begun.state_dict())
    return second, resumed


@pytest.mark.parametrize("warmup", [0, 1, 2])
@pytest.mark.parametrize("done", [1, 2, 4])
def test_a_longer_run_goes_on_at_the_rates_of_its_own_schedule(
    warmup: int, done: int, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = _optimizer(1e-3)
    expected = _rates(fresh, warmup_cosine(fresh, warmup, 8), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # after 4 the old one has ended
        resumed = _loaded(done, {"warmup_steps": warmup, "total_steps": 4}, {"warmup_steps": warmup, "total_steps": 8})
        assert _rates(*resumed, 10 - done) == expected[done:]
    assert f"was begun with total_steps 4, and it is 8 now: from step {done} on the rate is that of" in caplog.text


def test_the_warning_says_what_the_rate_becomes(caplog: pytest.LogCaptureFixture) -> None:
    _loaded(4, {"warmup_steps": 0, "total_steps": 4}, {"warmup_steps": 0, "total_steps": 8})
    assert "the new schedule, 0.0005 instead of 0, so the run doesn't end as one that had it" in caplog.text


def test_the_same_schedule_goes_on_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    fresh, options = _optimizer(1e-3), {"warmup_steps": 2, "total_steps": 8}
    expected = _rates(fresh, warmup_cosine(fresh, **options), 10)
    assert _rates(*_loaded(3, {**options}, {**options}), 7) == expected[3:]
    assert not caplog.records


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            {"lr": 2e-3},
            "the run was begun with learning_rate 0.001, and it is 0.002 now: go on with the same, or begin",
        ),
        ({"warmup_steps": 3}, "the run was begun with warmup_steps 2, and it is 3 now: go on with the same, or begin"),
        ({"warmup_steps": 0}, "the run was begun with warmup_steps 2, and it is 0 now: go on with the same, or begin"),
        ({"start_lr": 5e-5}, "the run was begun with warmup_start_lr 1e-05, and it is 5e-05 now: go on with the same"),
        (
            {"total_steps": 5},
            "the run was begun with total_steps 8, of which 5 are done, and it is 5 now: go on with the same, or with "
            "more than 5",
        ),
    ],
)
def test_another_schedule_is_refused_by_the_names_of_its_keys(now: dict[str, Any], message: str) -> None:
    options = {"warmup_steps": 2, "total_steps": 8}
    with pytest.raises(CheckpointError) as error:
        _loaded(5, {**options}, {**options, **now})
    assert str(error.value).startswith(f"[CHECKPOINT] {message}")


@pytest.mark.parametrize(("micro", "accumulation", "steps"), [(5, 2, 3), (4, 2, 2), (1, 4, 1), (7, 1, 7)])
def test_the_short_last_window_is_a_step(micro: int, accumulation: int, steps: int) -> None:
    assert optimizer_steps_per_epoch(micro, accumulation) == steps
