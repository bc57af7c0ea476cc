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


"""One folder of results against itself and its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.dicom.geometry import EVEN_SHARE
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.verify.planes import Planes, corner_error, step_mm
from monai_sa2va.verify.read import read_nifti, read_nrrd, read_rtstruct, read_seg
from monai_sa2va.writers.provenance import file_hash, frame_name
from monai_sa2va.writers.runs import frame_matrix
from monai_sa2va.writers.seg_frames import is_placed

__all__ = ["TOLERANCE_MM", "Verdict", "verify_folder"]

TOLERANCE_MM = 0.05
"""How far corners may be off by default. Of NIfTI and NRRD it is a hundredth of a step where that is more: slices of an
even volume may be that far off the one matrix that places them there."""
_ONE_MATRIX = ("NIfTI", "NRRD")


@dataclass
class Verdict:
    """What was found in one folder.

    Attributes:
        folder: below the verified one, with ``/``.
        problems: one line each; none where all is right.
        files: how many files were compared with their hashes.
        corner_mm: the largest distance between corners that should be at one place; ``None`` where none were compared.
        against_source: whether the source was there to compare with.
    """

    folder: str
    problems: list[str] = field(default_factory=list)
    files: int = 0
    corner_mm: float | None = None
    against_source: bool = False


def verify_folder(
    folder: Path,
    name: str,
    tolerance_mm: float | None,
    source_of: Callable[[str, int], DicomSeries | None] | None = None,
) -> Verdict:
    """Check one folder.

    Args:
        folder: that has a ``report.json``.
        name: what it is called.
        tolerance_mm: how far corners may be apart; ``None`` for :data:`TOLERANCE_MM` and what it says.
        source_of: gives a series by its UID and part; ``None`` where sources aren't looked at.

    Raises:
        ConfigError: when pydicom isn't installed and a result is DICOM.
    """
    verdict = Verdict(name)
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        _check_hashes(folder, report, verdict)
        if not verdict.problems:
            objects = report["objects"]
            if "series" in report:
                _check_series(folder, report, verdict, tolerance_mm, source_of)
            else:
                for item in objects:
                    _check_count(item, _of_files(folder, item), verdict)
    except DataError as error:
        verdict.problems.append(str(error).removeprefix(f"[{error.code}] "))
    # what isn't installed is no fault of the results
    except ConfigError:
        raise
    # a file that was changed by hand may break any reader
    except Exception as error:
        verdict.problems.append(f"a file can't be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return verdict


def _check_hashes(folder: Path, report: Mapping[str, Any], verdict: Verdict) -> None:
    for name, digest in report["sha256"].items():
        path = folder / Path(name).name
        if not path.is_file():
            verdict.problems.append(f"{name} is missing")
        elif file_hash(path) != digest:
            verdict.problems.append(f"{name} was changed since it was written")
        else:
            verdict.files += 1


def _check_series(
    folder: Path,
    report: Mapping[str, Any],
    verdict: Verdict,
    tolerance_mm: float | None,
    source_of: Callable[[str, int], DicomSeries | None] | None,
) -> None:
    told = report["series"]
    numbers = {frame: z for z, frame in enumerate(told["frames"])}
    shape = (int(told["shape"][0]), int(told["shape"][1]))
    reference: dict[int, np.ndarray] = {}
    if source_of is not None:
        source = source_of(told["series_uid"], told["part"])
        if source is None:
            verdict.problems.append(f"its source, series {told['series_uid']}, is not in the folders of --source")
            return
        verdict.against_source = True
        reference = _source_places(source, told, verdict)
        if verdict.problems:
            return
    segments = read_seg(folder / seg, numbers) if (seg := _one(report, "seg")) else []
    if not reference and segments:
        reference = {z: place for planes in segments for z, place in planes.places.items()}
    rois = None
    for number, item in enumerate(report["objects"]):
        found = _of_files(folder, item)
        if segments:
            found.insert(0, segments[number])
        if (rtstruct := _one(report, "rtstruct")) is not None:
            places = reference or {z: place for planes in found for z, place in planes.places.items()}
            rois = read_rtstruct(folder / rtstruct, numbers, places, shape) if rois is None else rois
            found.append(rois[number])
        _check_count(item, found, verdict)
        _check_places(item["label"], found, reference, shape, told["frame_of_reference_uid"], tolerance_mm, verdict)
        for other in found[1:]:
            if count := found[0].differs(other):
                verdict.problems.append(f"{item['label']}: {found[0].kind} and {other.kind} differ in {count} voxels")


def _source_places(source: DicomSeries, told: Mapping[str, Any], verdict: Verdict) -> dict[int, np.ndarray]:
    frames = [frame_name(frame.sop_instance_uid, frame.number) for frame in source.frames]
    for what, before, now in (
        ("frames", told["frames"], frames),
        ("size", list(told["shape"]), list(source.shape)),
        ("frame of reference", told["frame_of_reference_uid"], source.frame_of_reference_uid),
    ):
        if before != now:
            verdict.problems.append(f"the source's {what} changed since it was segmented")
    return {z: frame_matrix(frame) for z, frame in enumerate(source.frames) if is_placed(frame)}


def _check_places(
    label: str,
    found: list[Planes],
    reference: Mapping[int, np.ndarray],
    shape: tuple[int, int],
    frame_of_reference: str | None,
    tolerance_mm: float | None,
    verdict: Verdict,
) -> None:
    for planes in found:
        if planes.kind in ("SEG", "RTSTRUCT") and planes.places and planes.frame_of_reference != frame_of_reference:
            verdict.problems.append(f"{label}: the {planes.kind} is in another frame of reference than its source")
        if any(mask.shape != shape for mask in planes.masks.values()):
            verdict.problems.append(f"{label}: the {planes.kind} has frames of another size than its source")
            continue
        if reference and not planes.masks.keys() <= planes.places.keys():
            verdict.problems.append(f"{label}: the {planes.kind} has no place, though its source has one")
        error = corner_error(planes.places, reference or found[0].places, shape)
        if error is None:
            continue
        verdict.corner_mm = max(error, verdict.corner_mm or 0.0)
        if error > (_allowed(planes) if tolerance_mm is None else tolerance_mm):
            verdict.problems.append(f"{label}: a corner of the {planes.kind} is {error:.4g} mm off its place")


def _allowed(planes: Planes) -> float:
    """The default tolerance: as wide as the one by which slices were taken for even, where a matrix made them so."""
    if planes.kind not in _ONE_MATRIX:
        return TOLERANCE_MM
    return max(TOLERANCE_MM, *(EVEN_SHARE * step_mm(place) for place in planes.places.values()))


def _check_count(item: Mapping[str, Any], found: list[Planes], verdict: Verdict) -> None:
    for planes in found:
        if planes.voxels != item["voxels"]:
            verdict.problems.append(
                f"{item['label']}: the {planes.kind} has {planes.voxels} voxels, report.json says {item['voxels']}"
            )


def _of_files(folder: Path, item: Mapping[str, Any]) -> list[Planes]:
    """What the object's own files say."""
    readers = ((".nii.gz", read_nifti), (".seg.nrrd", read_nrrd))
    named = [(reader, [folder / n for n in item["files"] if n.endswith(suffix)]) for suffix, reader in readers]
    return [reader(paths) for reader, paths in named if paths]


def _one(report: Mapping[str, Any], stem: str) -> str | None:
    """The file that holds all objects, where there is one."""
    name = f"{stem}.dcm"
    return name if name in report["sha256"] else None
