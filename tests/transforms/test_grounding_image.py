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

"""SAM2's square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.grounding_image import GroundingImage, GroundingImaged


def test_constants_are_rounded_to_bfloat16() -> None:
    # bfloat16 keeps 8 bits: 0.485 -> 0.484375, 0.456 -> 0.455078125, 0.406 -> 0.40625; 0.229 -> 0.228515625, ...
    white = GroundingImage(4)(np.full((2, 2, 3), 255, np.uint8))
    assert white.shape == (3, 4, 4)
    assert white.dtype == torch.float32
    expected = [0.515625 / 0.228515625, 0.544921875 / 0.2236328125, 0.59375 / 0.224609375]
    np.testing.assert_allclose(white[:, 0, 0], expected, rtol=1e-6)
    exact = GroundingImage(4, round_constants_to_bf16=False)(np.full((2, 2, 3), 255, np.uint8))
    np.testing.assert_allclose(exact[:, 0, 0], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-6)


def test_the_picture_fills_the_square_whatever_its_shape(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (3, 9, 3), dtype=np.uint8)
    square = GroundingImage(6, mean=(0, 0, 0), std=(1, 1, 1))(torch.from_numpy(array).permute(2, 0, 1).float())
    expected = np.asarray(Image.fromarray(array).resize((6, 6), Image.Resampling.BICUBIC))
    assert (square * 255).round().permute(1, 2, 0).tolist() == expected.tolist()


def test_grey_and_transparent_pictures_become_rgb() -> None:
    grey = Image.new("L", (2, 2), 7)
    assert GroundingImage(2).resize(grey)[0, 0].tolist() == [7, 7, 7]
    assert GroundingImage(2).resize(Image.new("RGBA", (2, 2), (1, 2, 3, 0)))[0, 0].tolist() == [1, 2, 3]


def test_dictionary_form_has_a_frames_axis() -> None:
    d = GroundingImaged(size=8)({"image": torch.zeros(3, 6, 6)})
    assert d["g_pixel_values"].shape == (1, 3, 8, 8)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(DataError, match="image is a tensor of shape"):
        GroundingImaged(size=8)({"image": torch.zeros(4, 6, 6)})
    with pytest.raises(ConfigError, match="size is 0"):
        GroundingImage(0)
    with pytest.raises(ConfigError, match="mean has 2 values"):
        GroundingImage(mean=(0.5, 0.5))
    with pytest.raises(ConfigError, match="give one image"):
        GroundingImaged(["a", "b"])
