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

"""Images of any kind come in as one kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_sa2va.data.read_image import list_images, read_image
from monai_sa2va.errors import DataError


def test_pictures_have_x_first_however_they_come(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (3, 5)).astype(np.uint8)
    for suffix in (".png", ".tif", ".tiff", ".bmp", ".PNG"):
        path = tmp_path / f"grey{suffix}"
        Image.fromarray(grey).save(path)
        source = read_image(path)
        assert source.name == path.name
        assert source.grid.shape == (5, 3)
        assert source.grid.affine is None
        np.testing.assert_array_equal(source.pixels[0].numpy(), grey.T)
    for image in (grey, Image.fromarray(grey)):
        source = read_image(image)
        assert source.name == "image"
        np.testing.assert_array_equal(source.pixels[0].numpy(), grey.T)
    colour = rng.integers(0, 256, (3, 5, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    for image in (colour, Image.fromarray(colour), tmp_path / "colour.png"):
        np.testing.assert_array_equal(read_image(image).pixels.numpy(), colour.transpose(2, 1, 0))


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    for image in (values, Image.fromarray(values), tmp_path / "deep.png"):
        assert read_image(image).pixels.to(torch.int64).flatten().tolist() == [0, 255, 256, 65535]


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "float32"])
def test_nrrd_keeps_its_type(tmp_path: Path, dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    header = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": [0, 0, 0]}
    nrrd.write(str(tmp_path / "a.nrrd"), values, header)
    pixels = read_image(tmp_path / "a.nrrd").pixels
    assert str(pixels.dtype) == f"torch.{values.dtype.name}"
    np.testing.assert_array_equal(pixels[0].numpy(), values)


def test_nrrd_without_directions_is_a_picture(tmp_path: Path) -> None:
    for number, shape in enumerate(((2, 3), (2, 3, 1))):
        nrrd.write(str(tmp_path / f"{number}.nrrd"), np.arange(6, dtype=np.uint8).reshape(shape))
        source = read_image(tmp_path / f"{number}.nrrd")
        assert (source.grid.shape, source.grid.affine) == ((2, 3), None)
        assert source.pixels.tolist() == [[[0, 1, 2], [3, 4, 5]]]
        assert source.pixels.dtype == torch.uint8


def test_colour_nrrd_is_refused(tmp_path: Path) -> None:
    header = {"space": "RAS", "space directions": np.vstack([np.full(3, np.nan), np.eye(3)]), "space origin": [0, 0, 0]}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((3, 2, 2, 2), np.uint8), header)
    with pytest.raises(DataError, match=r"\] a\.nrrd has 4 axes, of which 3 lie in space: write one without colour"):
        read_image(tmp_path / "a.nrrd")


def test_volumes_keep_grid_and_header(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 5], [0.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    source = read_image(tmp_path / "a.nii.gz")
    assert source.pixels.shape == (1, 2, 3, 4)
    np.testing.assert_array_equal(source.pixels[0].numpy(), values)
    np.testing.assert_array_equal(source.grid.affine, affine)
    np.testing.assert_array_equal(source.pixels.affine.numpy(), affine)
    assert source.header is not None


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001)])
def test_volumes_in_another_unit_lie_in_mm(tmp_path: Path, unit: str, mm: float) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.diag([2.0, 4.0, 8.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    source = read_image(tmp_path / "a.nii.gz")
    expected = np.diag([2 * mm, 4 * mm, 8 * mm, 1])
    np.testing.assert_allclose(source.grid.affine, expected)
    np.testing.assert_allclose(source.pixels.affine.numpy(), expected)
    np.testing.assert_allclose(source.pixels.meta["original_affine"], expected)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (-1, -1, 1)), ("right-anterior-superior", (1, 1, 1)), ("LAS", (-1, 1, 1))],
)
def test_nrrd_spaces_all_become_ras(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    header = {"space": space, "space directions": np.diag([1.0, 2.0, 3.0]), "space origin": [4.0, 5.0, 6.0]}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((2, 3, 4), np.int16), header)
    source = read_image(tmp_path / "a.nrrd")
    expected = np.array([[1, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1.0]])
    expected[:3] *= np.array(signs)[:, None]
    np.testing.assert_allclose(source.pixels.affine.numpy(), expected)
    np.testing.assert_allclose(source.grid.affine, expected)


def test_meta_tensors_are_taken_as_they_are() -> None:
    volume = MetaTensor(torch.zeros(1, 2, 3, 4), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    volume.meta["filename_or_obj"] = "/patients/Jane Doe/scan.nii.gz"
    source = read_image(volume)
    assert source.name == "scan.nii.gz"
    assert source.pixels is volume
    np.testing.assert_array_equal(source.grid.affine, np.diag([1.0, 2.0, 3.0, 1.0]))


def _truncated(folder: Path) -> Path:
    path = folder / "torn.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    return path


def _no_picture(folder: Path) -> Path:
    path = folder / "fake.png"
    path.write_bytes(b"not a picture at all")
    return path


def _truncated_volume(folder: Path) -> Path:
    path = folder / "torn.nii"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:900])
    return path


def _series(folder: Path) -> Path:
    path = folder / "series.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.uint8), np.eye(4)), path)
    return path


def _nowhere(folder: Path) -> Path:
    path = folder / "nowhere.nrrd"
    nrrd.write(str(path), np.zeros((2, 3, 4), np.uint8))
    return path


def _pages(folder: Path) -> Path:
    path = folder / "pages.tif"
    page = Image.new("L", (4, 4))
    page.save(path, save_all=True, append_images=[page])
    return path


def _text(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("hello")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_truncated, r"torn\.png can't be read: "),
        (_no_picture, r"fake\.png can't be read: "),
        (_truncated_volume, r"torn\.nii can't be read: "),
        (_series, r"series\.nii\.gz has 4 axes \(2 x 3 x 4 x 5\)"),
        (_nowhere, r"nowhere\.nrrd is a volume that doesn't say its orientation"),
        (_pages, r"pages\.tif has 2 pages"),
        (_text, r"notes\.txt is none of \.png"),
        (lambda folder: folder / "no.png", r"there is no file 'no\.png'"),
        (lambda folder: folder, "the folder holds no DICOM image"),
        (lambda _: np.zeros((2, 3, 4), np.uint8), r"array of shape \(2, 3, 4\).*pass a MetaTensor"),
        (lambda _: np.zeros((0, 3), np.uint8), r"array of shape \(0, 3\)"),
        (lambda _: np.zeros((2, 3)), "array of float64; expected bool, uint8"),
        (lambda _: torch.zeros(1, 2, 3), "image is a Tensor"),
        (lambda _: MetaTensor(torch.zeros(2, 3)), r"image has shape \(2, 3\)"),
        (lambda _: None, "image is a NoneType"),
    ],
)
def test_what_cant_be_read_is_named(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_image(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # folders may name patients


def test_lists_are_sorted_and_hold_images_only(tmp_path: Path) -> None:
    for name in ("b.png", "a.NII.GZ", "c.nrrd", "notes.txt", ".hidden.png", "sub/d.png", "sub/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(*args: Any) -> list[str]:
        return [str(Path(entry["image"]).relative_to(tmp_path)) for entry in list_images(*args)]

    assert names(tmp_path) == ["a.NII.GZ", "b.png", "c.nrrd"]
    assert names(tmp_path, "sub/*.png") == ["sub/d.png"]
    assert names(str(tmp_path), "**/*.png") == ["b.png", "sub/d.png"]
    assert names([tmp_path / "sub", tmp_path / "c.nrrd"]) == ["sub/d.png", "sub/e.jpg", "c.nrrd"]
    with pytest.raises(DataError, match=r"has no image that matches '\*\.tif'"):
        list_images(tmp_path, "*.tif")
    with pytest.raises(DataError, match=r"notes\.txt is none of"):
        list_images(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="there is no file 'gone'"):
        list_images(tmp_path / "gone")
    with pytest.raises(DataError, match="there is no image; name"):
        list_images([])
