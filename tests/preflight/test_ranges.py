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
from monai.bundle import ConfigParser

from monai_sa2va.preflight.ranges import RANGES, check_ranges
from monai_sa2va.preflight.settings import Settings

_SWITCH = "true or false, behind the command True or False"
_OR_NONE = "or null for none, which is '$None' behind the command"


def lines(**content):
    return [f"{status} {text}" for status, text in check_ranges(Settings(ConfigParser(content)))]


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        *((key, 0, "a whole number of at least 1") for key in ("batch_size", "accumulation_steps", "val_interval")),
        *((key, 0, "a whole number of at least 1") for key in ("save_interval", "log_interval")),
        *(("batch_size", value, "a whole number of at least 1") for value in (2.0, True, "4", None)),
        *(("patience", value, f"a whole number of at least 1, {_OR_NONE}") for value in (0, "ten")),
        *(("num_workers", value, "a whole number of at least 0") for value in (-2, 1.5)),
        *(("cache_rate", value, "a number of 0 to 1") for value in (7, -0.1, True, float("nan"))),
        *(("clip_norm", value, f"a number above 0, {_OR_NONE}") for value in (-1, 0, "1", "null")),
        *(("weight_decay", value, "a number of at least 0") for value in (-0.1, float("inf"))),
        *(("seed", value, "a whole number of 0 to 4294967295") for value in (-1, 1.5, "abc", True, 2**32, None)),
        *((key, value, _SWITCH) for key in ("amp", "resume") for value in ("maybe", 1, None)),
        *((key, value, _SWITCH) for key in ("overwrite", "include_patient") for value in ("false", 0)),
        *((key, value, _SWITCH) for key in ("include_absent", "score_absent") for value in ("no", None)),
    ],
)
def test_what_is_out_of_range_is_named(key, value, advice):
    assert lines(**{key: value}) == [f"fail {key} is {value!r}; give {advice}"]


def test_what_is_in_range_passes():
    least = {"batch_size": 1, "accumulation_steps": 1, "val_interval": 1, "save_interval": 1, "log_interval": 1}
    least |= {"patience": 1, "num_workers": 0, "cache_rate": 0, "clip_norm": 0.1, "weight_decay": 0, "amp": False}
    least |= {"seed": 0, "overwrite": False, "include_patient": True, "include_absent": True, "score_absent": False}
    assert lines(**least, resume=True) == ["pass 17 are in their ranges"]
    assert len(RANGES) == 17
    assert lines(seed=2**32 - 1) == ["pass 1 are in their ranges"]
    assert lines(patience=None, clip_norm=None, cache_rate=1.0) == ["pass 3 are in their ranges"]
    assert lines(window="auto") == []


def test_each_fault_is_told_and_values_are_computed():
    assert lines(batch_size=0, log_interval="$1 - 1", amp=True) == [
        "fail batch_size is 0; give a whole number of at least 1",
        "fail log_interval is 0; give a whole number of at least 1",
    ]


def test_what_was_asked_for_counts_where_loaders_are_idle():
    settings = Settings(ConfigParser({"num_workers": 0}), notes={"num_workers": -2})
    assert list(check_ranges(settings)) == [("fail", "num_workers is -2; give a whole number of at least 0")]
    assert settings.notes["unusable"]
