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

"""Made DICOM series: valid images of CT, MR, ultrasound and others whose every irregularity is a parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)

CT, MR, US, US_CINE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.3.1",
)
ENHANCED_CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
ENHANCED_US = "1.2.840.10008.5.1.4.1.1.6.2"
RLE = "1.2.840.10008.1.2.5"
SC, DX, XA = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.12.1"
SEG, SR, RTSTRUCT, PDF = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.104.1",
)


def uid(*names: Any) -> str:
    """The same UID for the same names."""
    return str(generate_uid(entropy_srcs=["monai-sa2va", *map(str, names)]))


def oblique(*degrees: float) -> tuple[float, ...]:
    """Orientation of an axial slice turned about the x, then the y, then the z axis."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[second, first], step[first, second] = np.sin(angle), -np.sin(angle)
        turned = step @ turned
    return (*turned[:, 0].tolist(), *turned[:, 1].tolist())


def normal(orientation: Sequence[float]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def positions(
    slices: int,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-20.0, -30.0, 40.0),
    step: float = 2.5,
    shear: tuple[float, float] = (0.0, 0.0),
    heights: Sequence[float] | None = None,
) -> np.ndarray:
    """(slices, 3) centres of first pixels, LPS in mm.

    Args:
        slices: how many.
        orientation: as ImageOrientationPatient.
        origin: of the first.
        step: mm along the normal.
        shear: mm that each mm along the normal goes to the side, along a row and down a column: a gantry tilt.
        heights: mm along the normal of each, in place of even steps.
    """
    along = np.arange(slices) * step if heights is None else np.asarray(heights, dtype=float)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    direction = normal(orientation) + shear[0] * row + shear[1] * column
    return np.asarray(origin, dtype=float) + along[:, None] * direction


def voxels(slices: int, rows: int, columns: int, seed: int = 0, low: int = 0, high: int = 1000) -> np.ndarray:
    """(slices, rows, columns) int32, no two slices alike."""
    return np.random.default_rng(seed).integers(low, high, (slices, rows, columns), dtype=np.int32)


def image(
    pixels: np.ndarray,
    sop_class: str = CT,
    modality: str = "CT",
    name: Any = "series",
    number: int = 1,
    position: Sequence[float] | None = None,
    orientation: Sequence[float] | None = None,
    spacing: tuple[float, float] | None = None,
    bits_stored: int | None = None,
    signed: bool = False,
    photometric: str | None = None,
    **more: Any,
) -> Dataset:
    """One instance with everything that its kind asks for.

    Args:
        pixels: (rows, columns), (rows, columns, 3) of uint8, or with frames before them, the stored values.
        sop_class: SOPClassUID.
        modality: Modality.
        name: of the series: the same name, the same UIDs.
        number: InstanceNumber.
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing.
        bits_stored: BitsStored; 8 or 16 by the type of the pixels, which are stored in 8 bits where they are uint8.
        signed: PixelRepresentation.
        photometric: PhotometricInterpretation.
        **more: attributes by keyword, ``None`` removes one.
    """
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3 and pixels.dtype == np.uint8
    frames = pixels.ndim - 2 - colour
    bits = 8 if pixels.dtype == np.uint8 else 16
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid(name, number)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if modality == "CT" else ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20200102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "030405"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "", "", "1"
    ds.Modality, ds.Manufacturer, ds.SeriesDescription = modality, "monai-sa2va", "made"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Made^Patient", "MADE", "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study", name), uid("series", name)
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 1, number, 1
    ds.PatientOrientation, ds.BodyPartExamined, ds.PatientPosition = "", "ABDOMEN", "HFS"
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    if frames:
        ds.NumberOfFrames = len(pixels)
    ds.Rows, ds.Columns = pixels.shape[frames : frames + 2]
    ds.BitsAllocated, ds.BitsStored = bits, bits_stored or bits
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(signed)
    if position is not None or orientation is not None:
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid("frame of reference", name), ""
        ds.SliceThickness = 2.5
    if position is not None:
        ds.ImagePositionPatient = _decimals(position)
    if orientation is not None:
        ds.ImageOrientationPatient = _decimals(orientation)
    if spacing is not None:
        ds.PixelSpacing = list(spacing)
    if modality == "CT":
        ds.KVP, ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 120, -1024, 1, "HU"
    if modality == "MR":
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 10, 500, 1
    stored = pixels.astype({8: "<u1", 16: "<i2" if signed else "<u2"}[bits])
    ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in more.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return with_meta(ds)


