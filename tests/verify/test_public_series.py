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


"""Public series with their irregularities: known masks are written, read back and found in their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

from segmented import segmentation

from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import Layout
from monai_sa2va.verify.run import verify_results
from monai_sa2va.writers.results import write_results

FORMATS = ["nifti", "nrrd", "dicom-seg", "rtstruct"]


def _check(source: Path, output: Path) -> list[Layout]:
    layouts = []
    for series in scan(source).series:
        x, y, z = series.shape
        masks = np.zeros((2, x, y, z), bool)
        masks[0, x // 4 : x // 2, y // 3 : y // 2 + 1, z // 3 : z // 2 + 1] = True
        masks[1, x // 3 :, : y // 2, ::2] = True
        name = f"{series.series_uid}_part{series.part}" if series.part > 1 else series.series_uid
        write_results(segmentation(series, masks, ["liver", "left kidney"]), output / series.study_uid / name, FORMATS)
        layouts.append(series.layout)
    for verdict in verify_results(output, [source]):
        assert verdict.problems == [], verdict.folder
        assert verdict.against_source
        assert (verdict.corner_mm or 0.0) < 1e-3
    return layouts


def test_the_tilted_and_unevenly_spaced_head(data_dir: Path, tmp_path: Path) -> None:
    layouts = _check(data_dir / "dicom" / "series" / "ct_head_ge_tilt18_varspacing", tmp_path)
    assert Layout.STACK in layouts
    assert len(list(tmp_path.rglob("liver_part2.nii.gz"))) >= 1
    report = next(tmp_path.rglob("report.json")).read_text()
    assert "PatientBirthDate" in report


@pytest.mark.slow
def test_every_public_series(data_dir: Path, tmp_path: Path) -> None:
    assert len(_check(data_dir / "dicom", tmp_path)) >= 50
