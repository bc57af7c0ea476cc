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


"""Whether a mask drawn in the world comes back in its place through our DICOM SEG, for made series of every kind.

Each series is made by pydicom alone, written in any order, found and read by the package, segmented by a rule in mm
(an ellipsoid) in the displayed slices, written as SEG, and read back by pydicom alone. A voxel is in its place where
the source's own attributes put it within the ellipsoid.

    python benchmarks/dicom_geometry.py --n 10000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from monai_sa2va.data.headers import Grid
from monai_sa2va.dicom.pixels import read_pixels
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.segmentation import Segmentation
from monai_sa2va.transforms.stacks import StackPlanes
from monai_sa2va.writers.dicom_seg import write_dicom_seg

PLANES = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": None,
}
ORDERS = ("ascending", "descending", "shuffled")
SPACINGS = ("isotropic", "anisotropic", "non-square")
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class Kind:
    """A series to be made: everything else follows from the seed."""

    plane: str
    order: str
    spacing: str
    modality: str
    seed: int


@dataclass(frozen=True, eq=False)
class Made:
    """A made series and the ellipsoid that is drawn in it.

    Attributes:
        datasets: its instances, slice by slice along the normal.
        centre: (3,) of the ellipsoid, LPS in mm.
        shape: (3, 3): a point p lies within where the norm of ``shape @ (p - centre)`` is at most 1.
    """

    datasets: list[Dataset]
    centre: np.ndarray
    shape: np.ndarray

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(...,) bool for (..., 3) points in mm."""
        return np.asarray(np.linalg.norm((points - self.centre) @ self.shape.T, axis=-1) <= 1)


def rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3), any."""
    turned, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    turned *= np.sign(np.diag(upper))
    return np.asarray(turned * np.sign(np.linalg.det(turned)))


def make(kind: Kind) -> Made:
    """The series of a kind, and its ellipsoid."""
    rng = np.random.default_rng(kind.seed)
    rows, columns, slices = (int(n) for n in rng.integers((5, 5, 3), (20, 20, 12)))
    fixed = PLANES[kind.plane]
    turned = rotation(rng)
    orientation = np.concatenate([turned[:, 0], turned[:, 1]]) if fixed is None else np.array(fixed)
    first = round(float(rng.uniform(0.3, 2.0)), 4)
    second, step = {
        "isotropic": (first, first),
        "anisotropic": (first, round(first * float(rng.uniform(1.5, 6.0)), 4)),
        "non-square": (round(first * float(rng.uniform(0.4, 2.5)), 4), round(first * float(rng.uniform(0.5, 4.0)), 4)),
    }[kind.spacing]
    origin = rng.uniform(-300, 300, 3)
    normal = np.cross(orientation[:3], orientation[3:])
    frame, study, name = (generate_uid(entropy_srcs=[repr(kind), part]) for part in ("frame", "study", "series"))
    datasets = []
    for z in range(slices):
        ds = _image(kind.modality, rng.integers(0, 1000, (rows, columns)))
        ds.FrameOfReferenceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = frame, study, name
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[repr(kind), str(z)])
        ds.ImagePositionPatient = [DSfloat(v, auto_format=True) for v in origin + z * step * normal]
        ds.ImageOrientationPatient = [DSfloat(v, auto_format=True) for v in orientation]
        ds.PixelSpacing, ds.SliceThickness = [first, second], step
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        datasets.append(ds)
    order = {"ascending": range(slices), "descending": range(slices)[::-1], "shuffled": rng.permutation(slices)}
    for number, z in enumerate(order[kind.order], start=1):
        datasets[z].InstanceNumber = number
    size = np.array([columns * second, rows * first, slices * step])
    middle = np.array([columns * second, rows * first, slices * step]) * rng.uniform(0.3, 0.7, 3)
    centre = origin + middle @ np.stack([orientation[:3], orientation[3:], normal])
    return Made(datasets, centre, rotation(rng) / (size * rng.uniform(0.2, 0.6, 3))[:, None])


def _image(modality: str, pixels: np.ndarray) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality, ds.SpecificCharacterSet = CLASSES[modality], modality, "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"]
    ds.StudyDate = ds.ContentDate = "20200102"
    ds.StudyTime = ds.ContentTime = "030405"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Made^Series", "MADE", "", ""
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID, ds.Manufacturer = "", "", "1", "monai-sa2va"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.PositionReferenceIndicator = 1, 1, ""
    ds.PatientPosition, ds.SeriesDescription = "HFS", "made"
    if modality == "CT":
        ds.KVP, ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 120, -1024, 1, "HU"
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 10, 500, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def write(made: Made, folder: Path) -> Path:
    """The instances as files in the order of their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for ds in made.datasets:
        ds.save_as(folder / f"{int(ds.InstanceNumber):04d}.dcm", enforce_file_format=True)
    return folder


