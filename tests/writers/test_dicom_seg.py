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

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import highdicom
import made
import pydicom
from segmented import find, segmentation, some_masks

from monai_sa2va.dicom.findings import FindingCode, Severity
from monai_sa2va.dicom.series import Layout
from monai_sa2va.dicom.values import quiet_pydicom
from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.writers.dicom_object import content_time, context_findings, plain_text, read_header, source_time
from monai_sa2va.writers.dicom_seg import make_dicom_seg, write_dicom_seg
from monai_sa2va.writers.rtstruct import write_rtstruct

LABELS = ["liver", "left kidney"]


def mixed() -> list[pydicom.Dataset]:
    places = made.positions(5, heights=[0, 1, 2, 5, 8])
    return made.series(5, places=places, name="uneven")


KINDS: dict[str, Callable[[], list[pydicom.Dataset]]] = {
    "volume": lambda: made.series(5),
    "tilted": lambda: made.series(5, places=made.positions(5, shear=(0.0, 0.3))),
    "uneven": mixed,
    "enhanced": lambda: [made.enhanced(5)],
    "cine": lambda: [made.cine(4)],
    "colour": lambda: [made.image(np.zeros((6, 8, 3), np.uint8), made.SC, "OT", "colour")],
    "picture": lambda: [made.image(made.voxels(1, 6, 8)[0], made.SC, "OT", "picture")],
    "slice": lambda: made.series(1),
}