def with_meta(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set with what stands before it in a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return ds


def series(
    slices: int = 5,
    rows: int = 6,
    columns: int = 8,
    modality: str = "CT",
    name: Any = "series",
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.75, 0.5),
    places: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    each: Callable[[int], dict[str, Any]] | None = None,
    **more: Any,
) -> list[Dataset]:
    """A series of single-frame CT or MR images, in the order of ``places``.

    Args:
        slices: how many.
        rows: of each.
        columns: of each.
        modality: ``"CT"`` or ``"MR"``.
        name: the same name, the same UIDs.
        orientation: as ImageOrientationPatient.
        spacing: between rows, then between columns, mm.
        places: as :func:`positions` gives them; by default 2.5 mm apart.
        pixels: (slices, rows, columns), stored values.
        each: attributes of the slice of a number from 0, which go before ``more``.
        **more: of :func:`image`.
    """
    places = positions(slices, orientation) if places is None else places
    pixels = voxels(slices, rows, columns) if pixels is None else pixels
    made = []
    for z in range(slices):
        arguments = {
            "sop_class": {"CT": CT, "MR": MR}[modality],
            "modality": modality,
            "name": name,
            "number": z + 1,
            "position": places[z],
            "orientation": orientation,
            "spacing": spacing,
            "bits_stored": 12 if modality == "CT" else 16,
        }
        made.append(image(pixels[z], **{**arguments, **more, **(each(z) if each else {})}))
    return made


def enhanced(
    slices: int = 5,
    rows: int = 6,
    columns: int = 8,
    modality: str = "CT",
    name: Any = "enhanced",
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.75, 0.5),
    places: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    shared: bool = True,
    each: Callable[[int, Dataset], None] | None = None,
    **more: Any,
) -> Dataset:
    """A multi-frame image of CT or MR, its geometry in functional groups.

    Args:
        slices: number of frames.
        rows: of each.
        columns: of each.
        modality: ``"CT"`` or ``"MR"``.
        name: the same name, the same UIDs.
        orientation: as ImageOrientationPatient.
        spacing: between rows, then between columns, mm.
        places: as :func:`positions` gives them.
        pixels: (slices, rows, columns), stored values.
        shared: whether orientation, spacing and rescale are in the shared groups, else in each frame's.
        each: changes the functional groups of the frame of a number from 0.
        **more: of :func:`image`.
    """
    places = positions(slices, orientation) if places is None else places
    pixels = voxels(slices, rows, columns) if pixels is None else pixels
    kind = ENHANCED_CT if modality == "CT" else ENHANCED_MR
    ds = image(
        pixels, kind, "OT", name, bits_stored=12, FrameOfReferenceUID=uid("frame of reference", name),
        **{"Modality": modality, "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], **more},
    )  # fmt: skip
    common, frames = Dataset(), []
    for z in range(slices):
        frame = Dataset()
        frame.PlanePositionSequence = Items([_item(ImagePositionPatient=_decimals(places[z]))])
        frame.FrameContentSequence = Items([_item(StackID="1", InStackPositionNumber=z + 1)])
        frames.append(frame)
    for group in [common] if shared else frames:
        group.PlaneOrientationSequence = Items([_item(ImageOrientationPatient=_decimals(orientation))])
        group.PixelMeasuresSequence = Items([_item(PixelSpacing=list(spacing), SliceThickness=2.5)])
        rescale = _item(RescaleIntercept=-1024 if modality == "CT" else 0, RescaleSlope=1, RescaleType="US")
        group.PixelValueTransformationSequence = Items([rescale])
    for z, frame in enumerate(frames):
        if each is not None:
            each(z, frame)
    ds.SharedFunctionalGroupsSequence = Items([common])
    ds.PerFrameFunctionalGroupsSequence = Items(frames)
    return ds


def cine(frames: int = 4, rows: int = 6, columns: int = 8, name: Any = "cine", **more: Any) -> Dataset:
    """An ultrasound film, 40 ms a frame."""
    pixels = voxels(frames, rows, columns, high=256).astype(np.uint8)
    return image(pixels, US_CINE, "US", name, **{"FrameTime": "40", "FrameIncrementPointer": (0x0018, 0x1063), **more})


def document(sop_class: str = SR, modality: str = "SR", name: Any = "document") -> Dataset:
    """An instance without pixels."""
    ds = image(np.zeros((2, 2), np.uint8), sop_class, modality, name)
    for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    return ds


def write(folder: Path, datasets: Sequence[Dataset], order: Sequence[int] | None = None) -> Path:
    """Write instances as ``0000.dcm`` and so on, in another order where one is given, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for number, index in enumerate(order if order is not None else range(len(datasets)), start):
        datasets[index].save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _decimals(values: Sequence[float]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]
