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

"""Images other than CT and MR: each is segmented with the right geometry, or left out with a code."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")
pytest.importorskip("contourpy", reason="contourpy is not installed")

import made
import nibabel
import pydicom
from pydicom import Dataset
from segmented import find, segmentation, some_masks

from monai_sa2va.dicom.findings import FindingCode, Severity
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import Layout
from monai_sa2va.writers.dicom_seg import write_dicom_seg
from monai_sa2va.writers.masks import write_masks
from monai_sa2va.writers.rtstruct import make_rtstruct

STORAGE = "1.2.840.10008.5.1.4.1.1."
ORIGIN, STEP = (-20.0, -30.0, 40.0), 2.5


def _frames(sop_class: str, modality: str, frames: int = 5, **more: Any) -> Dataset:
    return made.image(made.voxels(frames, 6, 8), STORAGE + sop_class, modality, modality, **more)


def _nuclear(kind: str, slots: int = 1, step: float = STEP, **detector: Any) -> Dataset:
    """Five slices a time slot, whose places the detector says."""
    item = Dataset()
    item.ImagePositionPatient, item.ImageOrientationPatient = list(ORIGIN), list(made.AXIAL)
    for keyword, value in detector.items():
        setattr(item, keyword, value)
    return _frames(
        "20",
        "NM",
        5 * slots,
        spacing=(0.75, 0.5),
        ImageType=["ORIGINAL", "PRIMARY", kind, "EMISSION"],
        DetectorInformationSequence=[item],
        SliceVector=list(range(1, 6)) * slots,
        SpacingBetweenSlices=step,
        **({"TimeSlotVector": np.repeat(range(1, slots + 1), 5).tolist()} if slots > 1 else {}),
    )


def _placed(sop_class: str, modality: str) -> Dataset:
    ds = made.enhanced(name=modality, Modality=modality)
    ds.SOPClassUID = STORAGE + sop_class
    return made.with_meta(ds)


def _pet() -> list[Dataset]:
    pet = {"sop_class": STORAGE + "128", "Modality": "PT", "RescaleIntercept": 0}
    return made.series(**pet, each=lambda z: {"RescaleSlope": 1 + z})


def _picture(sop_class: str, modality: str) -> list[Dataset]:
    return [made.image(made.voxels(1, 6, 8)[0], STORAGE + sop_class, modality, ImagerPixelSpacing=[0.1, 0.1])]


KINDS: dict[str, tuple[Callable[[], list[Dataset]], list[tuple[Layout, tuple[int, int, int]]]]] = {
    "PET": (_pet, [(Layout.VOLUME, (8, 6, 5))]),
    "NM, reconstructed": (lambda: [_nuclear("RECON TOMO")], [(Layout.VOLUME, (8, 6, 5))]),
    "NM, gated": (lambda: [_nuclear("RECON GATED TOMO", 2)], [(Layout.VOLUME, (8, 6, 5))] * 2),
    "NM, projections": (lambda: [_nuclear("TOMO")], [(Layout.STACK, (8, 6, 5))]),
    "NM, whole body": (lambda: [_frames("20", "NM", 2)], [(Layout.STACK, (8, 6, 2))]),
    "NM, one image": (lambda: [_frames("20", "NM", 1)], [(Layout.PICTURE, (8, 6, 1))]),
    "enhanced US volume": (lambda: [_frames("6.2", "US")], [(Layout.STACK, (8, 6, 5))]),
    "tomosynthesis": (lambda: [_placed("13.1.3", "MG")], [(Layout.VOLUME, (8, 6, 5))]),
    "mammogram": (lambda: _picture("1.2", "MG"), [(Layout.PICTURE, (8, 6, 1))]),
    "DX": (lambda: _picture("1.1", "DX"), [(Layout.PICTURE, (8, 6, 1))]),
    "CR": (lambda: _picture("1", "CR"), [(Layout.PICTURE, (8, 6, 1))]),
    "RT image": (lambda: _picture("481.1", "RTIMAGE"), [(Layout.PICTURE, (8, 6, 1))]),
    "OP": (lambda: _picture("77.1.5.1", "OP"), [(Layout.PICTURE, (8, 6, 1))]),
    "OPT, placed": (lambda: [_placed("77.1.5.4", "OPT")], [(Layout.VOLUME, (8, 6, 5))]),
    "OPT, without a place": (lambda: [_frames("77.1.5.4", "OPT")], [(Layout.STACK, (8, 6, 5))]),
    "IVOCT": (lambda: [_frames("14.1", "IVOCT")], [(Layout.STACK, (8, 6, 5))]),
    "captured film": (lambda: [_frames("7.3", "OT")], [(Layout.CINE, (8, 6, 5))]),
    "XA": (lambda: [_frames("12.1", "XA")], [(Layout.CINE, (8, 6, 5))]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_segmented_on_its_own_frames(tmp_path: Path, kind: str) -> None:
    make, expected = KINDS[kind]
    found = scan(made.write(tmp_path / "in", make()))
    assert [(series.layout, series.shape) for series in found.series] == expected
    assert found.left_out == found.files == ()
    for number, series in enumerate(found.series):
        masks = some_masks(series)
        result = segmentation(series, masks, ["liver", "cyst"])
        path = write_dicom_seg(result, tmp_path / f"{number}.dcm")
        seg, seen = pydicom.dcmread(path), 0
        bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
        size = seg.Rows * seg.Columns
        by_number = {(frame.sop_instance_uid, frame.number): z for z, frame in enumerate(series.frames)}
        for n, item in enumerate(seg.PerFrameFunctionalGroupsSequence):
            source = item.DerivationImageSequence[0].SourceImageSequence[0]
            z = by_number[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1)]
            group = item if "SegmentIdentificationSequence" in item else seg.SharedFunctionalGroupsSequence[0]
            segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            mask = bits[n * size : (n + 1) * size].reshape(seg.Rows, seg.Columns).astype(bool)
            assert (mask == masks[segment - 1, ..., z].T).all()
            assert ("PlanePositionSequence" in item) == (series.frames[z].position is not None)
            seen += 1
        assert seen == sum(bool(masks[n, ..., z].any()) for n in range(2) for z in range(series.shape[2]))
        contents = [item.FrameContentSequence[0] for item in seg.PerFrameFunctionalGroupsSequence]
        values = [tuple(np.atleast_1d(content.DimensionIndexValues)) for content in contents]
        assert len(set(values)) == len(values)
        if shutil.which("dciodvfy") is not None:
            told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
            assert [line for line in told.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize(("step", "first"), [(STEP, 0), (-STEP, 4)])
def test_slices_of_a_nuclear_tomography_lie_where_the_standard_puts_them(
    tmp_path: Path, step: float, first: int
) -> None:
    series = find(tmp_path / "in", [_nuclear("RECON TOMO", step=step)])
    assert [frame.number for frame in series.frames] == ([1, 2, 3, 4, 5] if first == 0 else [5, 4, 3, 2, 1])
    lowest = ORIGIN[2] + first * step
    assert series.affine is not None
    np.testing.assert_allclose(
        series.affine, [[0.5, 0, 0, -20], [0, 0.75, 0, -30], [0, 0, 2.5, lowest], [0, 0, 0, 1]], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("lacking", [{"SliceVector": None}, {"SpacingBetweenSlices": None}])
def test_a_tomography_that_does_not_say_all_of_it_has_no_place(tmp_path: Path, lacking: dict[str, Any]) -> None:
    ds = _nuclear("RECON TOMO")
    for keyword in lacking:
        delattr(ds, keyword)
    series = find(tmp_path / "in", [ds])
    assert series.layout is Layout.STACK
    (finding,) = [one for one in series.findings if one.severity is Severity.WARNING]
    assert finding.code is FindingCode.MISSING_POSITION


def test_frames_without_a_place_are_one_nifti_without_a_place(tmp_path: Path) -> None:
    series = find(tmp_path / "in", [_frames("6.2", "US")])
    masks = some_masks(series, 1)
    (files,) = write_masks(segmentation(series, masks, ["liver"]), tmp_path, ["nifti", "nrrd"])
    assert [path.name for path in files] == ["liver.nii.gz", "liver.seg.nrrd"]
    image = nibabel.load(files[0])
    assert (np.asarray(image.dataobj) == masks[0]).all()
    # no scanner's
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (2, 0)
    assert (image.affine == np.eye(4)).all()


def test_one_frame_of_several_is_referred_to_by_its_number(tmp_path: Path) -> None:
    """A two-frame file of a single-frame class, whose frames are the same, so that one is segmented."""
    pixels = np.repeat(made.voxels(1, 6, 8), 2, axis=0)
    ds = made.image(pixels, position=(0, 0, 0), orientation=made.AXIAL, spacing=(1, 1), bits_stored=12)
    series = find(tmp_path / "in", [ds])
    assert series.shape == (8, 6, 1)
    assert (FindingCode.MULTI_FRAME, Severity.HANDLED) in {(one.code, one.severity) for one in series.findings}
    result = segmentation(series, np.ones((1, *series.shape), bool), ["liver"])
    seg = pydicom.dcmread(write_dicom_seg(result, tmp_path / "seg.dcm"))
    source = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert (source.ReferencedFrameNumber, seg.SourceImageSequence[0].ReferencedFrameNumber) == (1, 1)
    contour = make_rtstruct(result).ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 1


def test_all_frames_of_an_instance_need_no_number(tmp_path: Path) -> None:
    series = find(tmp_path / "in", [made.enhanced(5)])
    seg = pydicom.dcmread(
        write_dicom_seg(segmentation(series, some_masks(series), ["liver", "cyst"]), tmp_path / "seg.dcm")
    )
    assert "ReferencedFrameNumber" not in seg.SourceImageSequence[0]


@pytest.mark.parametrize(
    ("sop_class", "modality", "code"),
    [
        ("481.2", "RTDOSE", FindingCode.NOT_AN_IMAGE),
        ("77.1.6", "SM", FindingCode.NOT_AN_IMAGE),
        ("30", "MR", FindingCode.DERIVED),
        ("7.2", "CT", FindingCode.DERIVED),
    ],
)
def test_what_is_no_image_to_segment(tmp_path: Path, sop_class: str, modality: str, code: FindingCode) -> None:
    found = scan(made.write(tmp_path / "in", [_frames(sop_class, modality)]))
    assert found.series == ()
    assert [(one.finding.code, one.finding.severity) for one in found.left_out] == [(code, Severity.SKIPPED)]


@pytest.mark.parametrize(("sop_class", "modality"), [("2.1", "CT"), ("4.1", "MR"), ("130", "PT"), ("2", "CT")])
def test_several_slices_of_a_volume_without_a_place_are_refused(tmp_path: Path, sop_class: str, modality: str) -> None:
    found = scan(made.write(tmp_path / "in", [_frames(sop_class, modality)]))
    assert found.series == ()
    (left_out,) = found.left_out
    assert (left_out.finding.code, left_out.finding.severity) == (FindingCode.MISSING_POSITION, Severity.REFUSED)
