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

"""What goes back to a client: one label map on the source's own grid, and what the model says of each object."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
from PIL import Image

from monai_sa2va.cli.main import DISCLAIMER
from monai_sa2va.errors import OutputError
from monai_sa2va.label.options import RequestError
from monai_sa2va.segmentation import Segmentation
from monai_sa2va.writers.report import describe_objects

__all__ = ["EXTENSIONS", "LabelMap", "describe", "label_map", "write_label"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".png")
"""What ``result_extension`` may be; ``.png`` holds pictures alone."""

_TYPES = ("uint8", "uint16", "int16", "int32", "uint32", "float32", "float64")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Several objects in one map.

    Attributes:
        values: (X, Y) or (X, Y, Z) uint8, on the source's own grid; 0 is background.
        numbers: value of each object.
        overlap: voxels that more than one object claimed; each went to the object named last.
    """

    values: np.ndarray
    numbers: list[int]
    overlap: int


def label_map(segmentation: Segmentation, labels: Sequence[str]) -> LabelMap:
    """Draw the objects into one map, in the order in which they were named.

    An object whose name is among ``labels`` gets its place there, counted from 1, so that clients which know nothing
    but places (OHIF) show it by its name. Others get the places of ``object``, ``object 2`` and so on, then what
    follows.

    Args:
        segmentation: of one image.
        labels: the server's; none for clients that are told the names: the values are then 1, 2, ... without a gap, as
            3D Slicer gives the n-th name to the value n, whatever value it was told.

    Raises:
        OutputError: when there are more than 255 objects.
    """
    listed = {name.casefold(): place for place, name in enumerate(labels, start=1)}
    generic = [place for name, place in listed.items() if name.partition(" ")[0] == "object"]
    numbers: list[int] = []
    for name in segmentation.labels:
        own = listed.get(name.casefold())
        free = (place for place in (*generic, *range(len(labels) + 1, 256)) if place not in numbers)
        number = own if own is not None and own not in numbers else next(free, None)
        if number is None:
            raise OutputError(f"the answer has {len(segmentation.labels)} objects; a label map holds 255")
        numbers.append(number)
    masks = segmentation.on_source_grid()
    values = np.zeros(masks.shape[1:], dtype=np.uint8)
    for number, mask in zip(numbers, masks, strict=True):
        values[mask] = number
    return LabelMap(values, numbers, int((masks.sum(axis=0, dtype=np.uint8) > 1).sum()))


def describe(segmentation: Segmentation, drawn: LabelMap) -> dict[str, Any]:
    """The JSON that a client gets beside the label map.

    Args:
        segmentation: of one image.
        drawn: its label map.

    Returns:
        ``label_names`` (name -> value, in ascending order; an object without voxels is named, too, which is how 3D
        Slicer comes to empty its segment; of no object at all ``background`` alone), ``answer``,
        ``scores`` (name -> presence, 0 to 1), ``objects`` (for each ``name``, ``value``, ``presence``,
        ``voxels``, ``volume_mm3`` or ``area_mm2``, ``empty_because``), ``empty_because`` (why the whole map is empty,
        else ``None``), ``overlap_voxels`` and ``notice``.
    """
    told = describe_objects(segmentation, [[] for _ in segmentation.labels])
    objects = []
    for number, item in zip(drawn.numbers, told, strict=True):
        # of what a later object covers, nothing is left
        left = int((drawn.values == number).sum())
        keys = ("presence", "volume_mm3", "area_mm2", "empty_because")
        covered = "objects named after it cover it" if item["voxels"] and not left else None
        objects.append(
            {"name": item["label"], "value": number, "voxels": left, **{key: item[key] for key in keys}}
            | ({"empty_because": covered} if covered else {})
        )
    told_apart = _unlike([item["name"] for item in objects])
    values = {name: item["value"] for name, item in zip(told_apart, objects, strict=True)}
    reasons = [str(item["empty_because"]) for item in objects if item["empty_because"]]
    nothing = "; ".join(reasons) if objects else "the model's answer names no object"
    return {
        # of no names at all 3D Slicer would empty every segment that the server has a label for
        "label_names": dict(sorted(values.items(), key=lambda pair: pair[1])) or {"background": 0},
        "answer": segmentation.text,
        "scores": dict(zip(told_apart, [item["presence"] for item in objects], strict=True)),
        "objects": objects,
        "empty_because": None if any(item["voxels"] for item in objects) else nothing,
        "overlap_voxels": drawn.overlap,
        "notice": DISCLAIMER,
    }


