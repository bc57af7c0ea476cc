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

import numpy as np
import pytest
import torch
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms import PatchImageD, PatchImaged, PatchImageDict
from monai_sa2va.transforms.patches import PatchImage, find_patch_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # 512 to 2048 squares of 28: within, below, above
        ((840, 700), (840, 700)),
        ((650, 651), (644, 644)),
        ((100, 100), (644, 644)),
        ((28, 280), (224, 2016)),
        ((4000, 3000), (1456, 1092)),
    ],
)
def test_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    found = find_patch_size(*size, 28, 401408, 1605632)
    assert found == expected
    assert 401408 <= found[0] * found[1] <= 1605632


def test_a_side_never_vanishes() -> None:
    # for that the upper limit gives way, as in transformers
    assert find_patch_size(400, 3, 28, 784, 4 * 784) == (644, 28)


@pytest.mark.parametrize("size", [(0, 5), (201, 1), (1, 201)])
def test_too_long_or_empty(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=rf"{size[0]} x {size[1]} pixels can't be cut .* 200 times"):
        find_patch_size(*size, 28, 784, 7840)


def test_the_patches_of_a_token_follow_one_another() -> None:
    # 2 x 3 tokens of 2 x 2 patches of one pixel, whose red value is its number
    cut = PatchImage(1, 2, 2, 4, 4096, mean=(0, 0, 0), std=(1 / 255,) * 3)
    cut.resize = lambda image, name="image": image  # type: ignore[method-assign]
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0] = np.arange(24).reshape(4, 6)
    pixels[..., 2] = 7
    patches, grid = cut(pixels)
    assert grid.tolist() == [[1, 4, 6]]
    assert grid.dtype == torch.int64
    # channel by channel, each twice: once a frame
    assert patches.shape == (24, 6)
    assert patches[0].round().tolist() == [0, 0, 0, 0, 7, 7]
    assert patches[:, 0].round().int().tolist() == [
        0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11,
        12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23,
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(30, 50), (97, 61), (300, 20), (200, 260)])
@pytest.mark.parametrize(("patch", "mean", "std"), [(14, None, None), (16, (0.5,) * 3, (0.5,) * 3)])
def test_as_transformers_cuts_them(size: tuple[int, int], patch: int, mean: Any, std: Any, rng: Any) -> None:
    processors = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    limits = {"min_pixels": 6 * 32 * 32, "max_pixels": 30 * 32 * 32}
    own = {} if mean is None else {"mean": mean, "std": std}
    theirs = {} if mean is None else {"image_mean": list(mean), "image_std": list(std)}
    picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    found, grid = PatchImage(patch, **limits, **own)(picture)
    # the resampling before the model's own, to multiples of 28 whatever the patch
    first = picture.resize(find_patch_size(*picture.size, 28, 4 * 784, 16384 * 784), Image.Resampling.BICUBIC)
    processor = processors.Qwen2VLImageProcessorPil(patch_size=patch, **limits, **theirs)
    expected = processor([first], return_tensors="np")
    assert np.array_equal(grid.numpy(), expected["image_grid_thw"])
    assert np.array_equal(found.numpy(), expected["pixel_values"])


def test_it_is_resampled_twice(rng: Any) -> None:
    picture = Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8))
    cut = PatchImage(16, min_pixels=4 * 1024, max_pixels=24 * 1024)
    resized = cut.resize(picture)
    assert resized.shape == (64, 64, 3)
    once = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC))
    assert not np.array_equal(resized, once)
    twice = picture.resize((56, 56), Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(resized, np.asarray(twice))


def test_dictionary_form(rng: Any) -> None:
    picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    options = {"min_pixels": 4 * 784, "max_pixels": 24 * 784}
    sample = PatchImaged(**options)({"image": picture, "other": 1})
    patches, grid = PatchImage(**options)(picture)
    assert torch.equal(sample["pixel_values"], patches)
    assert torch.equal(sample["image_grid_thw"], grid)
    assert sample["other"] == 1
    assert sample["image"] is picture
    assert PatchImageD is PatchImageDict is PatchImaged
    assert PatchImaged(allow_missing_keys=True)({}) == {}
    with pytest.raises(ConfigError, match="give one image"):
        PatchImaged(keys=["a", "b"])


@pytest.mark.parametrize("options", [{"patch_size": 0}, {"min_pixels": 100}, {"min_pixels": 9000, "max_pixels": 8999}])
def test_refusals(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="limits that allow at least one square"):
        PatchImage(**options)


def test_no_picture() -> None:
    with pytest.raises(DataError, match="retina is an array"):
        PatchImage()(np.zeros((4, 4)), name="retina")
