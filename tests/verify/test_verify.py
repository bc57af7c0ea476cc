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

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
import pydicom
from segmented import find, segmentation, some_masks

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.verify.run import verify_results
from monai_sa2va.writers.provenance import file_hash
from monai_sa2va.writers.results import write_results

FORMATS = ["nifti", "nrrd", "dicom-seg", "rtstruct"]
KINDS = {
    "volume": lambda: made.series(5, orientation=made.oblique(10, 20, 30)),
    "tilted": lambda: made.series(5, places=made.positions(5, shear=(0.0, 0.3))),
    "uneven": lambda: made.series(5, places=made.positions(5, heights=[0, 1, 2, 5, 8])),
    "thick": lambda: made.series(5, places=made.positions(5, heights=[0, 10, 20.09, 30, 40])),
    "enhanced": lambda: [made.enhanced(5)],
    "cine": lambda: [made.cine(4)],
    "picture": lambda: [made.image(made.voxels(1, 6, 8)[0], made.SC, "OT")],
    "slice": lambda: made.series(1),
}


def write(folder: Path, kind: str = "volume") -> tuple[Path, Path]:
    """The folder of the sources, and that of the results of two objects."""
    series = find(folder / "in", KINDS[kind]())
    found = segmentation(series, some_masks(series), ["liver", "left kidney"])
    write_results(found, folder / "out" / series.study_uid / series.series_uid, FORMATS)
    return folder / "in", folder / "out"


def problems(output: Path, *sources: Path) -> list[str]:
    (verdict,) = verify_results(output, sources)
    return verdict.problems


def rewrite(output: Path, name: str, change: Callable[[Path], None]) -> None:
    """Change a file, and its hash in the report with it."""
    (path,) = output.rglob(name)
    change(path)
    report = path.with_name("report.json")
    told = json.loads(report.read_text())
    told["sha256"][name] = file_hash(path)
    report.write_text(json.dumps(told))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_was_written_is_right(tmp_path: Path, kind: str) -> None:
    source, output = write(tmp_path, kind)
    (alone,), (beside,) = verify_results(output), verify_results(output, [source])
    assert (alone.problems, beside.problems) == ([], [])
    assert (alone.against_source, beside.against_source) == (False, True)
    placed = kind not in ("cine", "picture")
    assert (beside.corner_mm is not None) is placed
    # thick slices count as even where they are a hundredth of a step off, and one matrix places them
    assert (beside.corner_mm or 0.0) < (0.1 if kind == "thick" else 1e-4)
    assert beside.files == len(json.loads(next(output.rglob("report.json")).read_text())["sha256"])


def test_a_tolerance_that_is_asked_for_holds_for_all_formats(tmp_path: Path) -> None:
    source, output = write(tmp_path, "thick")
    (verdict,) = verify_results(output, [source], 0.05)
    assert [problem.split(" is ")[0] for problem in verdict.problems] == [
        f"{label}: a corner of the {kind}" for label in ("liver", "left kidney") for kind in ("NIfTI", "NRRD")
    ]


def test_a_missing_pydicom_is_no_fault_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, output = write(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pydicom" else found(name, *more)
    )
    with pytest.raises(ConfigError, match=r"needs pydicom; install monai-sa2va\[dicom\]"):
        list(verify_results(output))


def _move(image: Path) -> None:
    loaded = nib.load(image)
    affine = loaded.affine.copy()
    affine[0, 3] += 0.5
    nib.save(nib.Nifti1Image(np.asanyarray(loaded.dataobj), affine), image)


def _mirror(image: Path) -> None:
    loaded = nib.load(image)
    nib.save(nib.Nifti1Image(np.asanyarray(loaded.dataobj)[::-1], loaded.affine, loaded.header), image)


def _forget(image: Path) -> None:
    loaded = nib.load(image)
    loaded.header["sform_code"] = loaded.header["qform_code"] = 0
    nib.save(nib.Nifti1Image(np.asanyarray(loaded.dataobj), None, loaded.header), image)


def _turn(image: Path) -> None:
    values, header = nrrd.read(str(image))
    nrrd.write(str(image), np.flip(values, 2), header)


