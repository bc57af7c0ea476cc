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

"""Three channels of any picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from PIL import Image

from monai_sa2va.errors import DataError
from monai_sa2va.transforms.rgb import ToRGB, ToRGBd


@pytest.mark.parametrize(
    ("channels", "expected"), [([1], [1, 1, 1]), ([1, 9], [1, 1, 1]), ([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 9], [1, 2, 3])]
)
@pytest.mark.parametrize("spatial", [(2, 2), (2, 3, 4)])
def test_channels(channels: list[int], expected: list[int], spatial: tuple[int, ...]) -> None:
    image = torch.tensor(channels, dtype=torch.uint8).reshape(-1, *[1] * len(spatial)).expand(-1, *spatial)
    result = ToRGB()(image)
    assert result.shape == (3, *spatial)
    assert result.dtype == torch.uint8
    assert [int(c.unique()) for c in result] == expected


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_files_of_every_mode(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3), {"L": 7, "LA": (7, 0), "RGB": (7, 8, 9), "RGBA": (7, 8, 9, 0)}[mode]).save(
        tmp_path / "a.png"
    )
    d = ToRGBd("image")(LoadImaged("image", ensure_channel_first=True)({"image": str(tmp_path / "a.png")}))
    assert isinstance(d["image"], MetaTensor)
    assert d["image"][:, 0, 0].tolist() == ([7, 8, 9] if "RGB" in mode else [7, 7, 7])


@pytest.mark.parametrize("shape", [(5, 2, 2), (0, 2, 2), (3,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected 1, 2, 3 or 4 channels first"):
        ToRGB()(np.zeros(shape))


def test_echoes_of_a_volume_are_no_alpha() -> None:
    image = MetaTensor(torch.zeros(2, 4, 4, 4))
    image.meta["filename_or_obj"] = "echoes.nii.gz"
    with pytest.raises(DataError, match=r"image \(echoes.nii.gz\) has 2 channels and its file no alpha"):
        ToRGBd("image")({"image": image})
    image.meta["filename_or_obj"] = "a.tif"
    assert ToRGB()(image).shape == (3, 4, 4, 4)
