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

"""Phantom volumes and cines: stacks of made slices or frames in which structures begin, change, move and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_sa2va.data.phantom_course import KINDS, Course
from monai_sa2va.data.phantom_looks import LOOKS, draw
from monai_sa2va.data.phantom_scene import STRUCTURES, Scene
from monai_sa2va.data.phantom_shapes import REFERENCE_SIZE
from monai_sa2va.data.phantoms import LABEL_VALUES, SYNONYMS, check_phantom
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError

__all__ = ["STACK_LOOKS", "PhantomStack", "check_stack", "make_stack", "stack_entry", "write_stack"]

STACK_LOOKS: Mapping[str, tuple[str, ...]] = {
    "volume": ("ct", "ultrasound"),
    "cine": ("fundus", "ct", "ultrasound"),
}
"""Looks that take turns in stacks of each kind: nobody takes volumes of fundus photographs, but films of them."""

_LARGEST = 512
_FEWEST, _MOST = 8, 256
# millimetres: of a pixel at the reference size, and between slices
_SPACINGS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "fundus": ((0.08, 0.1), (0.2, 0.3)),
    "ct": ((2.6, 3.0), (4.0, 6.0)),
    "ultrasound": ((0.7, 0.9), (1.0, 2.0)),
}
_FRAME_SECONDS = (0.04, 0.1)


@dataclass(frozen=True)
class PhantomStack:
    """A made volume or cine and its truth.

    Attributes:
        image: (D, H, W) uint8, grey; D counts slices from foot to head, or frames in time.
        label: (D, H, W) uint8, values of :data:`~monai_sa2va.data.phantoms.LABEL_VALUES`, 0 where there is no
            structure.
        look: one of ``"fundus"``, ``"ct"``, ``"ultrasound"``.
        kind: ``"volume"`` or ``"cine"``.
        seed: the number it was made from.
        spacing: of pixels along x and y and of slices, mm; 1 between a cine's frames, whose third axis is time.
        frame_seconds: from one frame to the next; ``None`` for a volume.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    look: str
    kind: str
    seed: int
    spacing: tuple[float, float, float]
    frame_seconds: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Structures that any slice shows, by their values."""
        held = set(np.unique(self.label).tolist())
        return tuple(name for name, value in LABEL_VALUES.items() if value in held)

    @property
    def absent(self) -> tuple[str, ...]:
        """Structures that this look can hold and no slice shows."""
        return tuple(name for name in STRUCTURES[self.look] if name not in self.names)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), index (x, y, z) -> RAS in mm: x towards the patient's left, y to the back, z to the head."""
        (depth, height, width), (x, y, z) = self.image.shape, self.spacing
        affine = np.diag([-x, -y, z, 1.0])
        affine[:3, 3] = x * (width - 1) / 2, y * (height - 1) / 2, -z * (depth - 1) / 2
        return affine


