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

import gzip
import traceback

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from monai_sa2va.data.headers import Grid, image_suffix, label_values, read_grid, read_label, read_values, same_grid
from monai_sa2va.errors import DataError


def test_suffixes_ignore_case_and_take_the_longest():
    assert image_suffix("a/B.NII.GZ") == ".nii.gz"
    assert image_suffix("x.y.TIFF") == ".tiff"
    assert image_suffix("scan.nii") == ".nii"
    assert image_suffix("notes.txt") == ""
    assert image_suffix("archive.gz") == ""


def test_a_picture_is_width_by_height(tmp_path):
    rows = np.zeros((4, 6), dtype=np.uint8)
    rows[1, 5] = 3
    Image.fromarray(rows).save(tmp_path / "a.png")
    values, grid = read_label(tmp_path / "a.png")
    assert grid.shape == (6, 4)
    assert grid.affine is None
    assert values.shape == (6, 4)
    assert values[5, 1] == 3
    assert values.sum() == 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_of_one_grey_value_a_pixel_is_a_label(tmp_path, mode):
    grey = np.zeros((3, 5), dtype=np.uint8)
    grey[0, 0] = 255 if mode == "1" else 7
    picture = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else Image.fromarray(grey)
    if mode == "P":
        picture = Image.fromarray(grey)
        picture.putpalette([0, 0, 0] * 7 + [255, 0, 0] * 249)
    elif mode != "I;16":
        picture = picture.convert(mode)
    picture.save(tmp_path / "a.png")
    values, _ = read_label(tmp_path / "a.png")
    assert label_values(values) == [1 if mode == "1" else 7]
    assert values[0, 0] == (1 if mode == "1" else 7)


def test_a_coloured_label_is_refused(tmp_path):
    pixels = np.zeros((3, 5, 3), dtype=np.uint8)
    pixels[1, 1] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "c.png")
    assert read_grid(tmp_path / "c.png").shape == (5, 3)
    with pytest.raises(DataError, match=r"c\.png is coloured"):
        read_label(tmp_path / "c.png")


def test_files_that_are_broken_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.nii.gz").write_bytes(b"no volume")
    (tmp_path / "c.nrrd").write_bytes(b"no volume")
    Image.effect_noise((64, 64), 50).save(tmp_path / "full.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "full.png").read_bytes()[:900])
    for name in ("a.png", "b.nii.gz", "c.nrrd", "d.png", "missing.png"):
        with pytest.raises(DataError, match=rf"{name} can't be read: ") as raised:
            read_grid(tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match=r"e\.dcm is none of \.png"):
        read_grid(tmp_path / "e.dcm")


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    pages = [Image.new("L", (4, 4)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"a\.tif has 3 pages"):
        read_grid(tmp_path / "a.tif")


def test_nifti_and_nrrd_of_one_volume_have_one_grid(tmp_path):
    label = np.zeros((3, 4, 5), dtype=np.int16)
    label[2, 0, 4] = 9
    affine = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / "a.nii.gz")
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([2.0, 2.0, 3.0]),
        "space origin": np.array([-10.0, -20.0, 30.0]),
    }
    nrrd.write(str(tmp_path / "a.nrrd"), label, header)
    (first, nifti), (second, other) = read_label(tmp_path / "a.nii.gz"), read_label(tmp_path / "a.nrrd")
    assert nifti.shape == other.shape == (3, 4, 5)
    np.testing.assert_allclose(nifti.affine, affine)
    np.testing.assert_allclose(other.affine, affine)
    np.testing.assert_array_equal(first, second)
    assert same_grid(nifti, other) is None
    assert same_grid(read_grid(tmp_path / "a.nii.gz"), read_grid(tmp_path / "a.nrrd")) is None


def test_colour_of_an_nrrd_is_no_axis_in_space(tmp_path):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.vstack([np.full(3, np.nan), np.eye(3)]),
        "kinds": ["RGB-color", "domain", "domain", "domain"],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((3, 4, 5, 6), dtype=np.uint8), header)
    assert read_grid(tmp_path / "a.nrrd").shape == (4, 5, 6)
    with pytest.raises(DataError, match=r"a\.nrrd has 4 axes, of which 3 lie in space"):
        read_label(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("unit", "mm"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001), ("unknown", 1.0), (5, 1.0)]
)
def test_a_nifti_in_another_unit_lies_in_mm(tmp_path, unit, mm):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 2.0, 5.0, 1.0]))
    if isinstance(unit, str):
        image.header.set_xyzt_units(unit, "sec")
    else:
        image.header["xyzt_units"] = unit  # a code that the standard doesn't have
    nibabel.save(image, tmp_path / "a.nii.gz")
    grid = read_grid(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(grid.affine, np.diag([2 * mm, 2 * mm, 5 * mm, 1]), rtol=1e-6)
    if unit == "micron":
        moved = grid.affine.copy()
        moved[0, 3] = 0.002
        assert same_grid(grid, Grid(grid.shape, moved)).endswith("lie up to 0.002 mm apart")


def test_an_nrrd_without_a_place_has_a_shape_only(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), np.ones((4, 5), dtype=np.uint8))
    values, grid = read_label(tmp_path / "a.nrrd")
    assert (grid.shape, grid.affine) == ((4, 5), None)
    assert label_values(values) == [1]


