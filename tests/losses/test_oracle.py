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

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from monai_sa2va.losses.point_sampling import point_values
from monai_sa2va.losses.sa2va_loss import Sa2VALoss

MASK_WEIGHT, DICE_WEIGHT = 2.0, 0.5  # the reference's recipe; its numbers are weighted


@pytest.fixture(scope="module")
def numbers(oracle_dir: Path) -> dict[str, Tensor]:
    return load_file(oracle_dir / "losses" / "losses.safetensors")


def test_values_at_points(numbers: dict[str, Tensor]) -> None:
    assert torch.allclose(point_values(numbers["pred"], numbers["points"]), numbers["point_pred"], atol=1e-4)
    assert torch.allclose(point_values(numbers["gt"], numbers["points"]), numbers["point_gt"], atol=1e-4)


def test_losses_on_points(numbers: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    # The reference's random points are recorded, so only the drawing is replaced.
    monkeypatch.setattr("monai_sa2va.losses.sa2va_loss.sample_points", lambda *_: numbers["points"])
    losses = Sa2VALoss(MASK_WEIGHT, DICE_WEIGHT, sample_points=True, num_points=1024)(numbers["pred"], numbers["gt"])
    assert MASK_WEIGHT * losses["loss_mask"].item() == pytest.approx(numbers["loss_mask"].item(), abs=1e-4)
    assert DICE_WEIGHT * losses["loss_dice"].item() == pytest.approx(numbers["loss_dice"].item(), abs=1e-4)
    expected = numbers["loss_mask"].item() + numbers["loss_dice"].item()
    assert losses["loss"].item() == pytest.approx(expected, abs=2e-4)


def test_losses_on_whole_masks(numbers: dict[str, Tensor]) -> None:
    losses = Sa2VALoss(MASK_WEIGHT, DICE_WEIGHT)(numbers["pred"], numbers["gt"])
    assert MASK_WEIGHT * losses["loss_mask"].item() == pytest.approx(numbers["loss_mask_full"].item(), abs=1e-4)
    assert DICE_WEIGHT * losses["loss_dice"].item() == pytest.approx(numbers["loss_dice_full"].item(), abs=1e-4)


def test_own_points_estimate_the_border(numbers: dict[str, Tensor]) -> None:
    # Uncertain points are the hard ones of a mostly right mask and lie at small logits, whatever the random numbers.
    torch.manual_seed(0)
    losses = Sa2VALoss(sample_points=True, num_points=1024)(numbers["pred"], numbers["gt"])
    assert MASK_WEIGHT * losses["loss_mask"].item() == pytest.approx(numbers["loss_mask"].item(), rel=0.1)
    assert DICE_WEIGHT * losses["loss_dice"].item() == pytest.approx(numbers["loss_dice"].item(), rel=0.1)
