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

"""Images of any source as pictures that the network can be shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_sa2va.data.read_image import read_image
from monai_sa2va.errors import DataError
from monai_sa2va.pictures import PictureReader, Pictures
from monai_sa2va.transforms.intensity import as_window
from monai_sa2va.transforms.stacks import StackPlanes


@pytest.fixture
def reader() -> PictureReader:
    return PictureReader(as_window("dtype"), StackPlanes("auto"))


def test_a_picture_has_three_channels_of_its_values(reader: PictureReader) -> None:
    grey = np.array([[0, 7, 255], [1, 2, 3]], np.uint8)
    assert reader.picture(grey).tolist() == [[[0, 7, 255], [1, 2, 3]]] * 3
    colour = np.stack([grey, grey + 1, grey // 2], axis=-1)
    assert torch.equal(reader.picture(colour), torch.from_numpy(colour).permute(2, 0, 1).float())


def test_a_volume_is_read_slice_by_slice(reader: PictureReader) -> None:
    values = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 3, 2)
    # x to the patient's left and y to posterior: rows and columns as they are displayed
    volume = MetaTensor(values, affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    slices = reader.slices(read_image(volume))
    assert slices.shape == (2, 3, 4)
    assert [part.shape for part in slices[:1]] == [(3, 3, 4)]
    frames = reader.frames(volume)
    assert len(frames) == 2
    assert torch.equal(frames[1], values[0, :, :, 1].T.float().expand(3, -1, -1))
    with pytest.raises(DataError, match="the image is a volume of 2 slices; give it as video, or one of its slices"):
        reader.picture(volume)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_are_those_of_the_volume_windowed_as_a_whole(dtype: type, axis: str) -> None:
    values = (np.random.default_rng(0).normal(size=(1, 9, 7, 5)) * 900).astype(dtype)
    if dtype is np.float32:
        values[0, 3, 2, 1] = np.nan
    source = read_image(MetaTensor(torch.from_numpy(values), affine=torch.diag(torch.tensor([1.0, -1.0, 2.0, 1.0]))))
    stack = StackPlanes(axis)
    slices = PictureReader(as_window({"kind": "percentile", "nonfinite": "lower"}), stack).slices(source)
    plain = values.astype(np.float32)
    lower, upper = np.percentile(plain[np.isfinite(plain)], [0.5, 99.5]).astype(np.float64)
    scaled = np.clip((plain.astype(np.float64) - lower) * (255.0 / (upper - lower)), 0, 255)
    whole = stack(MetaTensor(torch.from_numpy(np.nan_to_num(scaled).astype(np.float32)), affine=source.pixels.affine))
    assert len(slices) == len(whole)
    for number, plane in enumerate(whole):
        assert torch.equal(slices[number], plane.as_tensor().expand(3, -1, -1))


def test_alpha_is_left_out_and_other_channels_are_refused() -> None:
    reader = PictureReader(as_window("percentile"), StackPlanes("auto"))
    pixels = MetaTensor(torch.tensor([[[0.0, 50.0, 100.0]], [[7.0, 9000.0, 1.0]]]).permute(0, 2, 1))
    (picture,) = reader.slices(read_image(pixels))
    assert picture[:, 0].tolist() == [[0.0, 127.5, 255.0]] * 3
    with pytest.raises(DataError, match=r"expected 1, 2, 3 or 4 channels first"):
        reader.slices(read_image(MetaTensor(torch.zeros(5, 4, 3))))


def test_pictures_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def make(item: int) -> torch.Tensor:
        made.append(item)
        return torch.full((3, 2, 2), float(item))

    pictures = Pictures([4, 5, 6], make)
    assert (len(pictures), made) == (3, [])
    assert pictures[1].tolist() == [[[5.0, 5.0], [5.0, 5.0]]] * 3
    assert made == [5]


def test_what_is_no_video(reader: PictureReader) -> None:
    with pytest.raises(DataError, match=r"video is an array of shape \(3, 4\); expected \(T, H, W, 3\)"):
        reader.frames(np.zeros((3, 4), np.uint8))
