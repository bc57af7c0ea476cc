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

"""Window: each kind in numbers, decided by the type of data alone."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.intensity import WINDOWS, Window, Windowd, as_window


def test_range_and_hu() -> None:
    values = torch.tensor([-200.0, -160.0, 40.0, 240.0, 3000.0])
    expected = [0.0, 0.0, 127.5, 255.0, 255.0]
    for window in (
        Window("range", lower=-160, upper=240),
        Window("hu", lower=-160, upper=240),
        Window("hu", center=40, width=400),
        Window("hu", preset="abdomen"),
    ):
        result = window(values)
        assert result.dtype == torch.float32
        assert result.tolist() == expected


@pytest.mark.parametrize("preset", sorted(WINDOWS))
def test_presets_put_their_centre_in_the_middle(preset: str) -> None:
    center, width = WINDOWS[preset]
    result = Window("hu", preset=preset)(torch.tensor([center - width / 2, center, center + width / 2]))
    assert result.tolist() == [0.0, 127.5, 255.0]


def test_percentiles_of_all_channels_together() -> None:
    image = np.arange(202, dtype=np.int16).reshape(2, 101)
    # 0.5 % of 0 .. 201 is 1.005, 99.5 % is 199.995
    result = Window("percentile")(image)
    assert (result[0, 1], result[1, 99]) == (0.0, 255.0)
    np.testing.assert_allclose(result[0, 2], 255 * (2 - 1.005) / 198.99, rtol=1e-6)
    assert Window("percentile", lower=0, upper=100)(image)[1, 100] == 255


def test_an_image_of_one_value_becomes_black() -> None:
    assert Window("percentile")(torch.full((1, 3, 3), 7.0)).tolist() == torch.zeros(1, 3, 3).tolist()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 100, 255], np.uint8), [0.0, 100.0, 255.0]),
        (np.array([False, True]), [0.0, 255.0]),
        (torch.tensor([0, 257, 65535], dtype=torch.uint16), [0.0, 1.0, 255.0]),
    ],
)
def test_dtype(array: object, expected: list[float]) -> None:
    np.testing.assert_allclose(Window("dtype")(array), expected, rtol=1e-6)


def test_types_of_pictures_survive_monais_float32(tmp_path: Path) -> None:
    eight = np.array([[10, 20], [30, 40]], np.uint8)
    Image.fromarray(eight).save(tmp_path / "8.png")
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(eight > 20).save(tmp_path / "1.png")
    for name, values in {"8.png": eight.T, "16.png": eight.T, "1.png": 255.0 * (eight.T > 20)}.items():
        d = LoadImaged("image", ensure_channel_first=True)({"image": str(tmp_path / name)})
        assert d["image"].dtype == torch.float32
        np.testing.assert_allclose(Windowd("image", "dtype")(d)["image"][0], values, rtol=1e-5)


def test_of_a_nifti_the_dtype_tells_and_a_rescaled_one_has_none(tmp_path: Path) -> None:
    values = np.array([[0, 100], [200, 250]], np.uint8)
    image = nib.Nifti1Image(values, np.eye(4))
    nib.save(image, tmp_path / "plain.nii")
    image.header.set_slope_inter(0.5, 1)
    nib.save(image, tmp_path / "rescaled.nii")
    load = LoadImaged("image", ensure_channel_first=True, dtype=None)
    plain = Windowd("image", "dtype")(load({"image": str(tmp_path / "plain.nii")}))
    np.testing.assert_array_equal(plain["image"][0], values)
    with pytest.raises(DataError, match=r"image \(rescaled.nii\) has no known unsigned integer type"):
        Windowd("image", "dtype")(load({"image": str(tmp_path / "rescaled.nii")}))


def test_auto_goes_by_type_and_never_by_content(tmp_path: Path) -> None:
    dark = np.array([[0, 1], [2, 3]], np.uint8)
    assert Window()(dark).tolist() == dark.tolist()
    for dtype in (np.int16, np.float32, np.int32):
        assert Window("auto", nonfinite="error")(dark.astype(dtype)).max() == 255
    # a 16-bit picture rarely uses its whole range
    Image.fromarray(dark.astype(np.uint16)).save(tmp_path / "16.png")
    d = LoadImaged("image", ensure_channel_first=True)({"image": str(tmp_path / "16.png")})
    assert Windowd("image")(d)["image"].max() == 255


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=30), st.floats(0, 40), st.floats(60, 100))
def test_any_image_stays_within_0_and_255_and_in_order(values: list[float], lower: float, upper: float) -> None:
    image = torch.tensor(sorted(values))
    result = Window("percentile", lower=lower, upper=upper)(image)
    assert result.min() >= 0
    assert result.max() <= 255
    assert bool((result.diff() >= 0).all())


def test_meta_data_is_kept() -> None:
    image = MetaTensor(torch.ones(1, 2, 2), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    result = Window("range", lower=0, upper=2)(image)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, image.affine)
    assert image.tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    image = MetaTensor(torch.tensor([[bad, 1.0, 2.0]]))
    image.meta["filename_or_obj"] = "/data/Doe John/mr.nii.gz"
    with pytest.raises(DataError, match=r"image \(mr.nii.gz\) has 1 values that are NaN or infinite") as error:
        Windowd("image")({"image": image})
    # what the message says to do is what a command line takes
    assert str(error.value).endswith('make them 0 by the window {"nonfinite": "lower"}')
    assert Windowd("image", '{"nonfinite": "lower"}')({"image": image})["image"][0, 0] == 0
    assert Window("percentile", lower=0, upper=100, nonfinite="lower")(image).tolist() == [[0, 0, 255]]
    with pytest.raises(DataError, match="has 2 values"):
        Window(nonfinite="lower")(torch.full((1, 2), torch.nan))


def test_alpha_has_no_part_in_percentiles() -> None:
    grey = torch.arange(101.0).reshape(1, 101, 1)
    alpha = torch.full_like(grey, 255.0)
    for colours in (grey, torch.cat([grey, grey, grey])):
        with_alpha = Window("percentile")(torch.cat([colours, alpha]))
        assert torch.equal(with_alpha[:-1], Window("percentile")(colours))
    # 99.5 % of 0 .. 100 is 99.5: with alpha among the values, 100 would be dark
    assert with_alpha[0, -1] == 255


def test_windows_are_named_or_given() -> None:
    assert as_window("lung").lower == -1350
    for arguments in ({"kind": "hu", "center": 0, "width": 10}, '{"kind": "hu", "center": 0, "width": 10}'):
        assert as_window(arguments).upper == 5
    window = Window("dtype")
    assert as_window(window) is window
    for bad in ("lungs", "hu", {"widht": 3}, '{"widht": 3}', '{"kind"'):
        with pytest.raises(ConfigError, match="window"):
            as_window(bad)


def test_a_palette_is_refused(tmp_path: Path) -> None:
    Image.new("P", (2, 2)).save(tmp_path / "p.png")
    d = LoadImaged("image", ensure_channel_first=True)({"image": str(tmp_path / "p.png")})
    with pytest.raises(DataError, match=r"p.png\) is a picture of mode P"):
        Windowd("image")(d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "minmax"}, "kind is 'minmax'; allowed: auto"),
        ({"kind": "hu"}, "needs lower and upper or center and width or preset"),
        ({"kind": "range"}, "needs lower and upper"),
        ({"kind": "range", "lower": 0}, "give both"),
        ({"kind": "hu", "center": 40}, "give both"),
        ({"kind": "range", "lower": 2, "upper": 1}, "upper end has to lie above"),
        ({"kind": "range", "lower": 0, "upper": float("inf")}, "upper end has to lie above"),
        ({"kind": "hu", "center": 40, "width": 0}, "upper end has to lie above"),
        ({"kind": "hu", "preset": "lungs"}, "preset is 'lungs'; allowed: abdomen"),
        ({"kind": "hu", "preset": "lung", "center": 1, "width": 2}, "can't use center and width with preset"),
        ({"kind": "percentile", "lower": -1, "upper": 99}, "no percentiles"),
        ({"kind": "percentile", "preset": "lung"}, "can't use preset"),
        ({"kind": "dtype", "lower": 0, "upper": 1}, "allowed: none"),
        ({"nonfinite": "zero"}, "nonfinite is 'zero'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Window(**arguments)


def test_built_from_a_configuration() -> None:
    parser = ConfigParser({"w": {"_target_": "monai_sa2va.transforms.WindowDict", "keys": "ct", "window": "lung"}})
    result = parser.get_parsed_content("w")({"ct": torch.tensor([[-1350.0, 150.0]])})
    assert result["ct"].tolist() == [[0, 255]]
