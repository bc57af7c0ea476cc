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

"""What the transforms between volumes and planes share: finding the geometry, and keeping it for the way back."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform
from monai.utils import TraceKeys, convert_to_tensor

from monai_sa2va.errors import DataError
from monai_sa2va.transforms.geometry import PlaneGeometry, check_axis
from monai_sa2va.transforms.source import grid_of, source_name

__all__ = ["PlaneTransform", "plain"]


class PlaneTransform(InvertibleTransform):
    """Base of the invertible transforms from an image to planes of it.

    Args:
        axis: ``"auto"``, ``"axial"``, ``"coronal"``, ``"sagittal"``, or a source axis from -3 to 2.

    Raises:
        ConfigError: when ``axis`` is none of these.
    """

    def __init__(self, axis: int | str = "auto") -> None:
        self.axis = check_axis(axis)

    def _geometry(self, image: Any, name: Hashable) -> PlaneGeometry:
        if image.ndim == 3:
            return PlaneGeometry.of_picture(image.shape[1:])
        if image.ndim != 4:
            raise DataError(
                f"{source_name(image, name)} has shape {tuple(image.shape)}; expected (C, X, Y) or (C, X, Y, Z), "
                "as LoadImaged(ensure_channel_first=True) gives"
            )
        affine = grid_of(image).affine
        if affine is None:
            raise DataError(
                f"{source_name(image, name)} is a volume without an affine, so its orientation is unknown; "
                "load it with LoadImaged, or pass a MetaTensor"
            )
        try:
            return PlaneGeometry.of_volume(image.shape[1:], affine, self.axis)
        except DataError as error:
            raise DataError(f"{source_name(image, name)}: {error.args[0]}") from error

    def _remember(self, out: torch.Tensor, image: Any, geometry: PlaneGeometry, index: int) -> torch.Tensor:
        """Carry the source's meta data over to ``out`` and note how to get back."""
        if not get_track_meta():
            return out
        tracked = MetaTensor(out)
        if isinstance(image, MetaTensor):
            tracked.copy_meta_from(image)
        info = {
            "shape": list(geometry.shape),
            "order": list(geometry.order),
            "flips": [int(flip) for flip in geometry.flips],
            "index": index,
            "affine": tracked.affine.clone(),
        }
        size = tuple(image.shape[1:])
        result: torch.Tensor = self.push_transform(
            tracked, affine=geometry.matrix(index), orig_size=size, extra_info=info
        )
        return result

    def _recall(self, planes: torch.Tensor, name: str) -> tuple[PlaneGeometry, dict[str, Any], tuple[int, ...]]:
        transform = self.pop_transform(planes)
        info = transform[TraceKeys.EXTRA_INFO]
        shape, order, flips = ([int(value) for value in info[key]] for key in ("shape", "order", "flips"))
        geometry = PlaneGeometry(
            (shape[0], shape[1], shape[2]),
            (order[0], order[1], order[2]),
            (bool(flips[0]), bool(flips[1]), bool(flips[2])),
        )
        if tuple(planes.shape[-2:]) != geometry.plane_shape:
            raise DataError(
                f"{source_name(planes, name)} is {planes.shape[-2]} x {planes.shape[-1]}, but its source's plane is "
                f"{geometry.plane_shape[0]} x {geometry.plane_shape[1]}; bring it back to that size first"
            )
        return geometry, info, tuple(int(n) for n in transform[TraceKeys.ORIG_SIZE])

    @staticmethod
    def _restore(
        volume: torch.Tensor, planes: torch.Tensor, info: dict[str, Any], size: tuple[int, ...]
    ) -> torch.Tensor:
        result = volume.reshape(volume.shape[0], *size)
        if isinstance(planes, MetaTensor):
            tracked = MetaTensor(result).copy_meta_from(planes)
            tracked.affine = torch.as_tensor(info["affine"], dtype=torch.float64)
            return tracked
        return result


def plain(image: Any) -> torch.Tensor:
    """An array as a tensor without meta data."""
    tensor: torch.Tensor = convert_to_tensor(image, track_meta=False)
    return tensor
