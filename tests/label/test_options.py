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

from typing import Any

import pytest

from monai_sa2va.errors import PromptError
from monai_sa2va.label.options import (
    CLICK_OPTIONS,
    TEXT_OPTIONS,
    RequestError,
    choice,
    flag,
    merge,
    reach_of,
    sentence,
    share,
    whole_number,
    window_of,
)


@pytest.mark.parametrize("sent", [{}, {"mode": ["volume", "slice"]}, {"mode": "volume"}])
def test_an_unedited_choice_is_its_first_entry(sent: dict[str, Any]) -> None:
    assert choice(merge(TEXT_OPTIONS, sent), "mode", TEXT_OPTIONS) == "volume"


def test_an_edited_choice_is_taken() -> None:
    assert choice(merge(TEXT_OPTIONS, {"mode": "slice"}), "mode", TEXT_OPTIONS) == "slice"


@pytest.mark.parametrize("value", ["whole", "", 3, None, ["slice", "volume"], {}, []])
def test_what_is_no_entry_is_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="choose one of: volume, slice"):
        choice(merge(TEXT_OPTIONS, {"mode": value}), "mode", TEXT_OPTIONS)


def test_the_window_of_training_is_none() -> None:
    assert window_of(merge(TEXT_OPTIONS, {}), TEXT_OPTIONS) is None
    assert window_of({"window": "lung"}, TEXT_OPTIONS) == "lung"


@pytest.mark.parametrize(
    ("sent", "told"), [(True, True), (False, False), ("true", True), ("False", False), ("1", True), (0, False)]
)
def test_flags(sent: Any, told: bool) -> None:
    assert flag({"answer": sent}, "answer") is told


@pytest.mark.parametrize("sent", ["maybe", None, [], 2])
def test_what_is_no_flag_is_refused(sent: Any) -> None:
    with pytest.raises(RequestError, match="give true or false"):
        flag({"answer": sent}, "answer")


@pytest.mark.parametrize(("sent", "told"), [(3, 3), ("3", 3), (3.0, 3), ("-1", -1)])
def test_whole_numbers(sent: Any, told: int) -> None:
    assert whole_number({"slice": sent}, "slice") == told


@pytest.mark.parametrize("sent", [2.5, "x", None, True, [], float("nan"), "inf", 10**400])
def test_what_is_no_whole_number_is_refused(sent: Any) -> None:
    with pytest.raises(RequestError, match="give a whole number"):
        whole_number({"slice": sent}, "slice")


def test_sentences() -> None:
    assert sentence({"text": " Segment the liver. "}, needed=True) == "Segment the liver."
    assert sentence(merge(CLICK_OPTIONS, {}), needed=False) is None
    for odd in ("", 3, "x" * 3000):
        with pytest.raises(PromptError):
            sentence({"text": odd}, needed=True)


@pytest.mark.parametrize(("sent", "told"), [(0.5, 0.5), ("0.25", 0.25), (1, 1.0), (0, 0.0)])
def test_shares(sent: Any, told: float) -> None:
    assert share({"agreement": sent}, "agreement") == told


@pytest.mark.parametrize("sent", [-0.1, 1.1, "x", None, True, [], float("nan"), "inf"])
def test_what_is_no_share_is_refused(sent: Any) -> None:
    with pytest.raises(RequestError, match="from 0 to 1"):
        share({"agreement": sent}, "agreement")


def test_how_far_a_correction_goes() -> None:
    assert reach_of(merge(CLICK_OPTIONS, {}), 24) == 3
    assert reach_of({"reach": -1}, 5) == 1
    assert reach_of({"reach": "3"}, 24) == 3
    assert reach_of({"reach": 0}, 24) == 0
    with pytest.raises(RequestError, match="or -1"):
        reach_of({"reach": -2}, 24)
