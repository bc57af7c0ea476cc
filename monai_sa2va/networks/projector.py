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

"""The projector from a [SEG] token's hidden state to SAM2's language token."""

from __future__ import annotations

import torch
from torch import nn

from monai_sa2va.errors import DataError

__all__ = ["TextHiddenFCs"]


class TextHiddenFCs(nn.Sequential):
    """Two linear layers: Linear, ReLU, Linear, Dropout, under the official checkpoints' parameter names.

    Args:
        in_dim: width of the language model's hidden state.
        out_dim: width of SAM2's prompt tokens.
        hidden_dim: width between the layers. ``None`` is the official shape (in, in, out).
        dropout: probability of the dropout at the end.

    Example:
        >>> TextHiddenFCs(in_dim=896)(torch.zeros(3, 896)).shape
        torch.Size([3, 256])
    """

    def __init__(
        self, in_dim: int = 3584, out_dim: int = 256, hidden_dim: int | None = None, dropout: float = 0.0
    ) -> None:
        hidden_dim = in_dim if hidden_dim is None else hidden_dim
        first, second = nn.Linear(in_dim, hidden_dim), nn.Linear(hidden_dim, out_dim)
        super().__init__(first, nn.ReLU(inplace=True), second, nn.Dropout(dropout))
        self.in_dim, self.out_dim = in_dim, out_dim
        # A normalised state becomes a token of unit variance, as large as SAM2's own prompt tokens; with torch's
        # smaller default the mask decoder starts out deaf to the sentence and learns the union of all structures.
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        nn.init.normal_(second.weight, std=hidden_dim**-0.5)
        nn.init.zeros_(first.bias)
        nn.init.zeros_(second.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Project hidden states.

        Args:
            states: (N, in_dim) float.

        Returns:
            (N, out_dim) float.

        Raises:
            DataError: when the last axis is not ``in_dim`` wide.
        """
        if states.shape[-1] != self.in_dim:
            raise DataError(f"states has width {states.shape[-1]}; this projector takes {self.in_dim}")
        projected: torch.Tensor = super().forward(states)
        return projected
