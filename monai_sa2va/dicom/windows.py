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
"""How the grey values of a series are shown: the window that its own files ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor

from monai_sa2va.dicom.files import open_file
from monai_sa2va.dicom.headers import dataset_of
from monai_sa2va.dicom.modality import inverted_about
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.dicom.values import first_item, functional_group, number, numbers, quiet_pydicom, text
from monai_sa2va.transforms.intensity import Window

__all__ = ["CurveWindow", "series_window"]

_TAGS = (
    *("SOPClassUID", "PhotometricInterpretation", "BitsStored", "BitsAllocated", "PixelRepresentation"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_SAMPLES = 1025
_SIGMOID_WIDTHS = 2.5
"""Half of what a sigmoid's table covers, in widths: beyond it less than 0.02 of 255 is left."""


class CurveWindow(Window):
    """Map grey values along a curve to 0 to 255; before its first and after its last value it goes on level.

    Args:
        values: (N,) ascending, in the image's own units.
        shown: (N,) what each becomes, 0 to 255; values between are interpolated.
    """

    def __init__(self, values: np.ndarray, shown: np.ndarray) -> None:
        super().__init__("range", lower=float(values[0]), upper=float(values[-1]))
        self.values, self.shown = np.asarray(values, dtype=np.float64), np.asarray(shown, dtype=np.float64)

    def fit(self, _image: Any, _name: Any = "image") -> Any:
        """This window, which is the same for every image."""
        return self

    def __call__(self, image: Any, name: Any = "image") -> Any:
        """Apply the curve: float32 of the same shape, 0 to 255; a ``MetaTensor`` keeps its meta data."""
        tensor: torch.Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
        shown = torch.from_numpy(np.interp(plain.cpu().numpy(), self.values, self.shown).astype(np.float32))
        return tensor.to(torch.float32).copy_(shown)


def series_window(series: DicomSeries) -> Window | None:
    """The window that a series is shown with where nobody asks for another.

    Of MR, whose values have no scale, and of colours none: percentiles, and colours as they are. Of others the first
    window of the frame in the middle, be it a centre and width by any of the standard's functions or a table.

    Args:
        series: what is shown.

    Returns:
        ``None`` where the file has no window that can be used.

    Raises:
        DicomError: NOT_DICOM when the file can't be read any more.
    """
    if series.modality == "MR" or series.channels > 1:
        return None
    frame = series.frames[len(series.frames) // 2]
    with quiet_pydicom(), open_file(frame.file) as stream:
        dataset = dataset_of(frame.file, stream, _TAGS)
        voi = functional_group(dataset, "FrameVOILUTSequence", frame.number)
        mirror = _mirror(dataset, functional_group(dataset, "PixelValueTransformationSequence", frame.number))
        table = first_item(voi, "VOILUTSequence")
        curve = _table(table) if table is not None else None
        if curve is not None:
            return _curve(*curve, mirror)
        return _linear_or_sigmoid(voi, mirror)


def _mirror(dataset: Any, rescale: Any) -> float | None:
    """Of MONOCHROME1, whose values were inverted, the sum of a value and its inverted one; else ``None``."""
    if text(dataset, "PhotometricInterpretation") != "MONOCHROME1":
        return None
    slope, intercept = number(rescale, "RescaleSlope"), number(rescale, "RescaleIntercept")
    return inverted_about(dataset) * (1.0 if slope is None else slope) + 2 * (intercept or 0.0)


def _linear_or_sigmoid(voi: Any, mirror: float | None) -> Window | None:
    centers, widths = numbers(voi, "WindowCenter"), numbers(voi, "WindowWidth")
    if not centers or not widths:
        return None
    center, width, function = centers[0], widths[0], text(voi, "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID" and width > 0:
        values = center + np.linspace(-_SIGMOID_WIDTHS, _SIGMOID_WIDTHS, _SAMPLES) * width
        return _curve(values, 255 / (1 + np.exp(-4 * (values - center) / width)), mirror)
    if function == "LINEAR":
        # the standard's: from center - 0.5 - (width - 1) / 2 to center - 0.5 + (width - 1) / 2
        center, width = center - 0.5, width - 1
    if width <= 0:
        return None
    lower, upper = center - width / 2, center + width / 2
    return Window("range", *((lower, upper) if mirror is None else (mirror - upper, mirror - lower)))


def _table(item: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Values of a VOI LUT, and what each becomes, 0 to 255."""
    descriptor, data = numbers(item, "LUTDescriptor", 3), item.get("LUTData")
    if descriptor is None or data is None:
        return None
    count, first, bits = int(descriptor[0]) or 1 << 16, descriptor[1], int(descriptor[2])
    wide = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data))
    if len(wide) < 2 or len(wide) < count or not 1 <= bits <= 16:
        return None
    return first + np.arange(count, dtype=float), wide[:count] * 255.0 / ((1 << bits) - 1)


def _curve(values: np.ndarray, shown: np.ndarray, mirror: float | None) -> CurveWindow:
    shown = np.clip(shown, 0, 255)
    return CurveWindow(values, shown) if mirror is None else CurveWindow(mirror - values[::-1], shown[::-1])
