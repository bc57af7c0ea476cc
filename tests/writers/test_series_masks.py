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


"""NIfTI, NRRD and PNG of DICOM series."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
from segmented import find, segmentation, some_masks

from monai_sa2va.dicom.series import Layout
from monai_sa2va.errors import OutputError
from monai_sa2va.writers.masks import write_masks
from monai_sa2va.writers.runs import even_runs

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _check_slices(path: Path, affine_lps: np.ndarray, places: np.ndarray) -> None:
    steps = affine_lps[:3, 3] + np.arange(len(places))[:, None] * affine_lps[:3, 2]
    np.testing.assert_allclose(steps, places, rtol=0, atol=1e-4, err_msg=path.name)


@pytest.mark.parametrize("orientation", [made.AXIAL, made.CORONAL, made.SAGITTAL, made.oblique(10, 20, 30)])
def test_the_grid_is_the_series_own(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    places = made.positions(5, orientation)
    series = find(tmp_path / "in", made.series(5, orientation=orientation, places=places))
    masks = some_masks(series)
    written = write_masks(segmentation(series, masks, ["liver", "cyst"]), tmp_path / "out", ["nifti", "nrrd", "png"])
    assert [[path.name for path in paths] for paths in written] == [
        ["liver.nii.gz", "liver.seg.nrrd"],
        ["cyst.nii.gz", "cyst.seg.nrrd"],
    ]
    for mask, (nifti, segment) in zip(masks, written, strict=True):
        image = nib.load(nifti)
        assert (np.asanyarray(image.dataobj) == mask).all()
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
        _check_slices(nifti, RAS @ image.affine, places)
        np.testing.assert_allclose((RAS @ image.affine)[:3, 0], 0.5 * np.array(orientation[:3]), rtol=0, atol=1e-6)
        np.testing.assert_allclose((RAS @ image.affine)[:3, 1], 0.75 * np.array(orientation[3:]), rtol=0, atol=1e-6)
        values, header = nrrd.read(str(segment))
        assert (values == mask).all()
        # nor when it was written: equal masks give equal files
        assert b"# on " not in segment.read_bytes().partition(b"\n\n")[0]
        assert header["space"] == "left-posterior-superior"
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = header["space directions"].T, header["space origin"]
        np.testing.assert_allclose(RAS @ affine, image.affine, rtol=0, atol=1e-4)
    assert header["Segment0_Name"] == "cyst"


def test_a_tilt_is_a_shear_in_the_sform_alone(tmp_path: Path) -> None:
    places = made.positions(4, shear=(0.0, 0.3))
    series = find(tmp_path / "in", made.series(4, places=places))
    assert series.layout is Layout.VOLUME
    ((path,),) = write_masks(segmentation(series, some_masks(series, 1), ["liver"]), tmp_path / "out", ["nifti"])
    image = nib.load(path)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose((RAS @ image.affine)[:3, 2], [0, 0.75, 2.5], rtol=0, atol=1e-6)
    _check_slices(path, RAS @ image.affine, places)


def test_uneven_steps_give_a_file_a_run(tmp_path: Path) -> None:
    heights = [0, 1, 2, 5, 8, 20]
    series = find(tmp_path / "in", made.series(6, places=made.positions(6, heights=heights)))
    assert series.layout is Layout.STACK
    assert [(run.start, run.stop) for run in even_runs(series)] == [(0, 3), (3, 5), (5, 6)]
    masks = some_masks(series, 1)
    ((*paths,),) = write_masks(segmentation(series, masks, ["liver"]), tmp_path / "out", ["nifti", "nrrd"])
    assert [path.name for path in paths] == [
        *(f"liver_part{number}.nii.gz" for number in (1, 2, 3)),
        *(f"liver_part{number}.seg.nrrd" for number in (1, 2, 3)),
    ]
    ends = [40 + height for height in (0, 5, 20)]
    for path, (start, stop), height, step in zip(paths, [(0, 3), (3, 5), (5, 6)], ends, (1, 3, 2.5), strict=False):
        image = nib.load(path)
        assert (np.asanyarray(image.dataobj) == masks[0, ..., start:stop]).all()
        np.testing.assert_allclose(image.affine[2, 2:], [step, height], rtol=0, atol=1e-5)


def test_a_cine_is_time_and_no_space(tmp_path: Path) -> None:
    series = find(tmp_path / "in", [made.cine(4)])
    masks = some_masks(series, 1)
    ((nifti, segment),) = write_masks(segmentation(series, masks, ["liver"]), tmp_path / "out", ["nifti", "nrrd"])
    image = nib.load(nifti)
    assert image.shape == (8, 6, 1, 4)
    assert (np.asanyarray(image.dataobj)[:, :, 0] == masks[0]).all()
    assert image.header["pixdim"][4] == pytest.approx(0.04)
    assert image.header.get_xyzt_units() == ("unknown", "sec")
    values, header = nrrd.read(str(segment))
    assert (values == masks[0]).all()
    assert "space" not in header


def test_a_picture_has_a_png_and_needs_no_place(tmp_path: Path) -> None:
    series = find(tmp_path / "in", [made.image(made.voxels(1, 6, 8)[0], made.SC, "OT")])
    found = segmentation(series, some_masks(series, 1), ["liver"])
    ((*paths,),) = write_masks(found, tmp_path / "out", ["png", "dicom-seg", "rtstruct"])
    assert [path.name for path in paths] == ["liver.png", "seg.dcm"]
    with pytest.raises(OutputError, match="has no place in space, which rtstruct can't hold; add nifti"):
        write_masks(found, tmp_path / "other", ["rtstruct"])


def test_a_part_of_a_series_is_named_by_its_folder_alone(tmp_path: Path) -> None:
    from dataclasses import replace

    series = replace(find(tmp_path / "in", made.series(2)), part=2)
    ((*paths,),) = write_masks(
        segmentation(series, some_masks(series, 1), ["seg"]), tmp_path / "out", ["nifti", "dicom-seg", "rtstruct"]
    )
    assert [path.name for path in paths] == ["seg_2.nii.gz", "seg.dcm", "rtstruct.dcm"]