def make_stack(
    seed: int, kind: str = "volume", look: str | None = None, size: int = 128, slices: int = 24
) -> PhantomStack:
    """Make one volume or cine, the same for the same arguments.

    Each slice is drawn as a single phantom is, by the same hand: with its grey values, noise and light. In a volume,
    each structure begins in one slice and ends in another, and on the way its size, place and direction change
    smoothly; lesions, cysts and nodules are in a few slices, vessels run through most of them, their branches rising
    and falling out of the plane. In a cine all structures move to and fro, and at least one appears and vanishes.

    Args:
        seed: 0 or more.
        kind: ``"volume"`` or ``"cine"``.
        look: as for :func:`~monai_sa2va.data.phantoms.make_phantom`; by default those of `STACK_LOOKS` take turns.
        size: side of the slices, pixels, 32 to 512.
        slices: slices or frames, 8 to 256.

    Raises:
        ConfigError: when an argument can't be used.
    """
    check_stack(kind, size, slices)
    look = STACK_LOOKS[kind][seed % len(STACK_LOOKS[kind])] if look is None else look
    check_phantom(seed, look, size)
    # not the numbers of the single image of this seed
    key = [seed, tuple(LOOKS).index(look), 2 + KINDS.index(kind)]
    chosen = Scene(np.random.default_rng(key), np.random.default_rng(key), size).choose(look)
    course = Course(kind, [*key, 2], slices, chosen)
    image = np.zeros((slices, size, size), dtype=np.uint8)
    label = np.zeros_like(image)
    for index in range(slices):
        colours, masks = draw(key, look, size, course.section(index))
        image[index] = np.asarray(Image.fromarray(colours).convert("L")) if look == "fundus" else colours[..., 0]
        for name, mask in masks.items():
            label[index][mask] = LABEL_VALUES[name]
    rng = course.random("spacing")
    pixel, between = (round(float(rng.uniform(*ends)), 2) for ends in _SPACINGS[look])
    side = pixel * REFERENCE_SIZE / size
    if kind == "volume":
        return PhantomStack(image, label, look, kind, seed, (side, side, between))
    seconds = round(float(rng.uniform(*_FRAME_SECONDS)), 3)
    return PhantomStack(image, label, look, kind, seed, (side, side, 1.0), seconds)


def check_stack(kind: str, size: int, slices: int) -> None:
    """Refuse arguments of :func:`make_stack`.

    Raises:
        ConfigError: when ``kind`` is unknown, or ``size`` or ``slices`` is out of its range.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
    if size > _LARGEST:
        raise ConfigError(f"size is {size}; of a {kind} give at most {_LARGEST} pixels")
    if not _FEWEST <= slices <= _MOST:
        raise ConfigError(f"slices is {slices}; give {_FEWEST} to {_MOST}")


def write_stack(folder: Path, stack: PhantomStack) -> dict[str, Any]:
    """Write image and label as NIfTI to ``images/`` and ``labels/`` of a folder, and return their datalist entry.

    A cine is a NIfTI of three axes, of which the third is time, as its header's description says.

    Args:
        folder: with both subfolders.
        stack: what is written.

    Returns:
        The entry: ``prompts`` of what is in any slice; ``absent``: what the look can hold and is in none;
        ``foreign``: the phrases of each structure that no image of this look can hold; ``family``: the look;
        ``kind``; and of a cine ``frame_seconds``.
    """
    name = f"{stack.look}_{stack.kind}_{stack.seed:06d}.nii.gz"
    _write_nifti(folder / "images" / name, stack.image, stack)
    _write_nifti(folder / "labels" / name, stack.label, stack)
    return stack_entry(stack, f"images/{name}", f"labels/{name}")


def stack_entry(stack: PhantomStack, image: str, label: str) -> dict[str, Any]:
    """The datalist's entry of a volume or cine, as :func:`write_stack` returns it.

    Args:
        stack: what was written.
        image: its path, relative to the datalist.
        label: that of its truth.
    """
    entry: dict[str, Any] = {
        Keys.IMAGE.value: image,
        Keys.LABEL.value: label,
        Keys.PROMPTS.value: {str(LABEL_VALUES[held]): list(SYNONYMS[held]) for held in stack.names},
        Keys.ABSENT.value: list(stack.absent),
        Keys.FOREIGN.value: [list(words) for other, words in SYNONYMS.items() if other not in STRUCTURES[stack.look]],
        Keys.FAMILY.value: stack.look,
        "kind": stack.kind,
    }
    return entry if stack.frame_seconds is None else {**entry, "frame_seconds": stack.frame_seconds}


def _write_nifti(path: Path, planes: NDArray[np.uint8], stack: PhantomStack) -> None:
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(planes.transpose(2, 1, 0)), stack.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_dim_info(slice=2)
    if stack.frame_seconds is not None:
        image.header["slice_duration"] = stack.frame_seconds
        image.header["descrip"] = f"cine: third axis is time, {stack.frame_seconds:g} s a frame".encode()
    nibabel.save(image, path)
