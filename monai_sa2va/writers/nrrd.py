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


"""A mask as ``.seg.nrrd``, which 3D Slicer opens as a segmentation: label, colour and all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_sa2va.writers.colours import PALETTE
from monai_sa2va.writers.dicom_object import plain_text
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.nifti import LPS_TO_RAS, named_runs

if TYPE_CHECKING:
    from monai_sa2va.segmentation import Segmentation

__all__ = ["write_nrrd"]

_MAX_NAME = 200


def write_nrrd(
    segmentation: Segmentation, mask: np.ndarray, number: int, stem: Path, overwrite: bool = False
) -> list[Path]:
    """Write one mask, uint8 0 and 1, x first, in LPS and mm where the source says its place.

    Args:
        segmentation: what it belongs to.
        mask: bool, (X, Y) or (X, Y, Z), as :meth:`~monai_sa2va.segmentation.Segmentation.on_source_grid` gives it.
        number: of the object, from 0.
        stem: the file, without its suffix.
        overwrite: whether a file of that name may be replaced.

    Returns:
        The file; of a series at uneven steps those of its evenly spaced runs: ``_part1.seg.nrrd`` and so on.

    Raises:
        OutputError: when a file is there already or can't be written.
    """
    if segmentation.series is None:
        grid = segmentation.source_grid
        lps = None if grid.affine is None else LPS_TO_RAS @ grid.affine
        return [_save(mask, lps, segmentation.labels[number], number, stem, overwrite)]
    volume = mask.reshape(segmentation.series.shape)
    return [
        _save(
            volume[..., run.start : run.stop],
            None if run.in_time else run.affine,
            segmentation.labels[number],
            number,
            name,
            overwrite,
        )
        for name, run in named_runs(segmentation.series, stem)
    ]


def _save(mask: np.ndarray, lps: np.ndarray | None, label: str, number: int, stem: Path, overwrite: bool) -> Path:
    import nrrd

    volume = mask.reshape(*mask.shape, *[1] * (3 - mask.ndim))
    red, green, blue = (value / 255 for value in PALETTE[number % len(PALETTE)])
    header: dict[str, Any] = {"encoding": "gzip", "kinds": ["domain"] * 3}
    if lps is not None:
        header["space"] = "left-posterior-superior"
        header["space directions"] = lps[:3, :3].T
        header["space origin"] = lps[:3, 3]
    header |= {
        "Segment0_ID": "Segment_1",
        "Segment0_Name": plain_text(label, _MAX_NAME),
        "Segment0_Color": f"{red:.6f} {green:.6f} {blue:.6f}",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": " ".join(f"0 {length - 1}" for length in volume.shape),
    }
    target = stem.with_name(f"{stem.name}.seg.nrrd")
    with atomic_path(target, overwrite) as path:
        nrrd.write(str(path), volume.astype(np.uint8), header)
        _remove_clock(path)
    return target


def _remove_clock(path: Path) -> None:
    """Remove the comment in which pynrrd says when it wrote: the same mask gives the same file."""
    header, gap, data = path.read_bytes().partition(b"\n\n")
    lines = [line for line in header.split(b"\n") if not line.startswith(b"# on ")]
    path.write_bytes(b"\n".join(lines) + gap + data)
