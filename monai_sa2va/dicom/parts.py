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
"""The instances of one series taken apart into what can be segmented together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from monai_sa2va.dicom.codecs import missing_codec
from monai_sa2va.dicom.copies import without_copies
from monai_sa2va.dicom.duplicates import Separated, separate
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.frames import Candidate, frame_of_reference
from monai_sa2va.dicom.geometry import arrange, by_orientation
from monai_sa2va.dicom.instance import InstanceReader
from monai_sa2va.dicom.kinds import CINE_CLASSES, SLICE_MODALITIES, VOLUME_MODALITIES, not_wanted
from monai_sa2va.dicom.looks import channels, look_findings, pixel_fault, raster
from monai_sa2va.dicom.series import DicomFile, DicomSeries, Layout
from monai_sa2va.dicom.values import text, uid_of, whole

__all__ = ["LeftOut", "parts_of"]

_MOSAIC = "MOSAIC"
"""ImageType of images that hold all slices of a volume side by side."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A series, a part of one, or a file that isn't segmented.

    Attributes:
        finding: why.
        files: which.
        study_uid: ``None`` of a file that belongs to no series.
        series_uid: likewise.
        part: as of :class:`~monai_sa2va.dicom.series.DicomSeries`.
        modality: empty where it isn't known.
        description: likewise; never for logs or reports.
    """

    finding: Finding
    files: tuple[DicomFile, ...]
    study_uid: str | None = None
    series_uid: str | None = None
    part: int = 0
    modality: str = ""
    description: str = ""


def parts_of(frames: Sequence[Candidate]) -> list[DicomSeries | LeftOut]:
    """What the frames of one series are segmented as, part by part.

    Args:
        frames: of all instances of one study and series, in any order.

    Returns:
        Series to segment, and what is left out, numbered from 1 where there are several.
    """
    frames = sorted(frames, key=_identity)
    wanted, notes = _wanted(frames)
    if not wanted:
        return [_left_out(frames, notes[0])]
    findings = [replace(note, severity=Severity.HANDLED) for note in notes]
    made: list[DicomSeries | LeftOut] = []
    groups = _by_kind(wanted)
    if len(groups) > 1:
        findings.append(_mixed_kinds(groups))
    for group in groups:
        made += _of_one_kind(group, findings)
    if len(made) > 1:
        made = [replace(part, part=number) for number, part in enumerate(made, 1)]
    return made


def _identity(one: Candidate) -> tuple[int, str, str, int]:
    """InstanceNumber gives single pictures their order, and decides nothing else; UIDs settle what it doesn't."""
    number = whole(one.header.values, "InstanceNumber")
    return 0 if number is None else number, one.frame.sop_instance_uid, str(one.frame.file), one.frame.number


def _wanted(frames: list[Candidate]) -> tuple[list[Candidate], list[Finding]]:
    """Frames to segment; and for the others, once for each reason, why they aren't."""
    wanted, why = [], Counter[Finding]()
    for one in frames:
        finding = not_wanted(one.header.sop_class, one.header.modality, one.image_type)
        if finding is None:
            wanted.append(one)
        else:
            why[finding] += 1
    if not wanted:
        return [], [why.most_common(1)[0][0]]
    return wanted, [replace(f, message=f"frames left out: {count}, {f.message}") for f, count in why.items()]


def _by_kind(frames: list[Candidate]) -> list[list[Candidate]]:
    """Frames of one class, raster, spacing and frame of reference, the most first."""
    groups: dict[Any, list[Candidate]] = defaultdict(list)
    for one in frames:
        spacing = one.frame.spacing
        rounded = spacing and tuple(round(mm, 4) for mm in spacing)
        header = one.header
        kind = (header.sop_class, header.modality, channels(header), raster(header), frame_of_reference(header))
        groups[(*kind, rounded, _MOSAIC in one.image_type)].append(one)
    return sorted(groups.values(), key=lambda group: -len(group))


def _mixed_kinds(groups: list[list[Candidate]]) -> Finding:
    rasters = sorted({raster(group[0].header) or (0, 0) for group in groups})
    sizes = ", ".join(f"{columns} x {rows}" for rows, columns in rasters)
    what = f"pixels ({sizes})" if len(rasters) > 1 else "pixel spacing, colour, kind of image or frame of reference"
    message = f"its images differ in {what}; each of {len(groups)} kinds is segmented by itself"
    return Finding(FindingCode.MIXED_MATRIX, Severity.HANDLED, message)


