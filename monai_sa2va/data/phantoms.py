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

"""Phantoms: images made in code, with truth, on which a prompted segmentation can be trained without any file."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from monai_sa2va.data.datalist import DATALIST_NAME, SECTIONS
from monai_sa2va.data.phantom_looks import LOOKS, draw
from monai_sa2va.data.phantom_scene import STRUCTURES
from monai_sa2va.data.phantom_shapes import BoolMask
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, OutputError

__all__ = [
    "DEFAULT_SPLITS",
    "FORMATS",
    "LABEL_VALUES",
    "SYNONYMS",
    "Phantom",
    "check_phantom",
    "image_entry",
    "make_phantom",
    "write_phantoms",
]

DEFAULT_SPLITS: Mapping[str, float] = {"training": 0.8, "validation": 0.1, "testing": 0.1}
"""Share of the images that each section of the datalist gets."""

_MIN_SIZE, _MAX_SIZE = 32, 4096  # at 4096, one image takes 2 GB and a minute

SYNONYMS: dict[str, tuple[str, ...]] = {
    "vessels": ("vessels", "blood vessels", "vasculature", "vascular tree"),
    "lesion": ("lesion", "abnormality", "focal lesion"),
    "optic disc": ("optic disc", "optic nerve head", "papilla"),
    "macula": ("macula", "macular region", "yellow spot"),
    "liver": ("liver", "hepatic tissue", "liver parenchyma"),
    "kidney": ("kidney", "renal tissue", "kidneys"),
    "spine": ("spine", "vertebra", "backbone"),
    "cyst": ("cyst", "fluid-filled cavity", "cystic cavity"),
    "nodule": ("nodule", "solid mass", "solid nodule"),
}
"""Phrases for each structure, the canonical name first."""

LABEL_VALUES: dict[str, int] = {name: value for value, name in enumerate(SYNONYMS, start=1)}
"""Value of each structure in a label map, the same in every image; 0 is background."""


@dataclass(frozen=True)
class Phantom:
    """A made image and its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB; the three channels of a grey look are equal.
        masks: (H, W) bool by canonical name, in paint order: disjoint, each what can be seen of the structure.
        look: one of ``"fundus"``, ``"ct"``, ``"ultrasound"``.
        seed: the number it was made from.
    """

    image: NDArray[np.uint8]
    masks: dict[str, BoolMask]
    look: str
    seed: int

    @property
    def label(self) -> NDArray[np.uint8]:
        """(H, W) label map of :data:`LABEL_VALUES`, 0 where there is no structure."""
        label = np.zeros(self.image.shape[:2], dtype=np.uint8)
        for name, mask in self.masks.items():
            label[mask] = LABEL_VALUES[name]
        return label

    @property
    def absent(self) -> tuple[str, ...]:
        """Canonical names that this look can hold and this image does not."""
        return tuple(name for name in STRUCTURES[self.look] if name not in self.masks)


def make_phantom(seed: int, look: str | None = None, size: int = 128) -> Phantom:
    """Make one image with two to five structures, the same for the same arguments.

    The structures are painted one over the other and the truth is what stays visible, so one label map holds it.
    Vessels are always there, every other structure in about four images of five.

    Args:
        seed: 0 or more.
        look: ``"fundus"``, ``"ct"`` or ``"ultrasound"``; by default they take turns with the seed.
        size: side of the image, pixels, 32 to 4096. Structures scale with it: vessels are 2 to 8 px wide at 128.

    Returns:
        the :class:`Phantom`.

    Raises:
        ConfigError: when ``seed`` is negative, ``look`` unknown or ``size`` out of its range.
    """
    names = tuple(LOOKS)
    look = names[seed % len(names)] if look is None else look
    check_phantom(seed, look, size)
    image, masks = draw([seed, names.index(look)], look, size)
    return Phantom(image, masks, look, seed)


def check_phantom(seed: int, look: str, size: int) -> None:
    """Refuse arguments of :func:`make_phantom`.

    Raises:
        ConfigError: when ``seed`` is negative, ``look`` unknown or ``size`` out of its range.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; give 0 or more")
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise ConfigError(f"size is {size}; give {_MIN_SIZE} to {_MAX_SIZE} pixels")
    if look not in LOOKS:
        raise ConfigError(f"look is {look!r}; known looks: {', '.join(LOOKS)}")


