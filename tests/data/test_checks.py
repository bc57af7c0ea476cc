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

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from monai_sa2va.data.checks import check_pair
from monai_sa2va.data.read_image import read_image
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.intensity import Window

MASK = np.zeros((6, 4), dtype=np.uint8)
MASK[1, 2] = 1
PLACE = {"space": "LPS", "space directions": np.eye(3), "space origin": np.zeros(3)}


def picture(path: Path, mode: str) -> Path:
    Image.fromarray(MASK.T * 255).convert(mode).save(path)
    return path


def volume(path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def holed(values: np.ndarray, hole: float) -> np.ndarray:
    values = values.astype(np.float32)
    values.flat[0] = hole
    return values


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("a.png", mode) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16")),
        *(("a.tif", mode) for mode in ("L", "RGB", "F", "I;16")),
    ],
)
def test_pictures_of_brightness_are_taken(tmp_path, name, mode):
    mask = picture(tmp_path / "m.png", "L")
    values = check_pair(picture(tmp_path / name, mode), mask)
    assert np.flatnonzero(values).tolist() == [6]  # x = 1, y = 2 of width 6 and height 4
    Window()(read_image(tmp_path / name).pixels)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "P"), ("a.tif", "P"), ("a.tif", "PA"), ("a.jpg", "CMYK"), ("a.tif", "CMYK")]
)
def test_pictures_whose_numbers_are_no_brightness_are_named_as_training_does(tmp_path, name, mode):
    mask = picture(tmp_path / "m.png", "L")
    with pytest.raises(DataError, match=rf"{name} is a picture of mode {mode}, whose numbers are no brightness: save"):
        check_pair(picture(tmp_path / name, mode), mask)
    with pytest.raises(DataError, match=f"{name}.* is a picture of mode {mode}, whose numbers are no brightness"):
        Window()(read_image(tmp_path / name).pixels)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path, hole):
    Image.fromarray(holed(MASK.T, hole)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif holds 1 value\(s\) that are NaN or infinite: replace them"):
        check_pair(tmp_path / "a.tif", picture(tmp_path / "m.png", "L"))
    values = np.repeat(MASK[..., None], 3, axis=2)
    mask = volume(tmp_path / "m.nii", values)
    with pytest.raises(DataError, match=r"a\.nii holds 1 value"):
        check_pair(volume(tmp_path / "a.nii", holed(values, hole)), mask)
    nrrd.write(str(tmp_path / "a.nrrd"), holed(values, hole), PLACE)
    nrrd.write(str(tmp_path / "m.nrrd"), values, PLACE)
    with pytest.raises(DataError, match=r"a\.nrrd holds 1 value"):
        check_pair(tmp_path / "a.nrrd", tmp_path / "m.nrrd")


def test_what_is_beyond_single_precision_is_not_finite_in_training(tmp_path):
    mask = volume(tmp_path / "m.nii", MASK)
    with pytest.raises(DataError, match=r"a\.nii holds 24 value"):
        check_pair(volume(tmp_path / "a.nii", np.full(MASK.shape, 1e300)), mask)


def test_volumes_need_three_axes_a_place_and_one_number_a_voxel(tmp_path):
    values = np.repeat(MASK[..., None], 3, axis=2)
    mask = volume(tmp_path / "m.nii", values)
    assert check_pair(volume(tmp_path / "a.nii", values[..., None]), mask).shape == (6, 4, 3)
    with pytest.raises(DataError, match=r"four\.nii has 4 axes: an image is a picture or one volume"):
        check_pair(volume(tmp_path / "four.nii", np.stack([values] * 2, axis=3)), mask)
    rgb = np.zeros(values.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match=r"rgb\.nii holds values of type .*: an image holds one real number a voxel"):
        check_pair(volume(tmp_path / "rgb.nii", rgb), mask)
    nrrd.write(str(tmp_path / "nowhere.nrrd"), values)
    for image, label in (("nowhere.nrrd", "m.nii"), ("m.nii", "nowhere.nrrd")):
        with pytest.raises(DataError, match=r"nowhere\.nrrd is a volume that doesn't say its orientation"):
            check_pair(tmp_path / image, tmp_path / label)
    place = PLACE | {"space directions": np.vstack([np.full(3, np.nan), np.eye(3)])}
    nrrd.write(str(tmp_path / "colour.nrrd"), np.stack([values] * 3), place)
    with pytest.raises(DataError, match=r"colour\.nrrd has axes that don't lie in space"):
        check_pair(tmp_path / "colour.nrrd", mask)


def test_a_volume_of_one_slice_is_no_picture(tmp_path):
    slab, flat = volume(tmp_path / "slab.nii", MASK[..., None]), volume(tmp_path / "flat.nii", MASK)
    image = picture(tmp_path / "a.png", "L")
    assert check_pair(image, flat).shape == (6, 4)
    assert check_pair(slab, slab).shape == (6, 4)
    for one, other in ((image, slab), (slab, image), (slab, flat)):
        with pytest.raises(DataError, match=rf"mask {other.name} doesn't fit: of it and its image one is a volume"):
            check_pair(one, other)