def segment(series: DicomSeries, made: Made) -> Segmentation:
    """The ellipsoid, drawn in the slices as they are displayed, by the place that the segmentation gives them."""
    pixels = read_pixels(series)
    geometry = StackPlanes("auto").geometry(pixels)
    grid = Grid(tuple(pixels.shape[1:]), pixels.affine.numpy())
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ pixels.affine.numpy() @ geometry.matrix()
    affine = lps[:, [1, 0, 2, 3]]
    rows, columns = geometry.plane_shape
    index = np.stack(np.meshgrid(*map(np.arange, (geometry.depth, rows, columns)), indexing="ij"), axis=-1)[..., ::-1]
    masks = made.inside(index @ affine[:3, :3].T + affine[:3, 3])
    return Segmentation(
        masks[None], ["lesion"], "Sure, [SEG].", np.ones(1, np.float32), affine, ["Segment the lesion."],
        ["Sure, [SEG]."], "made", grid, None, np.zeros((rows, columns, 3), np.uint8), 0, None, geometry, series,
    )  # fmt: skip


def places(position: Any, orientation: Any, spacing: Any, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, 3) mm: pixel centres as DICOM defines them (PS3.3 C.7.6.2.1.1)."""
    p, o, (down, along) = np.array(position, float), np.array(orientation, float), map(float, spacing)
    x, y = np.arange(columns)[None, :, None], np.arange(rows)[:, None, None]
    return np.asarray(p + x * along * o[:3] + y * down * o[3:])


def compare(path: Path, made: Made) -> tuple[int, int, float]:
    """Voxels that were drawn, voxels that are not in their place, and the largest corner error in mm."""
    seg = pydicom.dcmread(path)
    sources = [
        places(ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.Rows, ds.Columns)
        for ds in made.datasets
    ]
    truth = [made.inside(points) for points in sources]
    ends = np.stack([points[[0, 0, -1, -1], [0, -1, 0, -1]] for points in sources])
    seen = [np.zeros_like(mask) for mask in truth]
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    shared, size, worst = seg.SharedFunctionalGroupsSequence[0], seg.Rows * seg.Columns, 0.0
    lost = 0
    for number, item in enumerate(seg.PerFrameFunctionalGroupsSequence):
        points = places(
            item.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
            seg.Rows,
            seg.Columns,
        )
        mask = bits[number * size : (number + 1) * size].reshape(seg.Rows, seg.Columns).astype(bool)
        errors = np.linalg.norm(ends - points[[0, 0, -1, -1], [0, -1, 0, -1]], axis=2).max(axis=1)
        nearest = int(errors.argmin())
        worst = max(worst, float(errors[nearest]))
        if errors[nearest] > SAME_PLACE_MM or mask.shape != truth[nearest].shape:
            lost += int(mask.sum())
        else:
            seen[nearest] |= mask
    drawn = sum(int(mask.sum()) for mask in truth)
    return drawn, lost + sum(int((a != b).sum()) for a, b in zip(seen, truth, strict=True)), worst


def check(kind: Kind, folder: Path) -> tuple[int, int, float]:
    """Make, write, find, segment, write and compare one series; as :func:`compare`."""
    made = make(kind)
    (series,) = scan(write(made, folder / "series")).series
    return compare(write_dicom_seg(segment(series, made), folder / "seg.dcm", overwrite=True), made)


def draw(rng: np.random.Generator) -> Kind:
    """Any kind."""
    plane, order, spacing, modality = (str(rng.choice(list(names))) for names in (PLANES, ORDERS, SPACINGS, CLASSES))
    return Kind(plane, order, spacing, modality, int(rng.integers(2**31)))


def main() -> None:
    """Check as many series as asked for; exit code 1 where a voxel is out of place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--n", type=int, default=1000, help="number of series")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    drawn, wrong, worst, empty = 0, 0, 0.0, 0
    for _ in range(arguments.n):
        kind = draw(rng)
        with tempfile.TemporaryDirectory() as folder:
            voxels, errors, corner = check(kind, Path(folder))
        if errors:
            print(f"{kind}: {errors} of {voxels} voxels out of place", file=sys.stderr)
        drawn, wrong, worst, empty = drawn + voxels, wrong + errors, max(worst, corner), empty + (voxels == 0)
    share = 100.0 * (1 - wrong / max(1, drawn))
    print(
        f"{arguments.n} series ({empty} with an empty mask), {drawn} voxels: {wrong} out of place ({share:.4f} % in "
        f"place), largest corner error {worst:.2g} mm"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