def write_phantoms(
    folder: str | os.PathLike[str],
    count: int = 320,
    seed: int = 0,
    size: int = 128,
    looks: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002
    splits: Mapping[str, float] | None = None,
    kind: str = "image",
    slices: int = 24,
    write: Callable[[Path, Any], dict[str, Any]] | None = None,
) -> Path:
    """Write phantoms and their datalist: ``images/``, ``labels/`` and ``datalist.json`` with relative paths.

    Image i has the seed ``seed + i``, so two folders of one kind share no image where their ranges of seeds do not
    meet. The datalist is written last: where it is, the folder is whole.

    Args:
        folder: made where it does not exist; has to be empty.
        count: number of images, volumes or cines, at least 1.
        seed: of the first image, 0 or more.
        size: side of the images, pixels, 32 to 4096, of volumes and cines to 512.
        looks: which take turns; all three by default, of volumes those of
            :data:`~monai_sa2va.data.phantom_stacks.STACK_LOOKS`.
        format: ``"png"``, the default of images: 8-bit images (RGB for the fundus, else grey) and 8-bit label maps.
            ``"nifti"``: grey (luminance of the fundus), uint8, (X, Y), pixels of 1 mm, x towards the patient's left and
            y towards the back, as an axial slice is shown. As DICOM see
            :func:`~monai_sa2va.writers.phantom_dicom.write_dicom_phantoms`.
        splits: share of each section, ``"training"``, ``"validation"``, ``"testing"``, adding up to 1; `DEFAULT_SPLITS`
            where not given.
        kind: ``"image"``, or ``"volume"`` or ``"cine"``, which are NIfTI or DICOM, see
            :func:`~monai_sa2va.data.phantom_stacks.write_stack`.
        slices: of a volume, or frames of a cine, 8 to 256.
        write: writes a phantom below a folder and returns its entry, in place of ``format``.

    Returns:
        Path of the datalist.

    Raises:
        ConfigError: when an argument can't be used.
        OutputError: when the folder is not empty or can't be written.
    """
    from monai_sa2va.data.phantom_stacks import STACK_LOOKS, check_stack, make_stack, write_stack

    names = STACK_LOOKS.get(kind, tuple(LOOKS)) if looks is None else tuple(looks)
    if not names:
        raise ConfigError(f"looks is empty; name at least one of {', '.join(LOOKS)}")
    for look in names:
        check_phantom(seed, look, size)
    if count < 1:
        raise ConfigError(f"count is {count}; give at least 1")
    if format is not None and format not in FORMATS:
        raise ConfigError(f"format is {format!r}; allowed: {', '.join(FORMATS)}")
    if kind != "image":
        if kind not in STACK_LOOKS:
            raise ConfigError(f"kind is {kind!r}; allowed: image, {', '.join(STACK_LOOKS)}")
        check_stack(kind, size, slices)
        if format not in (None, "nifti"):
            raise ConfigError(f"format is {format!r}; a {kind} is written as nifti or dicom")
    sections = _sections(count, DEFAULT_SPLITS if splits is None else splits)
    folder = Path(folder)
    try:
        existed = folder.exists()
        if existed and any(folder.iterdir()):
            raise OutputError(f"folder {folder} is not empty; name a new one or empty it")
        partial = folder / ".partial"
        try:
            for part in ("images", "labels"):
                (partial / part).mkdir(parents=True)
            datalist = _datalist_head(f"{'Image' if kind == 'image' else kind.capitalize()}s", size)
            console = Console(stderr=True)
            steps = track(range(count), "phantoms", console=console, disable=not console.is_terminal, transient=True)
            for i, section in zip(steps, sections, strict=True):
                look = names[(seed + i) % len(names)]
                made: Any = (
                    make_phantom(seed + i, look, size)
                    if kind == "image"
                    else make_stack(seed + i, kind, look, size, slices)
                )
                if write is not None:
                    entry = write(partial, made)
                else:
                    entry = (
                        _write_one(partial, made, format or "png") if kind == "image" else write_stack(partial, made)
                    )
                datalist[section].append(entry)
            (partial / DATALIST_NAME).write_text(json.dumps(datalist, indent=1) + "\n", encoding="utf-8")
            for part in ("images", "labels", DATALIST_NAME):
                os.replace(partial / part, folder / part)
            partial.rmdir()
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"phantoms can't be written to folder {folder}: {error.strerror or error}") from error
    return folder / DATALIST_NAME


