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

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
import pydicom
from segmented import find, segmentation, some_masks
from typer.testing import CliRunner

from monai_sa2va.cli.main import app
from monai_sa2va.errors import DataError
from monai_sa2va.verify.run import verify_results
from monai_sa2va.writers.results import write_results

KINDS = {
    "volume": lambda: made.series(5, orientation=made.oblique(10, 20, 30)),
    "uneven": lambda: made.series(5, places=made.positions(5, heights=[0, 1, 2, 5, 8])),
    "enhanced": lambda: [made.enhanced(5)],
    "cine": lambda: [made.cine(4)],
}


def write(folder: Path, kind: str = "volume") -> tuple[Path, Path]:
    """The folder of the sources, and a SEG by itself under a name that nobody should read."""
    series = find(folder / "in", KINDS[kind]())
    found = segmentation(series, some_masks(series), ["liver", "left kidney"])
    write_results(found, folder / "written", ["dicom-seg"])
    (folder / "back").mkdir()
    return folder / "in", (folder / "written" / "seg.dcm").rename(folder / "back" / "DOE_JANE")


def change(seg: Path, what: Callable[[Any], None]) -> None:
    ds = pydicom.dcmread(seg)
    what(ds)
    ds.save_as(seg)


def problems(seg: Path, source: Path) -> list[str]:
    (verdict,) = verify_results(seg.parent, [source])
    assert "DOE" not in verdict.folder + " ".join(verdict.problems)
    return verdict.problems


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_came_back_is_right(tmp_path: Path, kind: str) -> None:
    source, seg = write(tmp_path, kind)
    (verdict,) = verify_results(seg.parent, [source])
    assert verdict.problems == []
    assert verdict.against_source
    assert verdict.folder == pydicom.dcmread(seg).SOPInstanceUID
    assert (verdict.corner_mm is not None) is (kind != "cine")
    assert (verdict.corner_mm or 0.0) < 1e-4


def test_the_command_takes_a_file(tmp_path: Path) -> None:
    source, seg = write(tmp_path)
    done = CliRunner().invoke(app, ["verify", str(seg), "--source", str(source)])
    assert done.exit_code == 0, done.output
    assert "1 of 1 results verified, 1 against their sources" in done.output


def test_a_seg_that_was_moved_is_told(tmp_path: Path) -> None:
    source, seg = write(tmp_path)

    def move(ds: Any) -> None:
        for group in ds.PerFrameFunctionalGroupsSequence:
            place = group.PlanePositionSequence[0]
            place.ImagePositionPatient = [place.ImagePositionPatient[0] + 0.5, *place.ImagePositionPatient[1:]]

    change(seg, move)
    assert problems(seg, source) == [f"segment {n}: a corner is 0.5 mm off its place" for n in (1, 2)]


def _other_frame(ds: Any) -> None:
    image = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"), "it is in another study than its source"),
        (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), "segment 1 is in another frame of reference"),
        (lambda ds: setattr(ds, "SegmentationType", "FRACTIONAL"), "only binary, uncompressed SEGs"),
        (lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))), "segment 1 has no voxels"),
        (lambda ds: setattr(ds.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3"), "series 1.2.3, is not in"),
        (lambda ds: delattr(ds, "ReferencedSeriesSequence"), "the SEG can't be read: AttributeError"),
        (_other_frame, "the SEG refers to the frame 1.2.3"),
    ],
)
def test_what_was_changed_is_told(tmp_path: Path, what: Callable[[Any], None], told: str) -> None:
    source, seg = write(tmp_path)
    change(seg, what)
    assert told in problems(seg, source)[0]


def test_without_its_series_nothing_can_be_said(tmp_path: Path) -> None:
    _, seg = write(tmp_path)
    with pytest.raises(DataError, match="give its series with --source"):
        list(verify_results(seg.parent))