def frames_of(seg: Any) -> dict[tuple[int, int], np.ndarray]:
    """(rows, columns) bool of each frame, by segment and by number among the frames of the source."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    size = seg.Rows * seg.Columns
    found = {}
    for number, item in enumerate(seg.PerFrameFunctionalGroupsSequence):
        group = item if "SegmentIdentificationSequence" in item else shared
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        key = (source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1))
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        mask = bits[number * size : (number + 1) * size].reshape(seg.Rows, seg.Columns)
        found[segment, key] = mask.astype(bool)
    return found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_voxel_is_on_the_frame_it_was_found_on(tmp_path: Path, kind: str) -> None:
    series = find(tmp_path / "in", KINDS[kind]())
    masks = some_masks(series)
    path = write_dicom_seg(segmentation(series, masks, LABELS), tmp_path / "seg.dcm")
    seg = pydicom.dcmread(path)
    found = frames_of(seg)
    for segment in (1, 2):
        for z, frame in enumerate(series.frames):
            mask = found.pop((segment, (frame.sop_instance_uid, frame.number)), np.zeros((seg.Rows, seg.Columns), bool))
            assert (mask == masks[segment - 1, ..., z].T).all()
    assert found == {}


def test_the_place_of_each_frame_is_the_sources_own(tmp_path: Path) -> None:
    orientation = made.oblique(20, -35, 10)
    places = made.positions(4, orientation, (-101.5, 33.25, 7.125), 3.0)
    series = find(tmp_path / "in", made.series(4, orientation=orientation, places=places, spacing=(0.7, 1.1)))
    seg = make_dicom_seg(segmentation(series, np.ones((1, *series.shape), bool), ["liver"]))
    shared = seg.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, orientation, rtol=0, atol=1e-9
    )
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.7, 1.1]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 2.5
    assert float(shared.PixelMeasuresSequence[0].SpacingBetweenSlices) == pytest.approx(3.0, abs=1e-9)
    written = [i.PlanePositionSequence[0].ImagePositionPatient for i in seg.PerFrameFunctionalGroupsSequence]
    np.testing.assert_allclose(np.array(written, float), places, rtol=0, atol=1e-7)
    assert [list(i.FrameContentSequence[0].DimensionIndexValues) for i in seg.PerFrameFunctionalGroupsSequence] == [
        [1, 1], [1, 2], [1, 3], [1, 4],
    ]  # fmt: skip
    assert seg.FrameOfReferenceUID == series.frame_of_reference_uid


def test_orientations_that_differ_are_told_frame_by_frame(tmp_path: Path) -> None:
    turned = made.oblique(0, 0, 0.001)
    series = find(tmp_path / "in", made.series(3, each=lambda z: {"orientation": turned if z == 1 else made.AXIAL}))
    assert series.layout is Layout.VOLUME
    seg = make_dicom_seg(segmentation(series, np.ones((1, *series.shape), bool), ["liver"]))
    assert "PlaneOrientationSequence" not in seg.SharedFunctionalGroupsSequence[0]
    ways = [i.PlaneOrientationSequence[0].ImageOrientationPatient for i in seg.PerFrameFunctionalGroupsSequence]
    np.testing.assert_allclose(np.array(ways, float)[1], turned, rtol=0, atol=1e-9)


def test_a_cine_counts_frames_in_time(tmp_path: Path) -> None:
    series = find(tmp_path / "in", [made.cine(4)])
    masks = np.zeros((1, *series.shape), bool)
    masks[..., [1, 3]] = True
    seg = make_dicom_seg(segmentation(series, masks, ["liver"]))
    items = seg.PerFrameFunctionalGroupsSequence
    assert [int(item.FrameContentSequence[0].TemporalPositionIndex) for item in items] == [2, 4]
    sources = [item.DerivationImageSequence[0].SourceImageSequence[0] for item in items]
    assert [source.ReferencedFrameNumber for source in sources] == [2, 4]
    assert "FrameOfReferenceUID" not in seg
    assert all("PlanePositionSequence" not in item for item in items)


def test_an_empty_result_is_a_valid_seg(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(5))
    path = write_dicom_seg(segmentation(series, np.zeros((2, *series.shape), bool), LABELS), tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(path)
    assert seg.NumberOfFrames == 2
    assert seg.get_segment_numbers(segment_label="liver") == [1]
    assert not np.unpackbits(np.frombuffer(seg.PixelData, np.uint8)).any()


def test_all_frames_where_asked_for(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(5))
    found = segmentation(series, some_masks(series), LABELS)
    assert make_dicom_seg(found, omit_empty_frames=False).NumberOfFrames == 10
    assert make_dicom_seg(found).NumberOfFrames == 9


def test_what_is_told_of_a_segment(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(3))
    found = segmentation(series, some_masks(series), ["liver", "left kidney"])
    seg = make_dicom_seg(found, checkpoint="ab" * 32)
    first, second = seg.SegmentSequence
    assert (seg.SegmentationType, seg.SegmentsOverlap) == ("BINARY", "YES")
    assert seg.ContentDescription == "Research use only. Not for diagnosis."
    assert (first.SegmentLabel, first.SegmentAlgorithmType, first.SegmentAlgorithmName) == (
        "liver", "AUTOMATIC", "monai-sa2va",
    )  # fmt: skip
    assert first.SegmentDescription == (
        "Presence 0.9000. Research use only. Not for diagnosis. Prompt: Segment the liver."
    )
    parameters = first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert parameters == (f"prompt=Segment the liver.,presence=0.9000,presence_threshold=0.1000,checkpoint={'ab' * 32}")
    assert first.TrackingID == "liver"
    assert first.TrackingUID != second.TrackingUID
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    kind = second.SegmentedPropertyTypeCodeSequence[0]
    assert kind.CodeMeaning == "Kidney"
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series.series_uid
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 3


def test_long_and_odd_labels_fit(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(3))
    label = "the very long name of a structure \\ with a line\nbreak, and much more of it Größe"
    (segment,) = make_dicom_seg(segmentation(series, some_masks(series, 1), [label])).SegmentSequence
    assert segment.SegmentLabel == "the very long name of a structure with a line break, and much..."
    assert len(segment.SegmentLabel) <= 64
    assert plain_text("\n", 64) == "object"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(3))
    found = segmentation(series, some_masks(series), LABELS)
    first = write_dicom_seg(found, tmp_path / "1.dcm", checkpoint="a")
    assert first.read_bytes() == write_dicom_seg(found, tmp_path / "2.dcm", checkpoint="a").read_bytes()
    other = pydicom.dcmread(write_dicom_seg(found, tmp_path / "3.dcm", checkpoint="b"))
    assert other.SOPInstanceUID != pydicom.dcmread(first).SOPInstanceUID
    assert (other.ContentDate, other.ContentTime) == ("20200102", "030405")
    dated = make_dicom_seg(found, created=datetime(2026, 7, 25, 12, 30, 1))
    assert [str(dated[name].value) for name in ("ContentDate", "ContentTime")] == ["20260725", "123001"]


def test_what_the_source_lacks_is_empty_not_invented(tmp_path: Path) -> None:
    lacking = {"PatientBirthDate": None, "StudyID": None, "PatientSex": None}
    series = find(tmp_path / "in", made.series(3, **lacking))
    seg = make_dicom_seg(segmentation(series, some_masks(series), LABELS))
    assert all(seg[name].is_empty for name in lacking)
    assert seg.PatientName == "Made^Patient"
    (finding,) = context_findings(read_header(series.frames[0].file))
    assert (finding.code, finding.severity) == (FindingCode.MISSING_ATTRIBUTE, Severity.WARNING)
    assert "lacks PatientBirthDate, PatientSex, StudyID" in finding.message
    assert context_findings(read_header(find(tmp_path / "whole", made.series(1)).frames[0].file)) == ()


def test_texts_become_unicode(tmp_path: Path) -> None:
    def odd(ds: pydicom.Dataset) -> pydicom.Dataset:
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientName = "Müller^Jörg"
        return ds

    series = find(tmp_path / "in", [odd(ds) for ds in made.series(3)])
    path = write_dicom_seg(segmentation(series, some_masks(series), LABELS), tmp_path / "seg.dcm")
    seg = pydicom.dcmread(path)
    assert (str(seg.PatientName), seg.SpecificCharacterSet) == ("Müller^Jörg", "ISO_IR 192")


def test_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    header = pydicom.Dataset()
    header.StudyDate, header.StudyTime = "20210304", "101112.5"
    assert content_time(header, None) == source_time(header) == ("20210304", "101112")
    with quiet_pydicom():
        header.SeriesDate, header.SeriesTime = "2021", "101112"
        # a day of no calendar
        header.ContentDate, header.ContentTime = "20210231", "101112"
    assert content_time(header, None) == ("20210304", "101112")
    # a day without a time is none: midnight would be made up
    header.StudyTime = ""
    assert source_time(header) is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764000000")
    assert content_time(header, None) == ("20251124", "16")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is 'yesterday'; give whole seconds"):
        content_time(header, None)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    date, hour = content_time(header, None)
    written = datetime.strptime(date + hour, "%Y%m%d%H")
    assert timedelta(0) <= datetime.now() - written < timedelta(hours=2)


def test_what_has_no_date_is_told_and_gets_none_that_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undated = dict.fromkeys(
        [f"{of}{what}" for of in ("Study", "Series", "Content", "Acquisition") for what in ("Date", "Time")]
    )
    series = find(tmp_path / "in", made.series(2, **{**undated, "StudyDate": "", "StudyTime": ""}))
    found = segmentation(series, some_masks(series), LABELS)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764000000")
    first = pydicom.dcmread(write_dicom_seg(found, tmp_path / "1.dcm"))
    assert (first.ContentDate, first.ContentTime, first.StudyDate) == ("20251124", "16", "")
    assert "ContributionDateTime" not in str(first)
    assert (tmp_path / "1.dcm").read_bytes() == write_dicom_seg(found, tmp_path / "2.dcm").read_bytes()
    # written at another hour it is another object
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764003600")
    assert make_dicom_seg(found).SOPInstanceUID != first.SOPInstanceUID
    (finding,) = context_findings(read_header(series.frames[0].file))
    assert finding.code is FindingCode.MISSING_ATTRIBUTE
    assert "ContentTime are the day and the hour of writing" in finding.message
    told = pydicom.dcmread(write_rtstruct(found, tmp_path / "rt.dcm"))
    assert (told.StructureSetDate, told.StructureSetTime) == ("", "")


def test_highdicom_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    series = find(tmp_path / "in", made.series(2, PatientName="DOE JANE"))
    make_dicom_seg(segmentation(series, some_masks(series), LABELS))
    assert caplog.text == ""


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(2))
    found = segmentation(series, some_masks(series), LABELS)
    write_dicom_seg(found, tmp_path / "seg.dcm")
    with pytest.raises(OutputError, match="is there already"):
        write_dicom_seg(found, tmp_path / "seg.dcm")
    write_dicom_seg(found, tmp_path / "seg.dcm", overwrite=True)


def test_a_source_that_is_gone(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(2))
    series.frames[0].file.path.unlink()
    with pytest.raises(OutputError, match="can't be read any more"):
        make_dicom_seg(segmentation(series, some_masks(series), LABELS))


def test_highdicom_reads_the_volume_back(tmp_path: Path) -> None:
    series = find(tmp_path / "in", made.series(5, orientation=made.SAGITTAL))
    masks = some_masks(series, 1)
    path = write_dicom_seg(segmentation(series, masks, ["liver"]), tmp_path / "seg.dcm")
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    assert volume.spatial_shape[0] == 4
    assert int((volume.array > 0).sum()) == int(masks.sum())