def _of_one_kind(frames: list[Candidate], findings: list[Finding]) -> list[DicomSeries | LeftOut]:
    frames, copies = without_copies(frames)
    findings = [*findings, *copies]
    fault = pixel_fault([*{id(one.header): one.header for one in frames}.values()])
    if fault is not None:
        return [_left_out(frames, fault)]
    kinds = {(one.header.transfer_syntax, whole(one.header.values, "BitsStored") or 8) for one in frames}
    missing = next((found for kind in sorted(kinds) if (found := missing_codec(*kind)) is not None), None)
    if missing is not None:
        return [_left_out(frames, missing)]
    made: list[DicomSeries | LeftOut] = []
    placed = []
    by_header: dict[int, list[Candidate]] = defaultdict(list)
    for one in frames:
        by_header[id(one.header)].append(one)
    unplaced = []
    for own in by_header.values():
        if _is_cine(own):
            made.append(_series(own, Layout.CINE, None, findings))
        elif all(one.placed for one in own):
            placed += own
        elif _are_views(own):
            made.append(_series(own, Layout.STACK, None, [*findings, _no_place_of_views(own)]))
        else:
            unplaced += own
    sliced = frames[0].header.modality in VOLUME_MODALITIES or any(one.header.frames > 1 for one in unplaced)
    if unplaced and sliced and len(unplaced) + len(placed) > 1:
        return [*made, _left_out([*placed, *unplaced], _no_place(unplaced))]
    made += [_series([one], Layout.PICTURE, None, [*findings, *_no_place_of_picture(one)]) for one in unplaced]
    parts = _placed(placed, findings)
    if _MOSAIC not in frames[0].image_type:
        return [*made, *parts]
    for part in parts:
        made += _without_place(part) if isinstance(part, DicomSeries) else [part]
    return made


def _without_place(mosaics: DicomSeries) -> list[DicomSeries]:
    """Pictures, or a cine of them: what a mosaic's header tells is no place of any of the slices in it."""
    message = (
        "a mosaic: slices side by side in one image, segmented as a picture without a place in the world; "
        "split it into slices to have volumes"
    )
    told = [finding for finding in mosaics.findings if finding.code is not FindingCode.SINGLE_SLICE]
    told.append(Finding(FindingCode.MISSING_POSITION, Severity.WARNING, message))
    frames = [replace(frame, position=None, orientation=None) for frame in mosaics.frames]
    bare = replace(mosaics, affine=None, findings=tuple(told))
    if mosaics.layout in (Layout.CINE, Layout.PICTURE):
        return [replace(bare, frames=tuple(frames))]
    columns, rows, _ = mosaics.shape
    return [replace(bare, layout=Layout.PICTURE, frames=(one,), shape=(columns, rows, 1)) for one in frames]


def _is_cine(frames: list[Candidate]) -> bool:
    """Several frames of one instance that is a film by its class, and doesn't move them through space."""
    first = frames[0]
    if len(frames) < 2 or first.header.sop_class not in CINE_CLASSES or first.header.modality in VOLUME_MODALITIES:
        return False
    places = {None if one.frame.position is None else tuple(one.frame.position) for one in frames}
    return len(places) == 1


def _are_views(frames: list[Candidate]) -> bool:
    """Several frames of one instance that needn't be slices, and of which none says where it lies."""
    return (
        len(frames) > 1 and frames[0].header.modality not in SLICE_MODALITIES and not any(one.placed for one in frames)
    )


def _placed(frames: list[Candidate], findings: list[Finding]) -> Iterator[DicomSeries | LeftOut]:
    if not frames:
        return
    groups = by_orientation(frames)
    if len(groups) > 1:
        together = 2 * len(groups) > len(frames)
        directions = f"slices in {len(groups)} directions; "
        told = "each is segmented and written where it lies" if together else "each direction is segmented by itself"
        severity = Severity.WARNING if together else Severity.HANDLED
        findings = [*findings, Finding(FindingCode.MIXED_ORIENTATION, severity, directions + told)]
        if together:
            ordered = sorted(frames, key=lambda one: (_rounded(one.frame.orientation), _rounded(one.frame.position)))
            yield _series(ordered, Layout.STACK, None, findings)
            return
    for group in groups:
        try:
            separated = separate(group, _same_pixels)
        except DicomError as error:
            yield _left_out(group, error.finding)
            continue
        for one in (part for whole_one in separated for part in _by_acquisition(whole_one)):
            if one.cine:
                yield _series(one.frames, Layout.CINE, None, [*findings, *one.findings])
            else:
                ordered, layout, affine, told_of = arrange(one.frames)
                yield _series(ordered, layout, affine, [*findings, *one.findings, *told_of])