def _seg(change: Callable[[pydicom.Dataset], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        ds = pydicom.dcmread(path)
        change(ds)
        ds.save_as(path)

    return apply


def _shift_seg(ds: pydicom.Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        position = item.PlanePositionSequence[0]
        position.ImagePositionPatient = [round(float(value) + 0.2, 4) for value in position.ImagePositionPatient]


def _stretch_seg(ds: pydicom.Dataset) -> None:
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.75, 0.6]


def _turn_seg(ds: pydicom.Dataset) -> None:
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = list(made.AXIAL)


def _other_world(ds: pydicom.Dataset) -> None:
    ds.FrameOfReferenceUID = "1.2.3"


def _swap_frames(ds: pydicom.Dataset) -> None:
    first, second = ds.PerFrameFunctionalGroupsSequence[:2]
    first.DerivationImageSequence, second.DerivationImageSequence = (
        second.DerivationImageSequence,
        first.DerivationImageSequence,
    )


def _flip_a_bit(ds: pydicom.Dataset) -> None:
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


def _move_contours(ds: pydicom.Dataset) -> None:
    for contour in ds.ROIContourSequence[0].ContourSequence:
        contour.ContourData = [round(float(value) + 0.3, 5) for value in contour.ContourData]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("liver.nii.gz", _move, "a corner of the NIfTI is 0.5 mm off its place"),
        ("liver.nii.gz", _mirror, "SEG and NIfTI differ in"),
        ("liver.nii.gz", _forget, "the NIfTI has no place, though its source has one"),
        ("left_kidney.seg.nrrd", _turn, "SEG and NRRD differ in"),
        ("seg.dcm", _seg(_shift_seg), "a corner of the SEG is 0.3464 mm off its place"),
        ("seg.dcm", _seg(_stretch_seg), "a corner of the SEG is 0.7 mm off its place"),
        ("seg.dcm", _seg(_turn_seg), "a corner of the SEG is"),
        ("seg.dcm", _seg(_other_world), "the SEG is in another frame of reference"),
        ("seg.dcm", _seg(_swap_frames), "a corner of the SEG is 2.5 mm off its place"),
        ("seg.dcm", _seg(_flip_a_bit), "liver: the SEG has"),
        ("rtstruct.dcm", _seg(_move_contours), "a corner of the RTSTRUCT is"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, name: str, change: Callable[[Path], None], told: str) -> None:
    source, output = write(tmp_path)
    rewrite(output, name, change)
    assert any(told in problem for problem in problems(output, source)), problems(output, source)
    if "frame of reference" not in told:
        # the other formats tell as much without the source
        assert problems(output) != []


def test_files_that_were_changed_or_lost(tmp_path: Path) -> None:
    _, output = write(tmp_path)
    (seg,), (picture,) = output.rglob("seg.dcm"), output.rglob("overview.png")
    seg.write_bytes(seg.read_bytes()[:-1] + b"\x01")
    picture.unlink()
    assert problems(output) == ["seg.dcm was changed since it was written", "overview.png is missing"]


def test_a_source_that_changed_or_is_elsewhere(tmp_path: Path) -> None:
    source, output = write(tmp_path)
    (tmp_path / "none").mkdir()
    assert "is not in the folders of --source" in problems(output, tmp_path / "none")[0]
    (source / "0004.dcm").unlink()
    assert problems(output, source) == [
        "the source's frames changed since it was segmented",
        "the source's size changed since it was segmented",
    ]


def test_results_of_a_nifti(tmp_path: Path) -> None:
    from dataclasses import replace

    series = find(tmp_path / "in", made.series(3))
    found = replace(segmentation(series, some_masks(series), ["a", "b"]), series=None)
    write_results(found, tmp_path / "out" / "scan", ["nifti", "nrrd"])
    assert problems(tmp_path / "out") == []
    rewrite(tmp_path / "out", "a.nii.gz", lambda path: nib.save(nib.Nifti1Image(np.ones((8, 6, 3)), np.eye(4)), path))
    assert problems(tmp_path / "out")[0].startswith("a: the NIfTI has 144 voxels, report.json says")


def test_a_damaged_report_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    _, output = write(tmp_path)
    next(output.rglob("report.json")).write_text("{}")
    assert problems(output) == ["a file can't be read: KeyError: 'sha256'"]


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no report\.json in it"):
        list(verify_results(tmp_path))
    with pytest.raises(DataError, match="there is no folder 'none'"):
        list(verify_results(tmp_path / "none"))


def test_half_written_folders_are_no_results(tmp_path: Path) -> None:
    _, output = write(tmp_path)
    (folder,) = (path.parent for path in output.rglob("report.json"))
    shutil.copytree(folder, folder.with_name(".half"))
    assert len(list(verify_results(output))) == 1


def test_no_torch_is_needed(tmp_path: Path) -> None:
    source, output = write(tmp_path)
    code = (
        "import pathlib, sys; from monai_sa2va.verify.run import verify_results as v; "
        "assert not next(iter(v(pathlib.Path(sys.argv[1]), [pathlib.Path(sys.argv[2])]))).problems; "
        "print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code, output, source], capture_output=True, text=True, check=True)
    assert told.stdout == "False False\n"