def write_label(drawn: LabelMap, segmentation: Segmentation, request: Mapping[str, Any]) -> str:
    """Write a label map into a temporary file, which the server removes once it is sent.

    Args:
        drawn: the map.
        segmentation: whose grid it has.
        request: ``result_extension`` (one of :data:`EXTENSIONS`, ``.nii.gz`` by default), ``result_dtype`` (``uint8``
            by default; without effect on values) and ``result_compress`` (of ``.nrrd``, true by default).

    Returns:
        Path of the file.

    Raises:
        RequestError: when a field can't be used.
    """
    extension, dtype = request.get("result_extension") or ".nii.gz", request.get("result_dtype") or "uint8"
    if extension == ".seg.nrrd":
        extension = ".nrrd"
    if extension not in EXTENSIONS:
        raise RequestError(f"result_extension is {str(extension)[:40]!r}; choose one of: {', '.join(EXTENSIONS)}")
    if dtype not in _TYPES:
        raise RequestError(f"result_dtype is {str(dtype)[:40]!r}; choose one of: {', '.join(_TYPES)}")
    values = drawn.values.astype(dtype)
    if extension == ".png" and values.ndim == 3:
        raise RequestError("result_extension is .png, which holds no volume; choose .nii.gz or .nrrd")
    with tempfile.NamedTemporaryFile(prefix="sa2va_", suffix=str(extension), dir=_folder(), delete=False) as file:
        path = Path(file.name)
    affine = segmentation.source_grid.affine
    if extension == ".png":
        Image.fromarray(drawn.values.T).save(path)
    elif extension == ".nrrd":
        _write_nrrd(path, values, affine, request.get("result_compress", True))
    else:
        nib.save(_nifti(values, segmentation), path)
    return str(path)


@cache
def _folder() -> str:
    """A temporary folder of this process, which goes with it.

    The stock client keeps what it gets under the same name in the system's temporary folder. On the server's own
    machine that would be the file which the server removes.
    """
    folder = tempfile.mkdtemp(prefix="sa2va_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _nifti(values: np.ndarray, segmentation: Segmentation) -> Any:
    affine, source = segmentation.source_grid.affine, segmentation.source_header
    if not isinstance(source, nib.Nifti1Header) or affine is None:
        image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
        image.header.set_xyzt_units("mm")
        return image
    header = nib.Nifti1Header()
    # what places it in space; the rest may name a patient
    for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"):
        header[field] = source[field]
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        header[field] = source[field]
    header.set_data_dtype(values.dtype)
    return nib.Nifti1Image(values, None, header)


def _write_nrrd(path: Path, values: np.ndarray, affine: np.ndarray | None, compress: Any) -> None:
    header: dict[str, Any] = {"encoding": "gzip" if compress is True else "raw"}
    if affine is not None:
        # of one slice in space its third axis was dropped
        values = values[..., None] if values.ndim == 2 else values
        lps = _RAS_TO_LPS @ affine
        header |= {
            "space": "left-posterior-superior",
            "kinds": ["domain"] * 3,
            "space directions": lps[:3, :3].T,
            "space origin": lps[:3, 3],
        }
    nrrd.write(str(path), values, header)


def _unlike(names: Sequence[str]) -> list[str]:
    """Names of which no two are alike: a name that comes again gets its number."""
    told: list[str] = []
    for name in names:
        again = sum(other == name or other.startswith(f"{name} (") for other in told)
        told.append(f"{name} ({again + 1})" if again else name)
    return told
