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

"""Uncertain point sampling after PointRend: mask losses on a few thousand points instead of on every pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from monai_sa2va.errors import ConfigError, DataError

__all__ = ["check_sampling", "point_values", "sample_points"]


def check_sampling(num_points: int, oversample_ratio: float, importance_sample_ratio: float) -> None:
    """Refuse settings that :func:`sample_points` can't honour.

    Raises:
        ConfigError: when ``num_points`` is below 1, ``oversample_ratio`` below 1, or
            ``importance_sample_ratio`` outside 0 to 1.
    """
    if num_points < 1:
        raise ConfigError(f"num_points is {num_points}; give at least 1")
    if not oversample_ratio >= 1:
        raise ConfigError(f"oversample_ratio is {oversample_ratio}; give at least 1")
    if not 0 <= importance_sample_ratio <= 1:
        raise ConfigError(f"importance_sample_ratio is {importance_sample_ratio}; give a share from 0 to 1")


def point_values(masks: Tensor, points: Tensor) -> Tensor:
    """Read masks at points, bilinearly.

    Pixel centres lie at half-integers, so that (0, 0) is the outer corner of the first pixel and (1, 1) that of the
    last. Outside the outermost centres a value is blended with 0, as the reference's sampling does.

    Args:
        masks: (M, h, w), logits or 0/1, of any number type.
        points: (M, P, 2) floating point, x then y, each a share from 0 to 1 of the width and of the height.

    Returns:
        (M, P), of the dtype of ``points``.

    Raises:
        DataError: when the shapes don't fit each other.
    """
    if masks.ndim != 3 or points.ndim != 3 or points.shape[-1] != 2 or len(masks) != len(points):
        raise DataError(
            f"masks {tuple(masks.shape)} and points {tuple(points.shape)} don't fit; give (M, h, w) and (M, P, 2)"
        )
    if not len(masks):
        return points.new_zeros(points.shape[:2])
    # grid_sample measures from -1 to 1.
    grid = (2 * points - 1).unsqueeze(2)
    values = functional.grid_sample(masks.to(points.dtype).unsqueeze(1), grid, mode="bilinear", align_corners=False)
    return values[:, 0, :, 0]


@torch.no_grad()
def sample_points(
    logits: Tensor,
    num_points: int = 12544,
    oversample_ratio: float = 3.0,
    importance_sample_ratio: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose points of each mask, most of them where the prediction is least sure.

    ``oversample_ratio * num_points`` points are drawn evenly over the mask; of these the
    ``importance_sample_ratio * num_points`` with the logit nearest to 0 are kept, and evenly drawn points fill the
    rest (Kirillov et al., PointRend, 2020, section 3.2; the settings are those of Mask2Former and Sa2VA).

    Args:
        logits: (M, h, w) floating point mask logits.
        num_points: P, points a mask.
        oversample_ratio: how many candidates are drawn for each point, at least 1.
        importance_sample_ratio: share of the points that is chosen by uncertainty, 0 to 1.
        generator: source of the random numbers, on the device of ``logits``; the global one where ``None``.

    Returns:
        (M, P, 2), x then y in [0, 1], without gradient; float64 for float64 logits, else float32.

    Raises:
        ConfigError: when a setting is out of its range.
        DataError: when ``logits`` isn't (M, h, w).
    """
    check_sampling(num_points, oversample_ratio, importance_sample_ratio)
    if logits.ndim != 3:
        raise DataError(f"logits has the shape {tuple(logits.shape)}; give (M, h, w)")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    count = len(logits)

    def draw(number: int) -> Tensor:
        return torch.rand(count, number, 2, generator=generator, dtype=dtype, device=logits.device)

    candidates = draw(int(num_points * oversample_ratio))
    uncertain = int(num_points * importance_sample_ratio)
    nearest = point_values(logits, candidates).abs().topk(uncertain, dim=1, largest=False).indices
    chosen = candidates.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([chosen, draw(num_points - uncertain)], dim=1)
