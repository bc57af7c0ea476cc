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

from monai_sa2va.errors import DataError
from monai_sa2va.networks.prompts import MASK_PROMPT_LIMIT, GroundingPrompts


def test_nothing() -> None:
    prompts = GroundingPrompts.empty(3)
    assert len(prompts) == 3
    assert prompts.points.shape == (3, 0, 2)
    assert prompts.point_labels.shape == (3, 0)
    assert prompts.language is None
    assert prompts.masks is None
    assert not prompts.has_language.any()
    assert not prompts.has_mask.any()
    assert not prompts.is_ambiguous().any()


def test_a_mixture_is_built_up() -> None:
    prompts = (
        GroundingPrompts.empty(3)
        .with_boxes(torch.tensor([[1.0, 2.0, 8.0, 9.0]] * 3), torch.tensor([True, False, False]))
        .with_points(torch.tensor([[[5.0, 6.0]]] * 3), torch.tensor([[-1], [1], [0]]))
        .with_language(torch.ones(3, 4), torch.tensor([False, False, True]))
        .with_masks(torch.full((3, 4, 4), 50.0), torch.tensor([False, True, False]))
    )
    assert prompts.point_labels.tolist() == [[2, 3, -1], [-1, -1, 1], [-1, -1, 0]]
    assert prompts.points[0].tolist() == [[1.0, 2.0], [8.0, 9.0], [5.0, 6.0]]
    assert prompts.has_language.tolist() == [False, False, True]
    assert prompts.has_mask.tolist() == [False, True, False]
    assert prompts.masks is not None
    assert prompts.masks.shape == (3, 1, 4, 4)
    assert prompts.masks.max() == MASK_PROMPT_LIMIT == 32.0


def test_selected_rows() -> None:
    prompts = GroundingPrompts.of_language(torch.arange(6.0).view(3, 2)).with_points(
        torch.arange(6.0).view(3, 1, 2), torch.tensor([[1], [0], [-1]])
    )
    chosen = prompts.select(torch.tensor([2, 0]))
    assert chosen.language is not None
    assert chosen.language.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert chosen.points.tolist() == [[[4.0, 5.0]], [[0.0, 1.0]]]
    assert chosen.point_labels.tolist() == [[-1], [1]]
    assert chosen.masks is None
    assert len(prompts.select(torch.tensor([True, False, True]))) == 2


def test_one_click_alone_is_ambiguous() -> None:
    one = GroundingPrompts.empty(4).with_points(torch.zeros(4, 1, 2), torch.tensor([[1], [0], [1], [-1]]))
    assert one.is_ambiguous().tolist() == [True, False, True, False]
    two = one.with_points(torch.zeros(4, 1, 2), torch.tensor([[-1], [-1], [1], [-1]]))
    assert two.is_ambiguous().tolist() == [True, False, False, False]
    assert one.with_language(torch.zeros(4, 2)).is_ambiguous().tolist() == [False] * 4
    assert one.with_masks(torch.zeros(4, 2, 2)).is_ambiguous().tolist() == [False] * 4
    boxes = GroundingPrompts.empty(1).with_boxes(torch.zeros(1, 4))
    assert boxes.is_ambiguous().tolist() == [False]


def test_shapes_that_do_not_fit() -> None:
    prompts = GroundingPrompts.empty(2)
    with pytest.raises(DataError, match=r"points \(2, 1, 2\) and labels \(2, 2\) don't fit; give \(2, P, 2\)"):
        prompts.with_points(torch.zeros(2, 1, 2), torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(DataError, match=r"boxes has shape \(2, 2, 2\); expected \(2, 4\)"):
        prompts.with_boxes(torch.zeros(2, 2, 2))
    with pytest.raises(DataError, match=r"masks has shape \(3, 1, 4, 4\); expected \(2, 1, any, any\)"):
        prompts.with_masks(torch.zeros(3, 4, 4))
    with pytest.raises(DataError, match=r"language has shape \(1, 4\); expected \(2, any\)"):
        prompts.with_language(torch.zeros(1, 4))


def test_unknown_labels() -> None:
    with pytest.raises(DataError, match="labels go from 1 to 4; give 1 for the object, 0 for background"):
        GroundingPrompts.empty(1).with_points(torch.zeros(1, 2, 2), torch.tensor([[1, 4]]))
