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

"""How likely an object is there, and below what its mask is emptied."""

from __future__ import annotations

import torch

from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["LIKELY", "Presence"]

LIKELY = 0.5
"""Presence from which on an object counts as there where no threshold is stored: SAM2's own, a score above 0."""


class Presence:
    """Calibrated presence of objects.

    Args:
        threshold: presence (0 to 1) below which a mask is emptied, ``None`` for never; ``"stored"`` takes that of the
            network's configuration.

    Raises:
        ConfigError: when it is out of its range.
    """

    def __init__(self, threshold: float | str | None = "stored") -> None:
        fits = threshold == "stored" if isinstance(threshold, str) else threshold is None or 0 <= threshold <= 1
        if not fits:
            raise ConfigError(
                f"presence_threshold is {threshold!r}; give 0 to 1, null for none, or 'stored' for the checkpoint's own"
            )
        self.threshold = threshold

    def threshold_of(self, network: Sa2VA) -> float | None:
        """The threshold that holds for a network."""
        return network.config.presence_threshold if isinstance(self.threshold, str) else self.threshold

    def decision_of(self, network: Sa2VA) -> float:
        """Presence from which on an object counts as there: the threshold, or :data:`LIKELY`."""
        threshold = self.threshold_of(network)
        return LIKELY if threshold is None else threshold

    def __call__(self, network: Sa2VA, object_scores: torch.Tensor) -> torch.Tensor:
        """Presence (M,), 0 to 1, float32 on the CPU, of SAM2's object scores (M,), logits."""
        scores = object_scores.float().flatten().cpu()
        return (network.config.presence_scale * scores + network.config.presence_bias).sigmoid()
