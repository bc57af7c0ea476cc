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

"""How a worker makes its segmenter: what the command line says of volumes reaches it."""

from __future__ import annotations

from typing import Any

import pytest

from monai_sa2va.batch.ray_workers import Recipe
from monai_sa2va.errors import ConfigError
from monai_sa2va.predictor import Segmenter


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    told: dict[str, Any] = {}
    monkeypatch.setattr(Segmenter, "from_bundle", lambda *_, **arguments: told.update(arguments))
    return told


def test_by_default_nothing_is_chosen(given: dict[str, Any]) -> None:
    Recipe().make()
    assert (given["volume_inferer"].volume, given["planes"], given["inferer"]) == ("auto", "one", None)


def test_ways_through_a_volume_are_handed_on(given: dict[str, Any]) -> None:
    Recipe(device="cpu", volume="propagate", planes="mean", roi_size=256).make()
    assert (given["volume_inferer"].volume, given["planes"]) == ("propagate", "mean")
    assert given["inferer"].windows.roi_size == (256, 256)
    assert given["inferer"].amp is False


def test_a_way_that_is_none() -> None:
    with pytest.raises(ConfigError, match="volume is 'all'"):
        Recipe(device="cpu", volume="all").make()
