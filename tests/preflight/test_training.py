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

import pytest
import torch
from monai.bundle import ConfigParser

from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.preflight.data import Scan
from monai_sa2va.preflight.settings import Settings
from monai_sa2va.preflight.training import (
    check_learning_rate,
    check_loss,
    check_parameters,
    check_schedule,
    check_trainer,
)


def lines(check, settings):
    return [f"{status} {text}" for status, text in check(settings)]


def settings_of(**content):
    return Settings(ConfigParser(content))


@pytest.fixture
def network(micro_config):
    return Sa2VA(micro_config, seed=0)


def test_parameters_are_counted(network):
    total = sum(p.numel() for p in network.parameters())
    assert lines(check_parameters, settings_of(network=network)) == [
        f"pass {total:,} of {total:,} parameters are trained"
    ]
    network.text_hidden_fcs.requires_grad_(False)
    first, second = lines(check_parameters, settings_of(network=network))
    assert first.startswith("warn text_hidden_fcs, which turns [SEG] into SAM2's token, is frozen")
    frozen = sum(p.numel() for p in network.text_hidden_fcs.parameters())
    assert second.startswith(f"pass {total - frozen:,} of {total:,} parameters are trained: vision_tower ")
    assert second.endswith("; frozen: text_hidden_fcs")


def test_the_optimizer_has_to_hold_them(network):
    held = list(network.parameters())[1:]
    found = lines(check_parameters, settings_of(network=network, optimizer=torch.optim.SGD(held, lr=1.0)))
    name = next(iter(dict(network.named_parameters())))
    assert found == [f"fail the optimizer lacks 1 trained parameters ({name}, ...); give it all"]
    network.requires_grad_(False)
    assert lines(check_parameters, settings_of(network=network)) == ["fail no parameter is trained; correct freeze"]


@pytest.mark.parametrize(
    ("rate", "status"),
    [
        *((2e-5, "pass"), (1e-3, "pass"), (0.0011, "warn"), (1e-2, "warn")),
        *((value, "fail") for value in (0.011, 0, -1e-4, "1e-4", True, float("nan"))),
    ],
)
def test_learning_rates(rate, status):
    (line,) = lines(check_learning_rate, settings_of(learning_rate=rate))
    assert line.startswith(status)


def test_rates_that_the_optimizer_has_count(network):
    weight, *others = network.parameters()
    groups = [{"params": others}, {"params": [weight], "lr": 5.0}]
    optimizer = torch.optim.SGD(groups, lr=2e-5)
    settings = settings_of(network=network, optimizer=optimizer, learning_rate=2e-5)
    list(check_parameters(settings))
    assert lines(check_learning_rate, settings) == [
        "fail lr of the optimizer's group 1 is 5.0; give a number above 0, usually 1e-6 to 0.001"
    ]
    optimizer.param_groups[1]["lr"] = 1e-4
    assert lines(check_learning_rate, settings) == ["pass 2e-05, 0.0001"]
    # of a schedule's warm-up, what it rises to
    torch.optim.lr_scheduler.LinearLR(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 1e-5
    assert lines(check_learning_rate, settings) == ["pass 2e-05, 0.0001"]


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ((1, 1, 0.5), "pass mask 1, dice 1, lang 0.5"),
        ((0, 2, 0.5), "pass dice 2, lang 0.5"),
        ((0, 0, 0.5), "fail mask_weight and dice_weight are 0, so no mask is learned (lang 0.5); set one of them"),
        ((1, 1, 0), "warn language_weight is 0: answers and their [SEG] are not learned; the recipe has 0.5"),
        ((100, 1, 1), "pass mask 100, dice 1, lang 1"),
        (
            (101, 1, 1),
            "warn weights differ more than 100-fold (mask 101, dice 1, lang 1): the smaller ones hardly count",
        ),
    ],
)
def test_weights_of_the_loss(micro_config, weights, line):
    names = ("mask_weight", "dice_weight", "language_weight")
    network = Sa2VA(micro_config, criterion=Sa2VALoss(**dict(zip(names, weights, strict=True))), seed=0)
    assert lines(check_loss, settings_of(network_def=network)) == [line]


@pytest.mark.parametrize(
    ("epochs", "warmup", "total", "line"),
    [
        (2, 1, 20, "pass 20 optimizer steps in 2 epochs, 1 of them warm-up"),
        # less than an epoch off is rounding
        (2, 1, 29, "pass 20 optimizer steps in 2 epochs, 1 of them warm-up"),
        (2, 1, 30, "warn the run makes 20 of the schedule's 30 steps; lower total_steps to them"),
        (2, 1, 10, "warn the run makes 20 steps, 10 of them at a rate of 0; raise total_steps"),
        (1.5, 1, 15, "fail max_epochs is 1.5; give a whole number"),
        (2, "a", 20, "fail warmup_steps is 'a'; give a whole number"),
        (2, 1, 2.5, "fail total_steps is 2.5; give a whole number"),
        (0, 1, 10, "fail the run makes no step: max_epochs is 0, steps_per_epoch 10"),
        (
            2,
            20,
            40,
            "warn the run's 20 steps end within the warm-up of 20: its rate is never reached; lower warmup_steps",
        ),
    ],
)
def test_schedules(epochs, warmup, total, line):
    settings = settings_of(max_epochs=epochs, steps_per_epoch=10, warmup_steps=warmup, total_steps=total)
    settings.notes["scans"] = {"training": Scan()}
    assert lines(check_schedule, settings) == [line]
    # steps can't be counted of data that can't be read
    settings.notes["scans"]["training"].faults.append("x.png is torn")
    assert lines(check_schedule, settings) == []


def test_steps_of_settings_that_are_out_of_range_are_not_counted():
    settings = settings_of(max_epochs=2, steps_per_epoch="$1 // 0", warmup_steps=1, total_steps=20)
    settings.notes |= {"scans": {"training": Scan()}, "unusable": True}
    assert lines(check_schedule, settings) == []


def test_the_trainer_is_built_where_steps_can_be_counted():
    settings = settings_of(train={"trainer": "$1 // 0"})
    assert lines(check_trainer, settings) == []
    settings.notes["planned_steps"] = 20
    with pytest.raises(RuntimeError):
        lines(check_trainer, settings)
    # a run does it next
    settings.make_data = True
    assert lines(check_trainer, settings) == []


def test_a_trainer_of_several_processes_is_left_to_them():
    settings = settings_of(train={"trainer": "$1 // 0"}, parallel_network="$1 // 0")
    settings.notes["planned_steps"] = 20
    assert lines(check_trainer, settings) == []


def test_configurations_without_these_are_left_alone():
    for check in (check_parameters, check_learning_rate, check_loss, check_schedule, check_trainer):
        assert lines(check, settings_of(window="auto")) == []
