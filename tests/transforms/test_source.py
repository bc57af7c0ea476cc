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

"""What is known of an array's file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_sa2va.transforms.source import grid_of, integer_maximum, source_name


def _meta(**meta: object) -> MetaTensor:
    image = MetaTensor(torch.zeros(1, 2, 2))
    image.meta.update(meta)
    return image


def test_names_hold_no_folder() -> None:
    assert source_name(_meta(filename_or_obj="/data/Doe John/1.png"), "label") == "label (1.png)"
    assert source_name(_meta(), "label") == source_name(np.zeros(2), "label") == "label"


@pytest.mark.parametrize(
    ("image", "maximum"),
    [
        (_meta(mode="L"), 255), (_meta(mode="RGBA"), 255), (_meta(mode="1"), 1), (_meta(mode="I;16B"), 65535),
        (_meta(mode="F"), None), (_meta(mode="P"), None), (_meta(), None),
        (np.zeros(1, np.uint8), 255), (np.zeros(1, np.uint16), 65535), (np.zeros(1, bool), 1),
        (np.zeros(1, np.int16), None), (torch.zeros(1, dtype=torch.uint8), 255), (torch.zeros(1), None),
    ],
)  # fmt: skip
def test_integer_maximum(image: object, maximum: int | None) -> None:
    assert integer_maximum(image) == maximum


def test_grid_is_in_ras() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    volume = MetaTensor(torch.zeros(1, 2, 3, 4), affine=affine)
    grid = grid_of(volume)
    assert (grid.shape, np.diag(grid.affine).tolist()) == ((2, 3, 4), [2, 3, 4, 1])
    volume.meta["space"] = "LPS"
    assert np.diag(grid_of(volume).affine).tolist() == [-2, -3, 4, 1]
    assert grid_of(torch.zeros(1, 2, 3, 4)).affine is None
    assert grid_of(_meta()).affine is None
