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
from monai_sa2va.networks.projector import TextHiddenFCs


def test_official_shape_and_names() -> None:
    projector = TextHiddenFCs()
    assert {key: tuple(value.shape) for key, value in projector.state_dict().items()} == {
        "0.weight": (3584, 3584),
        "0.bias": (3584,),
        "2.weight": (256, 3584),
        "2.bias": (256,),
    }


def test_compact_shape() -> None:
    projector = TextHiddenFCs(in_dim=48, out_dim=32, hidden_dim=16)
    assert projector[0].weight.shape == (16, 48)
    assert projector(torch.zeros(5, 48)).shape == (5, 32)
    assert projector(torch.zeros(0, 48)).shape == (0, 32)


def test_is_linear_relu_linear() -> None:
    projector = TextHiddenFCs(in_dim=2, out_dim=1, hidden_dim=2)
    projector.load_state_dict(
        {
            "0.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
            "0.bias": torch.tensor([0.5, 0.0]),
            "2.weight": torch.tensor([[2.0, 3.0]]),
            "2.bias": torch.tensor([0.25]),
        }
    )
    # 2 * relu(1 + 0.5) + 3 * relu(-4) + 0.25
    assert projector(torch.tensor([[1.0, -4.0]])).item() == 3.25


def test_a_normalised_state_becomes_a_token_of_unit_variance() -> None:
    torch.manual_seed(0)
    tokens = TextHiddenFCs(in_dim=192, out_dim=256)(torch.randn(400, 192))
    assert tokens.std().item() == pytest.approx(1.0, abs=0.15)


def test_dropout_only_in_training() -> None:
    projector = TextHiddenFCs(in_dim=8, out_dim=256, dropout=0.5)
    states = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    assert (projector(states) == 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert not (projector.eval()(states) == 0).any()


def test_other_width_is_refused() -> None:
    with pytest.raises(DataError, match="states has width 7; this projector takes 8"):
        TextHiddenFCs(in_dim=8)(torch.zeros(1, 7))
