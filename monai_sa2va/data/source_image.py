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

"""An image as it was handed over, on a known grid: what readers make, and the rest of the package works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monai_sa2va.data.headers import Grid
from monai_sa2va.dicom.series import DicomSeries

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from monai_sa2va.transforms.intensity import Window

__all__ = ["SourceImage"]


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as it was handed over.

    Attributes:
        pixels: (C, X, Y) or (C, X, Y, Z) of the source's own type; a volume's affine is index -> RAS, mm.
        name: base name of its file, ``"image"`` where there is none; never a folder, which may name a patient.
        grid: its spatial shape, and index -> RAS in mm where the source says it.
        header: nibabel's header of a NIfTI file, else ``None``.
        series: the DICOM series, else ``None``; its pixels have four axes, whatever its layout, and where it has no
            affine its slices are shown as they are stored.
        window: how its grey values are shown where nobody asks for anything, as its files say; ``None`` where they
            don't.
    """

    pixels: MetaTensor
    name: str
    grid: Grid
    header: Any = None
    series: DicomSeries | None = None
    window: Window | None = None
