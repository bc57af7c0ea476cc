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

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
pytest.importorskip("contourpy", reason="contourpy is not installed")

import made
import nrrd
import pydicom
from segmented import find, segmentation, some_masks

from monai_sa2va.writers.contours import fill_contours
from monai_sa2va.writers.rtstruct import can_hold, make_rtstruct, write_rtstruct

ORIENTATIONS = [made.AXIAL, made.CORONAL, made.SAGITTAL, made.oblique(15, -40, 70)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_contours_lie_where_the_pixels_are(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    spacing = (0.7, 1.3)
    series = find(tmp_path / "in", made.series(4, orientation=orientation, spacing=spacing))
    masks = some_masks(series)
    ds = pydicom.dcmread(write_rtstruct(segmentation(series, masks, ["liver", "cyst"]), tmp_path / "rt.dcm"))
    assert [str(roi.ROIName) for roi in ds.StructureSetROISequence] == ["liver", "cyst"]
    assert {roi.ReferencedFrameOfReferenceUID for roi in ds.StructureSetROISequence} == {series.frame_of_reference_uid}
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for number, roi in enumerate(ds.ROIContourSequence):
        for z, frame in enumerate(series.frames):
            drawn = []
            for contour in roi.ContourSequence:
                if contour.ContourImageSequence[0].ReferencedSOPInstanceUID != frame.sop_instance_uid:
                    continue
                points = np.array(contour.ContourData, float).reshape(-1, 3) - frame.position
                assert np.abs(points @ np.cross(row, column)).max() < 1e-5
                assert contour.NumberOfContourPoints == len(points)
                assert contour.ContourGeometricType == "CLOSED_PLANAR"
                drawn.append(np.c_[points @ row / spacing[1], points @ column / spacing[0]])
            assert (fill_contours(drawn, series.shape[:2]) == masks[number, ..., z]).all()


def test_what_is_told_of_it(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(3, PatientBirthDate=None))
    masks = some_masks(series)
    masks[1] = False
    ds = make_rtstruct(segmentation(series, masks, ["liver", "cyst"]))
    assert (ds.Modality, ds.ApprovalStatus, ds.StructureSetLabel) == ("RTSTRUCT", "UNAPPROVED", "SEGMENTATION")
    assert ds.StructureSetDescription == "Research use only. Not for diagnosis."
    assert ds["PatientBirthDate"].is_empty
    assert ds.PatientName == "Made^Patient"
    # an empty object is an ROI without contours
    assert "ContourSequence" not in ds.ROIContourSequence[1]
    assert ds.ROIContourSequence[0].ROIDisplayColor == [255, 99, 71]
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 3


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(3))
    found = segmentation(series, some_masks(series), ["a", "b"])
    first, second = (write_rtstruct(found, tmp_path / f"{n}.dcm").read_bytes() for n in "12")
    assert first == second


def test_frames_of_one_instance_are_named(tmp_path: Path) -> None:
    series = find(tmp_path / "in", [made.enhanced(3)])
    ds = make_rtstruct(segmentation(series, np.ones((1, *series.shape), bool), ["liver"]))
    contours = ds.ROIContourSequence[0].ContourSequence
    assert [item.ContourImageSequence[0].ReferencedFrameNumber for item in contours] == [1, 2, 3]


def test_what_has_no_place_can_not_be_held(tmp_path: Path) -> None:
    assert can_hold(find(tmp_path / "ct", made.series(2)))
    assert not can_hold(find(tmp_path / "cine", [made.cine(3)]))
    picture = find(tmp_path / "picture", [made.image(made.voxels(1, 6, 8)[0], made.SC, "OT")])
    assert not can_hold(picture)
    with pytest.raises(ValueError, match="without a place"):
        make_rtstruct(segmentation(picture, some_masks(picture), ["a", "b"]))


@pytest.mark.parametrize("orientation", [made.AXIAL, made.oblique(10, 20, 30)])
def test_plastimatch_finds_the_very_mask(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("plastimatch is not installed")
    places = made.positions(6, orientation)
    pixels = made.voxels(6, 24, 20)
    series = find(
        tmp_path / "in", made.series(6, rows=24, columns=20, orientation=orientation, places=places, pixels=pixels)
    )
    x, y, z = np.indices(series.shape)
    distance = np.hypot(x - 9.3, y - 11.8)
    # a ring, so that there is a hole, and a second piece
    mask = (distance > 3.1) & (distance < 7.4) & (z > 0) | ((x > 17) & (y < 2) & (z > 3))
    write_rtstruct(segmentation(series, mask[None], ["liver"]), tmp_path / "rt.dcm")
    command = [program, "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", tmp_path / "in"]
    command += ["--output-prefix", tmp_path / "out", "--prefix-format", "nrrd"]
    subprocess.run(command, capture_output=True, check=True)
    values, _ = nrrd.read(str(tmp_path / "out" / "liver.nrrd"))
    assert ((values > 0) == mask).all()
