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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.data.phantom_looks import LOOKS, STRUCTURES, Scene
from monai_sa2va.data.phantom_shapes import BoolMask, ramp
from monai_sa2va.errors import ConfigError

__all__ = ["LABEL_VALUES", "SYNONYMS", "Phantom", "make_phantom"]

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
        size: side of the image, pixels, at least 32. Structures scale with it: vessels are 2 to 8 px wide at 128.

    Returns:
        the :class:`Phantom`.

    Raises:
        ConfigError: when ``seed`` is negative, ``look`` unknown or ``size`` below 32.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; give 0 or more")
    if size < 32:
        raise ConfigError(f"size is {size}; give at least 32 pixels")
    names = tuple(LOOKS)
    look = names[seed % len(names)] if look is None else look
    if look not in LOOKS:
        raise ConfigError(f"look is {look!r}; known looks: {', '.join(names)}")
    rng = np.random.default_rng([seed, names.index(look)])
    scene = Scene(rng, np.random.default_rng([seed, names.index(look), 1]), size)
    inside = LOOKS[look](scene)
    image = scene.image * (1 + 0.28 * ramp(rng, size) + 0.06 * scene.noise(24))[..., None]
    image = image * rng.uniform(0.75, 1.1) + rng.uniform(-0.03, 0.08)
    image += 0.025 * scene.noise(0.6)[..., None]
    image = np.clip(image * inside[..., None], 0, 1)
    return Phantom(np.round(image * 255).astype(np.uint8), scene.visible(), look, seed)
