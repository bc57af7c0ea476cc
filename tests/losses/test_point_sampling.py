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
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.losses.point_sampling import point_values, sample_points


def test_values_at_hand_computed_points() -> None:
    mask = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.5, 0.25], [0.0, 0.25]]])
    # Pixel centres, the middle of all four, the middle of the upper two, and the edge, half blended with 0.
    assert torch.allclose(point_values(mask, points), torch.tensor([[1.0, 2.0, 3.0, 2.5, 1.5, 0.5]]))


@given(height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 99))
def test_linear_ramp_is_read_exactly(height: int, width: int, seed: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    share = torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = torch.tensor([width, height])
    pixels = share * (size - 1)  # between the outermost centres
    values = point_values((2 * columns + 3 * rows)[None], (pixels + 0.5) / size)
    assert torch.allclose(values, 2 * pixels[..., 0] + 3 * pixels[..., 1], atol=1e-9)


def test_integer_masks_take_the_dtype_of_the_points() -> None:
    masks = torch.ones(2, 4, 4, dtype=torch.uint8)
    values = point_values(masks, torch.full((2, 3, 2), 0.5, dtype=torch.float64))
    assert values.dtype == torch.float64
    assert torch.equal(values, torch.ones(2, 3, dtype=torch.float64))


def test_gradient_reaches_the_mask() -> None:
    mask = torch.zeros(1, 2, 2, requires_grad=True)
    point_values(mask, torch.tensor([[[0.5, 0.25]]])).sum().backward()
    assert mask.grad is not None
    assert torch.allclose(mask.grad, torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]))


@given(masks=st.integers(0, 3), points=st.integers(1, 50), oversample=st.floats(1, 4), importance=st.floats(0, 1))
def test_samples_lie_in_the_mask(masks: int, points: int, oversample: float, importance: float) -> None:
    found = sample_points(torch.randn(masks, 5, 7), points, oversample, importance)
    assert found.shape == (masks, points, 2)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert not found.requires_grad


def test_uncertain_points_lie_on_the_border() -> None:
    # A ramp from -16 to 16: its zero is the vertical middle line.
    logits = torch.linspace(-16, 16, 33).expand(2, 33, 33)
    generator = torch.Generator().manual_seed(0)
    even = sample_points(logits, 1000, 3.0, 0.0, generator)[..., 0]
    uncertain = sample_points(logits, 1000, 3.0, 1.0, generator)[..., 0]
    mixed = sample_points(logits, 1000, 3.0, 0.75, generator)[..., 0]
    # The third of the candidates nearest to the middle lies within a sixth of the width; edges blend to 0 as well.
    assert (even - 0.5).abs().mean() == pytest.approx(0.25, abs=0.02)
    assert bool(((uncertain - 0.5).abs() < 0.2).float().mean() > 0.95)
    assert bool(((mixed[:, :750] - 0.5).abs() < 0.2).float().mean() > 0.95)
    assert (mixed[:, 750:] - 0.5).abs().mean() == pytest.approx(0.25, abs=0.03)


def test_generator_makes_it_repeatable() -> None:
    logits = torch.randn(2, 8, 8)
    first, second = (sample_points(logits, 10, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_points": 0}, "num_points"),
        ({"num_points": 4, "oversample_ratio": 0.5}, "oversample_ratio"),
        ({"num_points": 4, "importance_sample_ratio": 1.5}, "importance_sample_ratio"),
        ({"num_points": 4, "importance_sample_ratio": float("nan")}, "importance_sample_ratio"),
    ],
)
def test_refuses_settings(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        sample_points(torch.zeros(1, 4, 4), **settings)  # type: ignore[arg-type]


def test_refuses_shapes() -> None:
    with pytest.raises(DataError, match="logits"):
        sample_points(torch.zeros(1, 1, 4, 4), 4)
    for masks, points in [((4, 4), (1, 3, 2)), ((1, 4, 4), (1, 3, 3)), ((2, 4, 4), (1, 3, 2)), ((1, 4, 4), (3, 2))]:
        with pytest.raises(DataError, match="don't fit"):
            point_values(torch.zeros(masks), torch.zeros(points))
