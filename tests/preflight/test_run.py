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
import random

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_sa2va.errors import ConfigError, PreflightError
from monai_sa2va.preflight import run
from monai_sa2va.preflight.report import Status
from monai_sa2va.preflight.run import CHECKS, before_run, check_settings
from monai_sa2va.preflight.settings import Settings


def fine(settings):
    yield Status.PASS, "all of it"


def doubtful(settings):
    yield Status.WARN, "a half of it"


def broken(settings):
    yield Status.FAIL, "none of it; mend it"


def rolls(settings):
    yield Status.PASS, f"{torch.rand(1)} {np.random.rand()} {random.random()}"


@pytest.fixture
def begin(monkeypatch):
    """Run checks of given names from a configuration's ``initialize``."""

    def begin(enabled=True, **checks):
        monkeypatch.setitem(CHECKS, "train", checks)
        parser = ConfigParser(
            {"initialize": ["$@before('train', @preflight)"], "preflight": enabled, "before": before_run}
        )
        parser.get_parsed_content("initialize#0")

    return begin


def test_each_kind_has_its_checks():
    assert {kind: len(checks) for kind, checks in CHECKS.items()} == {"train": 14, "inference": 9, "evaluate": 12}
    with pytest.raises(ConfigError, match="kind is 'dream'; allowed: train, inference, evaluate"):
        check_settings("dream", Settings(ConfigParser({})))


def test_what_passed_is_not_logged_and_warnings_are(begin, caplog):
    with caplog.at_level(logging.INFO):
        begin(one=fine, two=doubtful)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "two: a half of it")]


def test_a_failed_check_ends_the_run(begin, caplog):
    with pytest.raises(RuntimeError) as caught:
        begin(one=fine, two=broken)
    error = caught.value.__cause__
    assert isinstance(error, PreflightError)
    assert str(error) == (
        "[PREFLIGHT] a check before the run failed, two: none of it; mend it (--preflight False runs without checks)"
    )
    with pytest.raises(RuntimeError) as caught:
        begin(two=broken, three=broken, four=broken)
    assert "two: none of it; mend it; and 2 more, see the log (" in str(caught.value.__cause__)
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}: none of it; mend it" for name in ("two", "two", "three", "four")
    ]


def test_checks_can_be_left_out(begin):
    begin(enabled=False, two=broken)


def test_one_of_several_processes_checks(begin, monkeypatch):
    monkeypatch.setattr(run, "is_main", lambda: False)
    begin(two=broken)
    monkeypatch.setattr(run, "is_main", lambda: True)
    with pytest.raises(RuntimeError):
        begin(two=broken)


def test_random_numbers_go_on_as_if_nothing_had_run(monkeypatch):
    monkeypatch.setitem(run.CHECKS, "train", {"one": rolls})
    rolled = []
    for checked in (False, True):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        if checked:
            check_settings("train", Settings(ConfigParser({})))
        rolled.append((float(torch.rand(1)), np.random.rand(), random.random()))
    assert rolled[0] == rolled[1]
