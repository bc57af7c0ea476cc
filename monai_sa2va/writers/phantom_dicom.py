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
"""Phantoms as DICOM: CT as CT, ultrasound as US, fundus photographs as secondary captures, truth as a SEG beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.data.headers import Grid
from monai_sa2va.data.phantom_looks import LOOKS
from monai_sa2va.data.phantom_shapes import REFERENCE_SIZE
from monai_sa2va.data.phantom_stacks import PhantomStack, stack_entry
from monai_sa2va.data.phantoms import LABEL_VALUES, Phantom, image_entry, write_phantoms
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import ConfigError
from monai_sa2va.segmentation import Segmentation
from monai_sa2va.transforms.geometry import PlaneGeometry
from monai_sa2va.writers.dicom_object import need_dicom
from monai_sa2va.writers.dicom_seg import write_dicom_seg

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["DICOM_LOOKS", "write_dicom_phantoms"]

DICOM_LOOKS: Mapping[str, tuple[str, ...]] = {
    "image": ("fundus", "ct", "ultrasound"),
    "volume": ("ct",),
    "cine": ("fundus", "ct", "ultrasound"),
}
"""Looks that take turns in each kind of DICOM phantom: a plain ultrasound image has no place in the world."""

_CLASSES = {
    ("ct", False): "1.2.840.10008.5.1.4.1.1.2",
    ("ultrasound", False): "1.2.840.10008.5.1.4.1.1.6.1",
    ("ultrasound", True): "1.2.840.10008.5.1.4.1.1.3.1",
    ("fundus", False): "1.2.840.10008.5.1.4.1.1.7",
    ("fundus", True): "1.2.840.10008.5.1.4.1.1.7.2",
}
"""SOP class by look, and whether frames are many."""
_MODALITIES = {"ct": "CT", "ultrasound": "US", "fundus": "OP"}
_PIXEL_MM = {"ct": 2.8, "ultrasound": 0.8}
_BEGIN = datetime(2000, 1, 1)
_LOWEST_HU, _WINDOW = -160, (40, 400)
"""Grey values 0 to 255 are Hounsfield units of the window of soft tissue, in which they look as they were drawn."""


def write_dicom_phantoms(
    folder: str | os.PathLike[str],
    count: int = 320,
    seed: int = 0,
    size: int = 128,
    looks: Sequence[str] | None = None,
    splits: Mapping[str, float] | None = None,
    kind: str = "image",
    slices: int = 24,
) -> Path:
    """Write phantoms as DICOM, with their truth as SEGs and their datalist, to be segmented, not trained on.

    An entry's image is a folder with one series, its label a SEG whose segments have the names of the structures.

    Args:
        folder: as for :func:`~monai_sa2va.data.phantoms.write_phantoms`, like all others.
        count: number of images, volumes or cines.
        seed: of the first.
        size: side of the images, pixels.
        looks: which take turns, by default those of `DICOM_LOOKS`.
        splits: share of each section.
        kind: ``"image"``, ``"volume"`` or ``"cine"``.
        slices: of a volume, or frames of a cine.

    Returns:
        Path of the datalist.

    Raises:
        ConfigError: when an argument can't be used, a look has no DICOM of this kind, or the extra ``dicom`` isn't
            installed.
        OutputError: when the folder is not empty or can't be written.
    """
    allowed = DICOM_LOOKS.get(kind, ())
    names = allowed if looks is None else tuple(looks)
    for look in names:
        if allowed and look in LOOKS and look not in allowed:
            raise ConfigError(f"look is {look!r}; a {kind} as DICOM can be {', '.join(allowed)}")
    need_dicom()
    return write_phantoms(folder, count, seed, size, names or None, None, splits, kind, slices, write=_write_phantom)


def _write_phantom(folder: Path, phantom: Phantom | PhantomStack) -> dict[str, Any]:
    if isinstance(phantom, PhantomStack):
        stack, name = phantom, f"{phantom.look}_{phantom.kind}_{phantom.seed:06d}"
        truth = {structure: stack.label == LABEL_VALUES[structure] for structure in stack.names}
        kind, seconds = stack.kind, stack.frame_seconds
        return stack_entry(stack, *_write(folder, name, stack.look, kind, stack.image, truth, stack.spacing, seconds))
    name = f"{phantom.look}_{phantom.seed:06d}"
    plane = phantom.image if phantom.look == "fundus" else phantom.image[..., 0]
    truth = {structure: mask[None] for structure, mask in phantom.masks.items()}
    return image_entry(phantom, *_write(folder, name, phantom.look, "image", plane[None], truth))


def _write(
    folder: Path,
    name: str,
    look: str,
    kind: str,
    planes: NDArray[np.uint8],
    truth: Mapping[str, NDArray[np.bool_]],
    spacing: tuple[float, float, float] | None = None,
    frame_seconds: float | None = None,
) -> tuple[str, str]:
    """Write planes (D, H, W[, 3]) and truth (D, H, W) by name; return their paths, relative to the folder."""
    millimetres = _PIXEL_MM.get(look, 0.0) * REFERENCE_SIZE / planes.shape[1]
    spacing = (millimetres, millimetres, 5.0) if spacing is None else spacing
    place = folder / "images" / name
    place.mkdir(parents=True)
    for number, ds in enumerate(_instances(name, look, kind, planes, spacing, frame_seconds), 1):
        ds.save_as(place / f"{number:04d}.dcm", enforce_file_format=True)
    (series,) = scan(place).series
    _write_truth(folder / "labels" / f"{name}.dcm", series, truth)
    return f"images/{name}", f"labels/{name}.dcm"


def _instances(
    name: str,
    look: str,
    kind: str,
    planes: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    frame_seconds: float | None,
) -> list[Dataset]:
    if look == "ct":
        return [_ct(name, z, plane, spacing, kind, frame_seconds) for z, plane in enumerate(planes)]
    many = kind == "cine"
    ds = _common(name, look, 1, planes if many else planes[0], _CLASSES[look, many])
    if many:
        ds.FrameTime, ds.FrameIncrementPointer = f"{1000 * (frame_seconds or 0):g}", 0x00181063
    if look == "fundus":
        ds.ConversionType = "SYN"
        if many:
            ds.BurnedInAnnotation, ds.PresentationLUTShape = "NO", "IDENTITY"
            ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    else:
        ds.SequenceOfUltrasoundRegions = [_region(planes.shape[1], planes.shape[2], spacing)]
    return [ds]


def _ct(
    name: str, z: int, plane: NDArray[np.uint8], spacing: tuple[float, float, float], kind: str, seconds: float | None
) -> Dataset:
    center, width = _WINDOW
    units = np.rint(_LOWEST_HU + plane.astype(np.float64) * (width - 1) / 255)
    ds = _common(name, "ct", z + 1, (units + 1024).astype(np.uint16), _CLASSES["ct", False])
    height, columns = plane.shape
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = _uid(name, "place"), ""
    x, y, step = spacing
    up = 0.0 if kind == "cine" else z * step
    ds.ImagePositionPatient = [_decimal(-x * (columns - 1) / 2), _decimal(-y * (height - 1) / 2), _decimal(up)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [_decimal(y), _decimal(x)], _decimal(step)
    ds.KVP, ds.AcquisitionNumber = 120, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = center, width
    if seconds is not None:
        ds.AcquisitionDateTime = (_BEGIN + timedelta(seconds=z * seconds)).strftime("%Y%m%d%H%M%S.%f")
    return ds


def _common(name: str, look: str, number: int, pixels: NDArray[Any], sop_class: str) -> Dataset:
    """What all images have, and their pixels: (H, W), (H, W, 3) or (frames, H, W)."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, _uid(name, number)
    ds.ImageType = ["DERIVED", "PRIMARY", *(["AXIAL"] if look == "ct" else [])]
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = _BEGIN.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = _BEGIN.strftime("%H%M%S")
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "", "", "1"
    ds.Modality, ds.Manufacturer, ds.SeriesDescription = _MODALITIES[look], "monai-sa2va", f"phantom {look}"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom", name, "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid(name, "study"), _uid(name, "series")
    ds.SeriesNumber, ds.InstanceNumber, ds.PatientOrientation = 1, number, ""
    ds.BodyPartExamined = "EYE" if look == "fundus" else "ABDOMEN"
    if look == "fundus":
        ds.Laterality = "R"
    if look == "ct":
        ds.PatientPosition = "HFS"
    colour = pixels.shape[-1] == 3
    bits = 8 * pixels.dtype.itemsize
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.Rows, ds.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    ds.BitsAllocated, ds.PixelRepresentation = bits, 0
    ds.BitsStored = 12 if bits == 16 else 8
    ds.HighBit = ds.BitsStored - 1
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _region(rows: int, columns: int, spacing: tuple[float, float, float]) -> Dataset:
    """What an ultrasound's pixels measure: centimetres, as tissue."""
    from pydicom import Dataset

    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
    region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 3, 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = spacing[0] / 10, spacing[1] / 10
    return region


def _write_truth(path: Path, series: DicomSeries, truth: Mapping[str, NDArray[np.bool_]]) -> None:
    names: Sequence[str] = list(truth)
    columns, rows, depth = series.shape
    segmentation = Segmentation(
        masks=np.stack([truth[name] for name in names]),
        labels=list(names),
        text="made in code: this is the truth",
        scores=np.ones(len(names), np.float32),
        affine=series.affine,
        prompts=list(names),
        answers=["truth"] * len(names),
        source_name=path.stem,
        source_grid=Grid(series.shape),
        source_header=None,
        picture=np.zeros((rows, columns, 3), np.uint8),
        slice_index=0,
        presence_threshold=None,
        geometry=PlaneGeometry((columns, rows, depth), (2, 1, 0), (False, False, False)),
        series=series,
    )
    write_dicom_seg(segmentation, path, created=_BEGIN)


def _uid(*names: Any) -> str:
    """The same for the same phantom."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["monai-sa2va phantom", *map(str, names)]))


def _decimal(value: float) -> str:
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float(value)))
