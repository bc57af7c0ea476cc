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


"""A mask as NIfTI: on the grid of a NIfTI or NRRD source to the bit, of a DICOM series by the places of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from monai_sa2va.data.patients import header_texts
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.runs import Run, even_runs

if TYPE_CHECKING:
    from monai_sa2va.dicom.series import DicomSeries
    from monai_sa2va.segmentation import Segmentation

__all__ = ["LPS_TO_RAS", "named_runs", "write_nifti"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""The world of DICOM -> that of NIfTI, and back."""

_SCANNER, _NONE = 1, 0
_SQUARE = 1e-4
# what places a NIfTI in space; the rest of a header may name a patient
_PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def write_nifti(
    segmentation: Segmentation, mask: np.ndarray, stem: Path, overwrite: bool = False, include_patient: bool = False
) -> list[Path]:
    """Write one mask, uint8 0 and 1.

    Of a NIfTI or NRRD source shape, affine and orientation are exactly the source's; of a picture it is (width,
    height) with the identity. Of a DICOM series it is (x, y, z): column, row, frame in the order of positions, with the
    sform of the frames' places; a tilted gantry is a shear in it, and then there is no qform, which can't hold one. A
    cine is (x, y, 1, time). A series at uneven steps gives one file an evenly spaced run.

    Args:
        segmentation: what it belongs to.
        mask: bool, (X, Y) or (X, Y, Z), as :meth:`~monai_sa2va.segmentation.Segmentation.on_source_grid` gives it.
        stem: the file, without its suffix.
        overwrite: whether a file of that name may be replaced.
        include_patient: whether the header gets the texts of a NIfTI source's own.

    Returns:
        The file, or those of the runs: ``_part1.nii.gz`` and so on.

    Raises:
        OutputError: when a file is there already or can't be written.
    """
    if segmentation.series is None:
        return [_save(_on_source(mask, segmentation, include_patient), stem, overwrite)]
    volume = mask.reshape(segmentation.series.shape)
    return [
        _save(_of_run(volume[..., run.start : run.stop], run, segmentation.series), name, overwrite)
        for name, run in named_runs(segmentation.series, stem)
    ]


def named_runs(series: DicomSeries, stem: Path) -> Iterator[tuple[Path, Run]]:
    """The evenly spaced runs of a series, and what their files are called, without suffix."""
    runs = even_runs(series)
    for number, run in enumerate(runs, start=1):
        yield (stem if len(runs) == 1 else stem.with_name(f"{stem.name}_part{number}")), run


def _save(image: Any, stem: Path, overwrite: bool) -> Path:
    target = stem.with_name(f"{stem.name}.nii.gz")
    with atomic_path(target, overwrite) as path:
        nib.save(image, path)
    return target


def _of_run(mask: np.ndarray, run: Run, series: DicomSeries) -> Any:
    data = mask.astype(np.uint8)
    affine = np.eye(4) if run.affine is None else LPS_TO_RAS @ run.affine
    if run.in_time:
        data = data[:, :, None]
    image = nib.Nifti1Image(data, affine)
    if run.affine is not None:
        columns = run.affine[:3, :3] / np.linalg.norm(run.affine[:3, :3], axis=0)
        square = bool(np.abs(columns.T @ columns - np.eye(3)).max() <= _SQUARE)
        image.set_sform(affine, _SCANNER)
        image.set_qform(affine, _SCANNER if square else _NONE)
    image.header.set_xyzt_units(None if run.affine is None else "mm", "sec" if run.in_time else None)
    times = [frame.seconds for frame in series.frames] if run.in_time else []
    if len(times) > 1 and times[0] is not None and times[-1] is not None:
        image.header["pixdim"][4] = (times[-1] - times[0]) / (len(times) - 1)
    return image


def _on_source(mask: np.ndarray, segmentation: Segmentation, include_patient: bool) -> Any:
    data = mask.astype(np.uint8)
    source = segmentation.source_header
    if isinstance(source, nib.Nifti1Header):  # Nifti2Header is one, too
        two = isinstance(source, nib.Nifti2Header)
        header = nib.Nifti2Header() if two else nib.Nifti1Header()
        for field in _PLACE:
            header[field] = source[field]
        for field in header_texts(source) if include_patient else ():
            header[field] = source[field]
        header.set_data_dtype(np.uint8)
        # affine None: the header's own fields stay as they are, to the bit
        image = (nib.Nifti2Image if two else nib.Nifti1Image)(data, None, header)
        return image
    affine = segmentation.source_grid.affine
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    if affine is not None:
        image.header.set_xyzt_units("mm")
    return image
