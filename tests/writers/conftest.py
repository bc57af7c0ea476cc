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

"""Segmentations with masks chosen by hand, on real sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmentation, Segmenter


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return Segmenter(Sa2VA("tiny", seed=0), device="cpu")


@pytest.fixture(scope="session")
def segmentation(segmenter: Segmenter) -> Callable[..., Segmentation]:
    """Segment a source, then put known masks and labels in the place of the network's."""

    def make(image: Any, labels: Sequence[str], fill: Callable[[np.ndarray], None] | None = None) -> Segmentation:
        found = segmenter.segment(image, ["vessels"] * len(labels))
        masks = np.zeros_like(found.masks)
        if fill is not None:
            fill(masks)
        return replace(
            found, masks=masks, labels=list(labels), scores=np.linspace(0.25, 0.75, len(labels), dtype=np.float32)
        )

    return make
