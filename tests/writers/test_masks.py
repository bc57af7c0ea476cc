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

"""Masks on the source's own grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from PIL import Image

from monai_sa2va.data.headers import read_grid
from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.predictor import Segmentation
from monai_sa2va.writers.masks import write_masks

Make = Callable[..., Segmentation]
CODES = ["RAS", "LPI", "PIR", "SLA"]


def _affine(code: str, shape: tuple[int, int, int]) -> np.ndarray:
    ornt = nib.orientations.axcodes2ornt(tuple(code))
    affine = np.diag([0.7, 1.3, 2.9, 1.0]) @ nib.orientations.inv_ornt_aff(ornt, shape)
    affine[:3, 3] += [1.1, -2.2, 3.3]
    return affine


def _fill(masks: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    masks[:] = generator.random(masks.shape) < 0.3


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_nifti_keeps_the_inputs_grid_to_the_bit(tmp_path: Path, segmentation: Make, code: str, form: str) -> None:
    shape = (4, 3, 2)
    image = nib.Nifti1Image(np.zeros(shape, np.int16), None)
    image.header["descrip"] = b"Jane Doe"
    image.set_sform(_affine(code, shape) if form == "sform" else None, code=1 if form == "sform" else 0)
    image.set_qform(_affine(code, shape) if form == "qform" else None, code=1 if form == "qform" else 0)
    nib.save(image, tmp_path / "scan.nii.gz")
    found = segmentation(tmp_path / "scan.nii.gz", ["vessels", "optic disc"], _fill)

    files = write_masks(found, tmp_path / "out", ["nifti"])
    assert [[path.name for path in paths] for paths in files] == [["vessels.nii.gz"], ["optic_disc.nii.gz"]]
    source = nib.load(tmp_path / "scan.nii.gz")
    for number, (path,) in enumerate(files):
        written = nib.load(path)
        assert written.shape == source.shape
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(written.affine, source.affine)
        for field in ("sform_code", "qform_code", "pixdim", "srow_x", "quatern_b", "qoffset_z"):
            np.testing.assert_array_equal(written.header[field], source.header[field])
        assert b"Jane" not in bytes(written.header["descrip"])
        values = np.asarray(written.dataobj)
        np.testing.assert_array_equal(values, found.on_source_grid()[number].astype(np.uint8))
        assert set(np.unique(values)) == {0, 1}
        # the same voxel of the world: each mask voxel (slice, row, column) by its own affine
        d, h, w = np.argwhere(found.masks[number])[0]
        assert found.affine is not None
        ras = np.diag([-1, -1, 1, 1]) @ found.affine @ [w, h, d, 1]
        voxel = np.linalg.solve(written.affine, ras)[:3].round().astype(int)
        assert values[tuple(voxel)] == 1


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001)])
def test_nifti_keeps_its_unit(tmp_path: Path, segmentation: Make, unit: str, mm: float) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    image = nib.Nifti1Image(np.zeros((3, 4, 2), np.uint8), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii.gz")
    found = segmentation(tmp_path / "scan.nii.gz", ["a"])
    ((path,),) = write_masks(found, tmp_path / "out", ["nifti"])
    written = nib.load(path)
    assert written.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(written.affine, affine)
    np.testing.assert_allclose(read_grid(path).affine, np.diag([2 * mm, 3 * mm, 4 * mm, 1]))


def test_nifti_2_stays_nifti_2(tmp_path: Path, segmentation: Make) -> None:
    affine = np.diag([1 / 3, 1 / 7, 1 / 11, 1.0])  # not to be had in float32
    nib.save(nib.Nifti2Image(np.zeros((3, 4, 2), np.uint8), affine), tmp_path / "scan.nii")
    ((path,),) = write_masks(segmentation(tmp_path / "scan.nii", ["a"]), tmp_path / "out", ["nifti"])
    written = nib.load(path)
    assert isinstance(written, nib.Nifti2Image)
    np.testing.assert_array_equal(written.affine, affine)


def test_nrrd_comes_back_as_nifti_in_the_same_place(tmp_path: Path, segmentation: Make) -> None:
    header = {"space": "LPS", "space directions": np.diag([1.0, 2.0, 3.0]), "space origin": [4.0, 5.0, 6.0]}
    nrrd.write(str(tmp_path / "scan.nrrd"), np.zeros((3, 4, 2), np.int16), header)
    found = segmentation(tmp_path / "scan.nrrd", ["a"], _fill)
    ((path,),) = write_masks(found, tmp_path / "out", ["nifti", "png"])
    written = nib.load(path)
    np.testing.assert_array_equal(written.affine, [[-1, 0, 0, -4], [0, -2, 0, -5], [0, 0, 3, 6], [0, 0, 0, 1]])
    np.testing.assert_array_equal(np.asarray(written.dataobj), found.on_source_grid()[0])


def test_pictures_as_png_and_nifti(tmp_path: Path, segmentation: Make) -> None:
    def fill(masks: np.ndarray) -> None:
        masks[0, 0, 4] = True

    found = segmentation(np.zeros((3, 5), np.uint8), ["a"], fill)
    ((nifti, png),) = write_masks(found, tmp_path)
    assert (nifti.name, png.name) == ("a.nii.gz", "a.png")
    with Image.open(png) as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[0, 0, 0, 0, 255], [0] * 5, [0] * 5]
    volume = nib.load(nifti)
    assert volume.shape == (5, 3)
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    assert volume.header.get_xyzt_units()[0] == "unknown"
    assert np.argwhere(np.asarray(volume.dataobj)).tolist() == [[4, 0]]


def test_labels_become_safe_different_names(tmp_path: Path, segmentation: Make) -> None:
    found = segmentation(np.zeros((2, 2), np.uint8), ["../up", "Overview", "血管", "up", "血管"])
    files = write_masks(found, tmp_path / "out", ["png"])
    assert [path.name for (path,) in files] == ["up.png", "overview_2.png", "object.png", "up_2.png", "object_2.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_refusals(tmp_path: Path, segmentation: Make) -> None:
    picture = segmentation(np.zeros((2, 2), np.uint8), ["a"])
    write_masks(picture, tmp_path, ["png"])
    with pytest.raises(OutputError, match=r"a\.png' is there already"):
        write_masks(picture, tmp_path, ["png"])
    write_masks(picture, tmp_path, ["png"], overwrite=True)
    with pytest.raises(ConfigError, match="has 'dicom'; allowed: nifti, png"):
        write_masks(picture, tmp_path, ["dicom"])
    with pytest.raises(ConfigError, match="format is empty"):
        write_masks(picture, tmp_path, [])
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(OutputError, match="is a volume, which png can't hold; add nifti"):
        write_masks(segmentation(tmp_path / "scan.nii.gz", ["a"]), tmp_path / "out", ["png"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made"):
        write_masks(picture, tmp_path / "file" / "out", ["png"])
