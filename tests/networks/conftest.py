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
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.networks.sa2va import Sa2VA


@pytest.fixture(scope="session")
def micro_network(micro_config: Sa2VAConfig) -> Sa2VA:
    """In float64, in evaluation mode; not to be changed."""
    return Sa2VA(micro_config, seed=0).double().eval()


@pytest.fixture
def micro_batch(micro_samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples 0 to 3: 1, 3, 0 and 2 objects; 3, 1, 1 and 3 tiles."""
    return sa2va_collate(micro_samples[:4])


@pytest.fixture
def video_batch(micro_batch: dict[str, Any], micro_samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Two samples of 1 frame with 1 object and of 3 frames with 3 objects."""
    batch = sa2va_collate(micro_samples[:2])
    generator = torch.Generator().manual_seed(1)
    extra = torch.randn(2, 3, 64, 64, generator=generator)
    batch["g_pixel_values"] = torch.cat([batch["g_pixel_values"], extra])
    batch["gt_masks"] = torch.cat([batch["gt_masks"], batch["gt_masks"][1:], batch["gt_masks"][1:]])
    batch["frames_per_batch"] = [1, 3]
    return batch