def _by_acquisition(one: Separated) -> list[Separated]:
    """Acquisitions by themselves where each is a volume of even steps, and all together are none."""
    groups: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for frame in one.frames:
        groups[frame.tags.get("AcquisitionNumber", ())].append(frame)
    apart = len(groups) > 1 and min(map(len, groups.values())) > 2 and not one.cine
    if not apart or arrange(one.frames)[1] is Layout.VOLUME:
        return [one]
    if any(arrange(group)[1] is not Layout.VOLUME for group in groups.values()):
        return [one]
    message = f"{len(groups)} acquisitions at different steps or places, told apart by AcquisitionNumber"
    finding = Finding(FindingCode.TWO_ACQUISITIONS, Severity.HANDLED, message)
    return [replace(one, frames=groups[key], findings=(*one.findings, finding)) for key in sorted(groups)]


def _same_pixels(first: Candidate, second: Candidate) -> bool:
    with InstanceReader(first.frame.file) as one, InstanceReader(second.frame.file) as other:
        return np.array_equal(one.frame(first.frame.number), other.frame(second.frame.number))


def _rounded(values: np.ndarray | None) -> tuple[float, ...]:
    return () if values is None else tuple(np.round(values, 4).tolist())


def _no_place(unplaced: list[Candidate]) -> Finding:
    frame = unplaced[0].frame
    missing = {
        "ImagePositionPatient": frame.position,
        "ImageOrientationPatient": frame.orientation,
        "PixelSpacing": frame.spacing,
    }
    names = " and ".join(name for name, value in missing.items() if value is None)
    message = f"no valid {names} (slices: {len(unplaced)}), so nobody knows where they lie; export the series again"
    return Finding(FindingCode.MISSING_POSITION, Severity.REFUSED, message)


def _no_place_of_views(frames: list[Candidate]) -> Finding:
    message = (
        f"no position, orientation or spacing (frames of one file: {len(frames)}): each is segmented by itself, in the "
        "order of the file, and written by its number without a place in the world"
    )
    return Finding(FindingCode.MISSING_POSITION, Severity.WARNING, message)


def _no_place_of_picture(one: Candidate) -> list[Finding]:
    if one.header.modality not in VOLUME_MODALITIES:
        return []
    if one.frame.position is not None and one.frame.orientation is not None:
        message = "no valid PixelSpacing: it is segmented as a picture without a place in the world"
        return [Finding(FindingCode.NO_SPACING, Severity.WARNING, message)]
    message = "no valid position or orientation: it is segmented as a picture without a place in the world"
    return [Finding(FindingCode.MISSING_POSITION, Severity.WARNING, message)]


def _series(
    frames: Sequence[Candidate], layout: Layout, affine: np.ndarray | None, findings: Sequence[Finding]
) -> DicomSeries:
    header = frames[0].header
    rows, columns = raster(header) or (0, 0)
    return DicomSeries(
        study_uid=text(header.values, "StudyInstanceUID"),
        series_uid=text(header.values, "SeriesInstanceUID"),
        part=0,
        modality=header.modality,
        description=text(header.values, "SeriesDescription"),
        frame_of_reference_uid=frame_of_reference(header),
        layout=layout,
        frames=tuple(one.frame for one in frames),
        shape=(columns, rows, len(frames)),
        channels=channels(header),
        affine=affine,
        findings=(*findings, *look_findings(frames, layout)),
    )


def _left_out(frames: Sequence[Candidate], finding: Finding) -> LeftOut:
    header = frames[0].header
    return LeftOut(
        finding,
        tuple(dict.fromkeys(one.frame.file for one in frames)),
        uid_of(header.values, "StudyInstanceUID"),
        uid_of(header.values, "SeriesInstanceUID"),
        0,
        header.modality,
        text(header.values, "SeriesDescription"),
    )
