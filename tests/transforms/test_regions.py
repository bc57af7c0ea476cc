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

"""Regions as image tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.transforms.regions import RegionTokens


def test_each_token_takes_the_pixel_that_begins_it() -> None:
    masks = np.zeros((2, 4, 8))
    # of 2 x 2 tokens those of rows 0 and 2 and of columns 0 and 4 are looked at
    masks[0, 0, 4] = 0.5
    masks[1, 2:, :] = 1
    assert RegionTokens(2)(masks, (4, 8)).tolist() == [[[False, True], [False, False]], [[False, False], [True, True]]]


def test_a_region_between_the_tokens_is_told() -> None:
    masks = np.zeros((1, 4, 8))
    masks[0, 1, 1] = 1
    with pytest.warns(UserWarning, match="region 1 of mask_prompts falls between the 2 x 2 image tokens"):
        assert not RegionTokens(2)(masks, (4, 8)).any()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((4, 8)), r"shape \(4, 8\); give \(n, 4, 8\)"),
        (np.ones((1, 8, 4)), r"shape \(1, 8, 4\)"),
        (np.ones((0, 4, 8)), r"shape \(0, 4, 8\)"),
        (np.zeros((1, 4, 8)), "region 1 of mask_prompts is empty"),
        ([["a"]], "can't be read as numbers"),
        (np.full((1, 4, 8), np.nan), "holds values that are no numbers"),
    ],
)
def test_refused(masks: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        RegionTokens(2)(masks, (4, 8))


def test_no_side() -> None:
    with pytest.raises(ConfigError, match="side is 0"):
        RegionTokens(0)