def _sections(count: int, splits: Mapping[str, float]) -> list[str]:
    """The section of each of ``count`` images, in the order of `SECTIONS`."""
    unknown = [name for name in splits if name not in SECTIONS]
    if unknown:
        raise ConfigError(f"splits names {unknown[0]!r}; allowed: {', '.join(SECTIONS)}")
    shares = [float(splits.get(name, 0.0)) for name in SECTIONS]
    if not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ConfigError(f"splits {dict(splits)} has to hold shares of 0 to 1 that add up to 1")
    ends = [math.floor(count * sum(shares[: i + 1]) + 0.5) for i in range(len(SECTIONS))]
    return [next(name for name, end in zip(SECTIONS, ends, strict=True) if i < end) for i in range(count)]


def _datalist_head(things: str, size: int) -> dict[str, Any]:
    return {
        "name": "monai-sa2va phantoms",
        "description": f"{things} of {size} x {size} pixels made in code by monai-sa2va: no patient, no photograph.",
        "licence": "Apache-2.0",
        "labels": {"0": "background", **{str(value): name for name, value in LABEL_VALUES.items()}},
        **{section: [] for section in SECTIONS},
    }


def _write_one(folder: Path, phantom: Phantom, file_format: str) -> dict[str, Any]:
    """Write image and label, and return their entry of the datalist."""
    suffix, write = FORMATS[file_format]
    name = f"{phantom.look}_{phantom.seed:06d}{suffix}"
    write(folder / "images" / name, phantom.image if phantom.look == "fundus" else phantom.image[..., 0])
    write(folder / "labels" / name, phantom.label)
    return image_entry(phantom, f"images/{name}", f"labels/{name}")


def image_entry(phantom: Phantom, image: str, label: str) -> dict[str, Any]:
    """The datalist's entry of an image.

    Args:
        phantom: what was written.
        image: its path, relative to the datalist.
        label: that of its truth.
    """
    prompts = {LABEL_VALUES[structure]: list(SYNONYMS[structure]) for structure in phantom.masks}
    return {
        Keys.IMAGE.value: image,
        Keys.LABEL.value: label,
        Keys.PROMPTS.value: {str(value): prompts[value] for value in sorted(prompts)},
        Keys.ABSENT.value: list(phantom.absent),
        Keys.FAMILY.value: phantom.look,
    }


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path)


def _write_nifti(path: Path, pixels: NDArray[np.uint8]) -> None:
    import nibabel

    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    # A NIfTI array begins with x, and its affine leads to RAS: left and back are its negative directions.
    image = nibabel.Nifti1Image(np.ascontiguousarray(grey.T), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


FORMATS: dict[str, tuple[str, Callable[[Path, NDArray[np.uint8]], None]]] = {
    "png": (".png", _write_png),
    "nifti": (".nii.gz", _write_nifti),
}
"""By name, the suffix of a file format and the function that writes one image or label map."""
