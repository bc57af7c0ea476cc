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
"""Pictures as Qwen's language models take them: features in a grid, and positions by row and column (M-RoPE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_sa2va.errors import DataError

__all__ = ["GridTokens", "grid_positions"]


@dataclass(frozen=True, eq=False)
class GridTokens:
    """Features of one or several pictures for a language model that knows where each of them lies.

    Attributes:
        features: (tokens, D), picture by picture and row by row.
        grids: rows and columns of tokens of each picture.
        deepstack: (tokens, D) each, what is added at these tokens after the language model's layers 0, 1 and so on;
            empty where the family does nothing of the kind.
    """

    features: torch.Tensor
    grids: tuple[tuple[int, int], ...]
    deepstack: tuple[torch.Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    def repeat(self, times: int) -> GridTokens:
        """The same pictures several times, one after another."""
        deepstack = tuple(level.repeat(times, 1) for level in self.deepstack)
        return GridTokens(self.features.repeat(times, 1), self.grids * times, deepstack)


def grid_positions(places: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Positions of tokens for M-RoPE.

    Text counts on by one. All tokens of a picture stand at the same time; their rows and columns count from there, and
    text goes on after the longer side.

    Args:
        places: (B, L) bool, where a token is one of a picture; two pictures are parted by other tokens.
        grids: rows and columns of tokens of each picture, in the order of the batch.

    Returns:
        (3, B, L) int64: time, row and column.

    Raises:
        DataError: when the pictures don't fit their places.
    """
    left = list(grids)
    rows = [_row_positions(row, left) for row in places.cpu()]
    if left:
        raise DataError(f"input_ids have no place for {len(left)} of {len(grids)} pictures; give each its tokens")
    return torch.stack(rows, dim=1).to(places.device)


def _row_positions(row: torch.Tensor, left: list[tuple[int, int]]) -> torch.Tensor:
    """(3, L) of one sample, which takes its pictures from the front of those that are left."""
    kinds, lengths = torch.unique_consecutive(row, return_counts=True)
    parts: list[torch.Tensor] = []
    start = 0
    for is_picture, length in zip(kinds.tolist(), lengths.tolist(), strict=True):
        if not is_picture:
            parts.append(torch.arange(start, start + length).expand(3, -1))
            start += length
            continue
        rows, columns = left.pop(0) if left else (0, 0)
        if rows * columns != length:
            raise DataError(
                f"input_ids hold {length} image tokens in a row, the picture of image_grid_thw makes {rows} x {columns}"
            )
        y = torch.arange(rows).repeat_interleave(columns)
        parts.append(start + torch.stack([torch.zeros_like(y), y, torch.arange(columns).repeat(rows)]))
        start += max(rows, columns)
    return torch.cat(parts, dim=1)
