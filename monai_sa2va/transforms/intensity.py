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

"""Grey values of any modality to the 0 to 255 of a picture."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.order_statistics import blocks, finite_percentiles
from monai_sa2va.transforms.source import integer_maximum, may_have_alpha, picture_mode, source_name

__all__ = ["WINDOWS", "FittedWindow", "Window", "WindowD", "WindowDict", "Windowd", "as_window"]

WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (40.0, 400.0),
    "angiography": (300.0, 600.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (30.0, 150.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "pulmonary_embolism": (100.0, 700.0),
    "soft_tissue": (50.0, 400.0),
    "spine": (50.0, 250.0),
    "stroke": (40.0, 40.0),
    "subdural": (75.0, 215.0),
    "temporal_bone": (600.0, 2800.0),
}
"""CT windows in common use: name -> (centre, width) in Hounsfield units."""

_KINDS = ("auto", "dtype", "hu", "percentile", "range")
_PERCENTILES = (0.5, 99.5)


class Window(Transform):
    """Map grey values linearly to 0 to 255 and clip them there.

    A value v becomes ``255 * (v - lower) / (upper - lower)``. Nothing is rounded. Where lower and upper are equal,
    as in an image of one value, everything becomes 0.

    Args:
        kind: where lower and upper come from. ``"range"``: as given, in the image's own units. ``"hu"``: as given, by
            ``center`` and ``width``, or by ``preset``, in Hounsfield units. ``"percentile"``: percentiles of the
            image's finite values, all channels but alpha together, 0.5 and 99.5 by default. ``"dtype"``: the whole
            range of the unsigned integers that the file stores: 8-bit values stay as they are, 16-bit ones are divided
            by 257, bits multiplied by 255. ``"auto"``: ``"dtype"`` where the file stores bits or 8-bit integers, else
            ``"percentile"``; decided by the type of data alone, never by its values.
        lower: what becomes 0: a value, or for ``"percentile"`` a percentile (0 to 100).
        upper: what becomes 255, likewise.
        center: centre of the window, Hounsfield units.
        width: width of the window, Hounsfield units.
        preset: one of `WINDOWS`.
        nonfinite: ``"error"`` refuses NaN and infinite values, ``"lower"`` makes them 0, as for the NaN that some
            scanners and tools put outside the field of view.

    Raises:
        ConfigError: when arguments contradict each other, are missing or unknown.
    """

    def __init__(
        self,
        kind: str = "auto",
        lower: float | None = None,
        upper: float | None = None,
        center: float | None = None,
        width: float | None = None,
        preset: str | None = None,
        nonfinite: str = "error",
    ) -> None:
        if kind not in _KINDS:
            raise ConfigError(f"kind is {kind!r}; allowed: {', '.join(_KINDS)}")
        if nonfinite not in ("error", "lower"):
            raise ConfigError(f"nonfinite is {nonfinite!r}; allowed: error, lower")
        if preset is not None and preset not in WINDOWS:
            raise ConfigError(f"preset is {preset!r}; allowed: {', '.join(WINDOWS)}")
        pairs = {"lower and upper": (lower, upper), "center and width": (center, width)}
        for name, pair in pairs.items():
            if (pair[0] is None) != (pair[1] is None):
                raise ConfigError(f"{name} belong together; give both")
        given = [name for name, pair in pairs.items() if pair[0] is not None] + ["preset"] * (preset is not None)
        allowed = {
            "range": ["lower and upper"],
            "hu": ["lower and upper", "center and width", "preset"],
            "percentile": ["lower and upper"],
        }.get(kind, [])
        if len(given) > 1 or not set(given) <= set(allowed):
            usable = " or ".join(allowed) or "none"
            raise ConfigError(f"kind {kind!r} can't use {' with '.join(given)}; allowed: {usable}")
        if kind in ("range", "hu") and not given:
            raise ConfigError(f"kind {kind!r} needs {' or '.join(allowed)}")
        if preset is not None:
            center, width = WINDOWS[preset]
        if center is not None and width is not None:
            lower, upper = center - width / 2, center + width / 2
        if lower is None or upper is None:
            lower, upper = _PERCENTILES
        if not (np.isfinite([lower, upper]).all() and lower < upper):
            raise ConfigError(f"the window goes from {lower} to {upper}; its upper end has to lie above its lower end")
        if kind == "percentile" and not 0 <= lower < upper <= 100:
            raise ConfigError(f"lower {lower} and upper {upper} are no percentiles; they lie from 0 to 100")
        self.kind, self.lower, self.upper, self.nonfinite = kind, float(lower), float(upper), nonfinite

    def __call__(self, image: Any, name: Hashable = "image") -> Any:
        """Apply the window.

        Args:
            image: any shape and real dtype; a ``MetaTensor`` keeps its meta data.
            name: what error messages call the image.

        Returns:
            float32 of the same shape, 0 to 255.

        Raises:
            DataError: when values are not finite, or ``"dtype"`` meets data whose integer type is unknown.
        """
        return self.fit(image, name)(image)

    def fit(self, image: Any, name: Hashable = "image") -> FittedWindow:
        """Find what becomes 0 and what 255 in an image, without a copy of it.

        Args:
            image: as for :meth:`__call__`.
            name: what error messages call the image.

        Raises:
            DataError: as for :meth:`__call__`.
        """
        tensor: torch.Tensor = convert_to_tensor(image, track_meta=False)
        if tensor.dtype.is_floating_point:
            finite = sum(int(torch.isfinite(part.to(torch.float32)).sum()) for part in blocks(tensor))
            count = tensor.numel() - finite
            if count and (self.nonfinite == "error" or not finite):
                raise DataError(
                    f"{source_name(image, name)} has {count} values that are NaN or infinite; repair the file, or make "
                    'them 0 by the window {"nonfinite": "lower"}'
                )
        return FittedWindow(*self._ends(image, tensor, name))

    def _ends(self, image: Any, tensor: torch.Tensor, name: Hashable) -> tuple[float, float]:
        kind = self.kind
        if kind in ("auto", "dtype") and picture_mode(image) in ("P", "PA", "CMYK"):
            raise DataError(
                f"{source_name(image, name)} is a picture of mode {picture_mode(image)}, whose numbers are no "
                "brightness; save it as greyscale or RGB"
            )
        if kind == "auto":
            kind = "dtype" if integer_maximum(image) in (1, 255) else "percentile"
        if kind == "dtype":
            maximum = integer_maximum(image)
            if maximum is None:
                raise DataError(
                    f"{source_name(image, name)} has no known unsigned integer type; load it with "
                    "LoadImaged(dtype=None), or choose another kind of Window"
                )
            return 0.0, float(maximum)
        if kind == "percentile":
            alpha = tensor.ndim > 2 and len(tensor) in (2, 4) and may_have_alpha(image)
            low, high = finite_percentiles(tensor[:-1] if alpha else tensor, [self.lower, self.upper])
            return low, high
        return self.lower, self.upper


@dataclass(frozen=True)
class FittedWindow:
    """A window whose ends are known: what a :class:`Window` found for one image, for that image or any part of it.

    Attributes:
        lower: what becomes 0, in the image's own units.
        upper: what becomes 255; where it equals ``lower``, everything becomes 0.
    """

    lower: float
    upper: float

    def __call__(self, image: Any) -> Any:
        """Apply it: float32 of the same shape, 0 to 255; NaN and infinite values become 0."""
        tensor: torch.Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        values = tensor.to(torch.float32)
        if self.lower == self.upper:
            return torch.zeros_like(values)
        # in place: a float64 copy of a volume is large enough once
        scaled = values.to(torch.float64, copy=True).sub_(self.lower).mul_(255.0 / (self.upper - self.lower))
        scaled = scaled.clamp_(0.0, 255.0).masked_fill_(~torch.isfinite(values), 0.0)
        return scaled.to(torch.float32)


def as_window(window: str | Mapping[str, Any] | Window) -> Window:
    """A :class:`Window` from what a configuration or a command line says.

    Args:
        window: ``"auto"``, ``"dtype"``, ``"percentile"``, the name of a CT window in `WINDOWS`, the arguments of a
            :class:`Window` as a mapping or as JSON text, e.g. ``'{"kind": "hu", "center": 40, "width": 400}'``, or one.

    Raises:
        ConfigError: when there is none of that name, or the arguments can't be used.
    """
    if isinstance(window, Window):
        return window
    if isinstance(window, str) and window.lstrip().startswith("{"):
        try:
            window = dict(json.loads(window))
        except ValueError as error:
            raise ConfigError(f"window is {window!r}, which is no JSON: {error}") from error
    if isinstance(window, Mapping):
        try:
            return Window(**window)
        except TypeError as error:
            raise ConfigError(f"window has arguments that Window doesn't take: {error}") from error
    preset = str(window).strip().lower().replace(" ", "_").replace("-", "_")
    if preset in WINDOWS:
        return Window("hu", preset=preset)
    if window in ("auto", "dtype", "percentile"):
        return Window(window)
    raise ConfigError(
        f"window is {window!r}; allowed: auto, dtype, percentile, {', '.join(WINDOWS)}, or arguments such as "
        '{"kind": "hu", "center": 40, "width": 400}'
    )


class Windowd(MapTransform):
    """Dictionary form of :class:`Window`.

    Args:
        keys: of the images.
        window: as :func:`as_window` takes it.
        allow_missing_keys: whether keys may be missing.

    Raises:
        ConfigError: when the window can't be used.
    """

    def __init__(
        self, keys: KeysCollection, window: str | Mapping[str, Any] | Window = "auto", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = as_window(window)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the window to every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.window(d[key], name=key)
        return d


WindowD = WindowDict = Windowd