def test_trailing_axes_of_one_are_dropped(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 1), dtype=np.uint8), np.eye(4)), tmp_path / "a.nii")
    values, grid = read_label(tmp_path / "a.nii")
    assert grid.shape == values.shape == (4, 5)


@pytest.mark.parametrize(("value", "message"), [(0.5, "no integers"), (np.nan, "no integers"), (np.inf, "no integers")])
def test_labels_are_whole_numbers(tmp_path, value, message):
    data = np.zeros((2, 2, 2), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(data + 3, np.eye(4)), tmp_path / "whole.nii")
    assert label_values(read_label(tmp_path / "whole.nii")[0]) == [3]
    data[0, 0, 0] = value
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match=message):
        read_label(tmp_path / "a.nii")


def test_values_are_listed_without_background():
    assert label_values(np.array([[0, 255], [255, 1]], dtype=np.uint8)) == [1, 255]
    assert label_values(np.array([-1, 0, 300], dtype=np.int16)) == [-1, 300]
    assert label_values(np.zeros((2, 2), dtype=np.uint8)) == []


def test_grids_differ_by_shape_and_by_half_a_voxel():
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    grid = Grid((4, 4, 4), affine)
    assert same_grid(grid, Grid((4, 4, 3), affine)) == "shape 4 x 4 x 4 of the image is not 4 x 4 x 3 of its label"
    nearly, moved, mirrored = affine.copy(), affine.copy(), affine.copy()
    nearly[0, 3] = 0.9
    moved[0, 3] = 1.1
    mirrored[0] = [-2, 0, 0, 6]
    assert same_grid(grid, Grid((4, 4, 4), nearly)) is None
    assert same_grid(grid, Grid((4, 4, 4), moved)) == "image and label have one shape but lie up to 1.1 mm apart"
    assert same_grid(grid, Grid((4, 4, 4), mirrored)) == "image and label have one shape but lie up to 6.0 mm apart"
    assert same_grid(grid, Grid((4, 4, 4))) is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("NRRD0004\ntype: DOE^JANE\ndimension: 2\nsizes: 2 2\nencoding: raw\n\n", "its header or its data are damaged"),
        ("NRRDOE^JANE\n", "Invalid NRRD magic line"),
        ("NRRD0004\ntype: uint8\ndimension: 2\nsizes: 2 2\nencoding: DOE^JANE\n\n", "Unsupported encoding"),
    ],
)
def test_a_header_of_text_is_not_quoted(tmp_path, header, reason):
    folder = tmp_path / "DOE^JANE"
    folder.mkdir()
    (folder / "a.nrrd").write_text(header)
    with pytest.raises(DataError) as raised:
        read_values(folder / "a.nrrd")
    assert str(raised.value) == f"[DATA] a.nrrd can't be read: {reason}"


def test_a_traceback_shows_no_folder_either(tmp_path):
    folder = tmp_path / "DOE^JANE"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as raised:
        read_grid(folder / "a.png")
    assert "DOE" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("key", ["data file", "datafile"])
@pytest.mark.parametrize("value", ["other.raw", "LIST\nother.raw", "other%d.raw 1 1 1"])
def test_a_header_that_names_another_file_is_refused(tmp_path, key, value):
    (tmp_path / "other.raw").write_bytes(bytes(64))
    lines = ["NRRD0004", "type: uint8", "dimension: 2", "sizes: 8 8", "encoding: raw", f"{key}: {value}", "", ""]
    (tmp_path / "a.nrrd").write_text("\n".join(lines))
    for read in (read_grid, read_label):
        with pytest.raises(DataError, match=r"a\.nrrd (keeps its values in another file|can't be read)"):
            read(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_promises_more_than_its_file_can_hold_takes_no_memory(tmp_path, name):
    header = nibabel.Nifti1Header()
    header.set_data_shape((1000, 1000, 1000))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    body = header.binaryblock + bytes(4)
    (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    with pytest.raises(DataError, match=r"says 1000000000 bytes of values, which it can't hold$"):
        read_values(tmp_path / name)


def test_what_is_packed_most_is_read(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((400, 400, 100), dtype=np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_values(tmp_path / "a.nii.gz")[1].shape == (400, 400, 100)
