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

import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("highdicom", reason="highdicom is not installed")

from monai_sa2va.dicom.scan import scan
from monai_sa2va.writers.dicom_seg import write_dicom_seg
from monai_sa2va.writers.masks import write_masks

PLANES, ORDERS = ("axial", "coronal", "sagittal", "oblique"), ("ascending", "descending", "shuffled")
SPACINGS, MODALITIES = ("isotropic", "anisotropic", "non-square"), ("CT", "MR")
SEEDS = st.integers(0, 2**31 - 1)
KINDS = st.tuples(*map(st.sampled_from, (PLANES, ORDERS, SPACINGS, MODALITIES)), SEEDS)


@pytest.fixture(scope="module")
def geometry() -> Any:
    return importlib.import_module("dicom_geometry")


def _in_place(geometry: Any, drawn: tuple[Any, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        voxels, wrong, corner = geometry.check(geometry.Kind(*drawn), Path(folder))
    assert wrong == 0
    assert corner <= 1e-6 or not voxels


@settings(max_examples=50)
@given(drawn=KINDS)
def test_a_mask_drawn_in_the_world_comes_back_in_place(geometry: Any, drawn: tuple[Any, ...]) -> None:
    _in_place(geometry, drawn)


@pytest.mark.slow
@settings(max_examples=1000)
@given(drawn=KINDS)
def test_a_thousand_come_back_in_place(geometry: Any, drawn: tuple[Any, ...]) -> None:
    _in_place(geometry, drawn)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_mask_is_found_out(geometry: Any, tmp_path: Path, axis: int) -> None:
    made = geometry.make(geometry.Kind("oblique", "shuffled", "non-square", "CT", 5))
    (series,) = scan(geometry.write(made, tmp_path / "series")).series
    found = geometry.segment(series, made)
    found.masks[:] = np.flip(found.masks, axis + 1)
    drawn, wrong, _ = geometry.compare(write_dicom_seg(found, tmp_path / "seg.dcm"), made)
    assert drawn > 0
    assert wrong > 0


def test_a_shifted_seg_is_found_out(geometry: Any, tmp_path: Path) -> None:
    import pydicom

    made = geometry.make(geometry.Kind("axial", "ascending", "isotropic", "MR", 6))
    (series,) = scan(geometry.write(made, tmp_path / "series")).series
    path = write_dicom_seg(geometry.segment(series, made), tmp_path / "seg.dcm")
    seg = pydicom.dcmread(path)
    for item in seg.PerFrameFunctionalGroupsSequence:
        position = item.PlanePositionSequence[0]
        position.ImagePositionPatient = [round(float(v) + 0.01, 6) for v in position.ImagePositionPatient]
    seg.save_as(path)
    drawn, wrong, corner = geometry.compare(path, made)
    assert wrong >= drawn > 0
    assert corner == pytest.approx(0.01 * 3**0.5, rel=1e-3)


def test_the_script_says_what_it_found(
    geometry: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dicom_geometry.py", "--n", "2", "--seed", "3"])
    with pytest.raises(SystemExit) as exit_:
        geometry.main()
    assert exit_.value.code == 0
    assert "2 series" in capsys.readouterr().out


def _tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _cases(count: int) -> Iterator[tuple[Any, ...]]:
    """So many kinds, of which every plane, order, spacing and modality is among the first twelve."""
    for number in range(count):
        yield PLANES[number % 4], ORDERS[number % 3], SPACINGS[number // 4 % 3], MODALITIES[number // 2 % 2], number


CASES = [pytest.param(case, marks=[] if case[-1] < 4 else [pytest.mark.slow]) for case in _cases(60)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_other_tools_agree(geometry: Any, tmp_path: Path, case: tuple[Any, ...]) -> None:
    tools = {name: _tool(name) for name in ("segimage2itkimage", "dcm2niix", "dciodvfy", "dcentvfy")}
    made = geometry.make(geometry.Kind(*case))
    (series,) = scan(geometry.write(made, tmp_path / "series")).series
    found = geometry.segment(series, made)
    ((nifti, _, seg, _),) = write_masks(found, tmp_path / "out", ["nifti", "nrrd", "dicom-seg", "rtstruct"])

    _dciodvfy(tools["dciodvfy"], seg)
    _dciodvfy(tools["dciodvfy"], seg.with_name("rtstruct.dcm"))
    _dcentvfy(tools["dcentvfy"], [seg, *sorted((tmp_path / "series").iterdir())])
    _same_grid_as_dcm2niix(tools["dcm2niix"], tmp_path, nifti)
    _same_voxels_as_dcmqi(tools["segimage2itkimage"], tmp_path, seg, nifti)


def _dciodvfy(tool: str, path: Path) -> None:
    told = subprocess.run([tool, "-new", path], capture_output=True, text=True, check=False)
    assert [line for line in told.stderr.splitlines() if line.startswith("Error")] == []


def _dcentvfy(tool: str, paths: list[Path]) -> None:
    told = subprocess.run([tool, *paths], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def _same_grid_as_dcm2niix(tool: str, folder: Path, nifti: Path) -> None:
    (folder / "dcm2niix").mkdir()
    command = [tool, "-z", "n", "-b", "n", "-f", "one", "-o", folder / "dcm2niix", folder / "series"]
    subprocess.run(command, capture_output=True, check=True)
    (path,) = (folder / "dcm2niix").glob("*.nii")
    theirs, ours = nib.load(path), nib.load(nifti)
    assert theirs.shape == ours.shape
    # dcm2niix stores rows from the bottom up, and slices in its own order
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in ours.shape], indexing="ij")).reshape(3, -1).T
    distances = np.linalg.norm(_points(ours.affine, ends)[:, None] - _points(theirs.affine, ends)[None], axis=2)
    assert distances.min(axis=1).max() <= 1e-3
    assert sorted(distances.argmin(axis=1)) == list(range(8))


def _same_voxels_as_dcmqi(tool: str, folder: Path, seg: Path, nifti: Path) -> None:
    (folder / "dcmqi").mkdir()
    command = [tool, "--inputDICOM", seg, "--outputDirectory", folder / "dcmqi", "-t", "nii", "-p", "one"]
    subprocess.run(command, capture_output=True, check=True)
    (path,) = (folder / "dcmqi").glob("*.nii.gz")
    theirs, ours = nib.load(path), nib.load(nifti)
    seen = np.argwhere(np.asanyarray(theirs.dataobj) > 0)
    index = _points(np.linalg.inv(ours.affine) @ theirs.affine, seen)
    assert np.abs(index - index.round()).max(initial=0) <= 1e-3
    assert {tuple(i) for i in index.round().astype(int)} == {
        tuple(i) for i in np.argwhere(np.asanyarray(ours.dataobj) > 0)
    }


def _points(affine: np.ndarray, index: np.ndarray) -> np.ndarray:
    return index @ affine[:3, :3].T + affine[:3, 3]
