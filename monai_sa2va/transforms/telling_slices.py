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


"""The few slices of a volume that tell most of its objects."""

from __future__ import annotations

import numpy as np

__all__ = ["MOST_SLICES", "telling_slices"]

MOST_SLICES = 8
"""How many an overview shows."""


def telling_slices(masks: np.ndarray, most: int = MOST_SLICES) -> list[int]:
    """Numbers of slices, ascending: where each object is largest, and evenly between the first and last with any.

    Args:
        masks: (N, D, H, W) bool.
        most: at most so many; where there are more objects, those with the largest slices come first.

    Returns:
        Nothing where all masks are empty.
    """
    # one slice at a time, as masks may lie in a file
    areas = np.array([[int(np.count_nonzero(mask[z])) for z in range(masks.shape[1])] for mask in masks])
    if not areas.any():
        return []
    largest = [(int(row.max()), int(row.argmax())) for row in areas if row.any()]
    chosen = list(dict.fromkeys(z for _, z in sorted(largest, reverse=True)))[:most]
    seen = np.flatnonzero(areas.any(axis=0))
    # from coarse to fine, until no more fit
    for parts in range(1, most):
        for z in np.linspace(seen[0], seen[-1], parts + 1).round().astype(int):
            if len(chosen) < most and int(z) not in chosen and areas[:, z].any():
                chosen.append(int(z))
    return sorted(chosen)
