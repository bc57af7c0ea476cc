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

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'monai-sa2va[dicom]'")
import made

from monai_sa2va.data.read_image import read_image
from monai_sa2va.errors import DataError
from monai_sa2va.label.dicom_seg import label_to_dicom_seg, on_grid, raw_label

INFO = [{"name": "liver", "idx": 2}, {"name": "spine", "idx": 1}]


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return made.write(tmp_path / "series", made.series())


def _label(series: Path, path: Path, flips: Sequence[int] = (), order: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """A label map of the series, its axes turned; on the series' own grid."""
    grid = read_image(series).grid
    values = np.zeros((*grid.shape, 1)[:3], np.uint8)
    values[1:3, 2:5, 1] = 1
    values[3:5, 1:3, 2:4] = 2
    turned, affine = values.transpose(order), np.array(grid.affine)[:, [*order, 3]]
    for axis in flips:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
        affine[:3, axis] *= -1
    nib.save(nib.Nifti1Image(np.flip(turned, flips), affine), path)
    return values


@pytest.mark.parametrize("flips", [(), (0,), (0, 1), (2,), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_label_stored_otherwise_is_the_same(
    series: Path, tmp_path: Path, flips: Sequence[int], order: Sequence[int]
) -> None:
    values = _label(series, tmp_path / "label.nii.gz", flips, order)
    np.testing.assert_array_equal(on_grid(tmp_path / "label.nii.gz", read_image(series)), values)


def test_the_seg_holds_the_segments_with_their_names(series: Path, tmp_path: Path) -> None:
    import highdicom

    values = _label(series, tmp_path / "label.nii.gz", (0, 1))
    seg = highdicom.seg.segread(label_to_dicom_seg(str(series), str(tmp_path / "label.nii.gz"), INFO, use_itk=True))
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["spine", "liver"]
    found = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    assert sorted(np.unique(found.array, return_counts=True)[1][1:].tolist()) == sorted(
        [int((values == 1).sum()), int((values == 2).sum())]
    )


def test_what_lies_elsewhere_or_is_empty_is_refused(series: Path, tmp_path: Path) -> None:
    source = read_image(series)
    shape = (*source.grid.shape, 1)[:3]
    moved = np.array(source.grid.affine)
    moved[0, 3] += 1.0
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(DataError, match="doesn't lie on the grid"):
        label_to_dicom_seg(str(series), str(tmp_path / "moved.nii.gz"))
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), source.grid.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(DataError, match="the label is empty"):
        label_to_dicom_seg(str(series), str(tmp_path / "empty.nii.gz"))


@pytest.mark.parametrize("count", [0, 7, 1000])
def test_bare_values_of_another_number_are_refused(tmp_path: Path, count: int) -> None:
    from monai_sa2va.label.repair import repair_pydicom

    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    repair_pydicom()
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), np.eye(4)), tmp_path / "image.nii.gz")
    (tmp_path / "label.bin").write_bytes(bytes(count))
    with pytest.raises(DataError, match="more or fewer values"):
        raw_label(str(tmp_path / "image.nii.gz"), str(tmp_path / "label.bin"))
