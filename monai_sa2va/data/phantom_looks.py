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

"""The three looks of a made image: fundus photograph, CT slice and ultrasound fan.

Each look draws its structures from the back to the front. Its grey values are chosen so that structures of one image
share them, and light that varies over the image spreads them further: a threshold finds none, shape and place do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.data.phantom_course import Section
from monai_sa2va.data.phantom_scene import Scene
from monai_sa2va.data.phantom_shapes import REFERENCE_SIZE, BoolMask, blob, ramp, ring

__all__ = ["LOOKS", "draw"]


def _place_lesions(scene: Scene, centres: list[tuple[float, float]], radius: tuple[float, float]) -> BoolMask:
    """Ragged blobs of random size at the given places."""
    mask = np.zeros((scene.size, scene.size), dtype=bool)
    for number, centre in enumerate(centres):
        size = scene.between(*radius)
        radii = (size, size * scene.between(0.7, 1.0))
        mask |= scene.blob(f"lesion#{number}", centre, radii, scene.between(0, math.pi), 0.13, (2, 5))
    return mask


def _fundus(scene: Scene) -> BoolMask:
    """Colour photograph of the retina: disc and vessels on one side, macula in the middle, bright lesions."""
    rng, size, chosen = scene.rng, scene.size, scene.choose("fundus")
    eye = blob(rng, size, scene.near(64, 64, 1), (61, 61))
    tint = np.array([0.60, 0.31, 0.16]) * rng.uniform(0.92, 1.08, 3)
    scene.image[:] = tint * (1 + 0.07 * scene.noise(9) + 0.03 * scene.noise(1.5))[..., None]
    for number in range(rng.integers(2, 5)):  # reflexes and pigment: bright and dark, but with no edge
        bright = rng.random() < 0.6
        place, radii = scene.near(64, 64, 45), (scene.between(5, 9), scene.between(4, 7))
        patch = scene.blob(f"patch#{number}", place, radii, scene.between(0, 3))
        scene.paint(patch, tint * (1.9 if bright else 0.5), strength=0.75, soft=3.0)

    side = 1 if rng.random() < 0.5 else -1
    disc = scene.near(64 + side * 34, 64, 4)
    macula = scene.near(64 - side * 10, 66, 4)
    if "macula" in chosen:
        radii = (scene.between(8, 10.5), scene.between(8, 10.5))
        scene.add("macula", scene.blob("macula", macula, radii), tint * 0.5, soft=1.0, mottle=0.12)
    if "optic disc" in chosen:
        radius = scene.between(9.5, 12)
        outline = scene.blob("optic disc", disc, (radius, radius * scene.between(1.0, 1.15)))
        scene.add("optic disc", outline, (0.90, 0.64, 0.40), mottle=0.08)
        cup = scene.blob("optic disc", disc, (radius * 0.45, radius * 0.5))
        scene.paint(cup, (1.0, 0.87, 0.66), soft=1.5)
    if "lesion" in chosen:
        places = []
        for _ in range(rng.integers(1, 4)):
            angle, distance = scene.between(0, 2 * math.pi), scene.between(26, 44)
            places.append((64 - side * 8 + distance * math.cos(angle) * 0.9, 64 + distance * math.sin(angle)))
        lesions = _place_lesions(scene, places, (5, 8.5)) & eye
        if "optic disc" in scene.masks:  # both are bright: where they touched, no border would show
            lesions &= ~(scene.masks["optic disc"] | ring(scene.masks["optic disc"], 3.0))
        # about as light as the disc, but white
        scene.add("lesion", lesions, (0.78, 0.78, 0.74), mottle=0.15)
    vessels = np.zeros((size, size), dtype=bool)
    for down in (-1, 1):
        for away, calibre, length in ((0.25, scene.between(4.5, 6.5), 34.0), (-0.7, scene.between(3.2, 4.5), 20.0)):
            # The arcades leave the disc up- and downwards and turn round the macula.
            heading = math.atan2(down, -side * away) + scene.between(-0.2, 0.2)
            vessels |= scene.tree("vessels", scene.near(*disc, 2), heading, calibre, length, 0.025, 0.6)
    scene.add("vessels", vessels & eye, tint * np.array([0.55, 0.3, 0.4]))
    return eye


def _ct(scene: Scene) -> BoolMask:
    """Axial slice of the upper abdomen: liver with vessels and dark lesions, kidneys, spine; ribs and bowel unnamed."""
    rng, size, chosen = scene.rng, scene.size, scene.choose("ct")
    centre = scene.near(64, 64, 2)
    axes = (scene.between(54, 60), scene.between(44, 50))
    body = blob(rng, size, centre, axes, 0.0, 0.015)
    wall = blob(rng, size, centre, (axes[0] - 5, axes[1] - 5), 0.0, 0.01)
    scene.image[:] = 0.03
    scene.paint(body, 0.26)
    scene.paint(wall, 0.42)
    scene.image[wall] += 0.03 * scene.noise(5)[wall][:, None]
    for number in range(rng.integers(7, 11)):  # ribs
        angle = scene.between(0, 2 * math.pi)
        place = (centre[0] + (axes[0] - 5) * math.cos(angle), centre[1] + (axes[1] - 5) * math.sin(angle))
        scene.paint(scene.blob(f"rib#{number}", place, (4, 2), angle + math.pi / 2), 0.8)
    for number in range(rng.integers(3, 6)):  # bowel, some of it with contrast, some with gas
        place, radii = scene.near(88, 52, 16), (scene.between(5, 8), scene.between(4, 6))
        loop = scene.blob(f"bowel#{number}", place, radii, scene.between(0, 3), 0.08)
        scene.paint(loop & wall, float(rng.choice([0.16, 0.56, 0.7])))

    liver = scene.near(44, 56, 3)
    if "liver" in chosen:
        radii = (scene.between(25, 30), scene.between(20, 25))
        scene.add("liver", scene.blob("liver", liver, radii, scene.between(-0.5, 0.1), 0.07) & wall, 0.58)
    if "lesion" in chosen:
        places = [scene.near(*liver, 16) for _ in range(rng.integers(1, 4))]
        inner = blob(rng, size, centre, (axes[0] - 12, axes[1] - 12))  # at the dark rim they would show no border
        scene.add("lesion", _place_lesions(scene, places, (5, 8.5)) & inner, 0.24)
    root, heading = scene.near(76, 62, 3), math.pi + scene.between(-0.15, 0.45)
    vessels = scene.tree("vessels", root, heading, scene.between(6, 8), 24, 0.015, 0.7)
    scene.add("vessels", vessels & wall, 0.78)
    if "kidney" in chosen:
        for side in (-1, 1):
            radii = (scene.between(10, 12.5), scene.between(6.5, 8.5))
            place = scene.near(64 + side * 29, 88, 3)
            kidney = scene.blob(f"kidney#{side}", place, radii, side * -1.0, 0.03, bend=side * 0.35)
            scene.paint(ring(kidney, 1.5) & wall, 0.3)
            scene.add("kidney", kidney & wall, 0.71)
    if "spine" in chosen:
        spine = scene.near(64, 92, 2)
        vertebra = scene.blob("spine", spine, (scene.between(9, 11), scene.between(7, 8.5)), 0.0, 0.03)
        vertebra |= scene.blob("spine", (spine[0], spine[1] + 11), (2.5, 6))
        scene.paint(ring(vertebra, 1.5) & wall, 0.3)
        scene.add("spine", vertebra, 0.76)
    return np.ones((size, size), dtype=bool)


def _ultrasound(scene: Scene) -> BoolMask:
    """Fan of speckle: dark vessels with bright walls, a dark cyst with a bright tail, a rimmed nodule."""
    rng, size, chosen = scene.rng, scene.size, scene.choose("ultrasound")
    axis = (np.arange(size) + 0.5) * REFERENCE_SIZE / size
    apex = scene.between(58, 70)
    depth = np.hypot(axis[None, :] - apex, axis[:, None] + 22)
    angle = np.arctan2(axis[None, :] - apex, axis[:, None] + 22)
    fan = (np.abs(angle) < scene.between(0.5, 0.58)) & (depth > 30) & (depth < 146)
    layers = np.sin(depth * scene.between(0.15, 0.3) + 2 * scene.noise(20))
    tissue = 0.50 + 0.07 * layers + 0.06 * scene.noise(8)
    scene.image[:] = tissue[..., None]
    for number in range(rng.integers(3, 6)):  # echoes without a name
        place, radii = scene.near(64, 70, 42), (scene.between(4, 9), 2.0)
        echo = scene.blob(f"echo#{number}", place, radii, scene.between(-0.5, 0.5), 0.1)
        scene.paint(echo, 0.85)
    shadow = np.exp(-(((angle - scene.between(-0.4, 0.4)) / 0.09) ** 2)) * (depth > scene.between(50, 90))

    upper = rng.random() < 0.5
    places = [scene.near(46, 45 if upper else 95, 6), scene.near(84, 45 if upper else 95, 6)]
    rng.shuffle(places)
    if "cyst" in chosen:
        radii = (scene.between(9, 13), scene.between(8, 11))
        cyst = scene.blob("cyst", places[0], radii, scene.between(-0.4, 0.4), 0.03)
        tail = scene.blob("cyst", (places[0][0], places[0][1] + radii[1] + 11), (radii[0] * 0.7, 12))
        scene.paint(tail, 0.85, strength=0.7, soft=2.0)
        scene.add("cyst", cyst, 0.07)
    if "nodule" in chosen:
        nodule = scene.blob("nodule", places[1], (scene.between(9, 12), scene.between(8, 11)), 0.0, 0.1, (3, 6))
        scene.paint(ring(nodule, 2.0), 0.95)
        scene.add("nodule", nodule, 0.24)
    level = scene.between(78, 92) if upper else scene.between(42, 56)
    heading = scene.between(-0.25, 0.25)
    start = 64 - scene.between(38, 46)
    vessels = scene.tree("vessels", (start, level), heading, scene.between(6, 8), 34, 0.012, 0.5)
    if rng.random() < 0.5:
        vessels = vessels[:, ::-1]
    for mask in scene.masks.values():  # a lumen that ran into a cyst would show no border
        vessels &= ~(mask | ring(mask, 3.0))
    scene.paint(ring(vessels, 1.2), 0.8)
    scene.add("vessels", vessels, 0.1)
    for name in list(scene.masks):
        scene.masks[name] = scene.masks[name] & fan

    grains = np.hypot(scene.noise(0.8), scene.noise(0.8)) / math.sqrt(math.pi / 2)
    scene.image *= (grains**0.55 * (1 - 0.55 * shadow) * fan)[..., None]
    return fan


LOOKS: dict[str, Callable[[Scene], BoolMask]] = {"fundus": _fundus, "ct": _ct, "ultrasound": _ultrasound}
"""By name, the function that draws a look into a :class:`Scene` and returns the field of view, (H, W) bool."""


def draw(
    key: Sequence[int], look: str, size: int, section: Section | None = None
) -> tuple[NDArray[np.uint8], dict[str, BoolMask]]:
    """Draw one image with its light and noise.

    Args:
        key: numbers that all chance comes from.
        look: of `LOOKS`.
        size: side, pixels.
        section: which slice or frame of a longer scene it is; a single image by default.

    Returns:
        Image (H, W, 3) uint8, RGB, and the disjoint masks (H, W) bool of what can be seen, by name.
    """
    rng = np.random.default_rng([*key])
    scene = Scene(rng, np.random.default_rng([*key, 1]), size, section)
    inside = LOOKS[look](scene)
    image = scene.image * (1 + 0.28 * ramp(rng, size) + 0.06 * scene.noise(24))[..., None]
    image = image * rng.uniform(0.75, 1.1) + rng.uniform(-0.03, 0.08)
    image += 0.025 * scene.noise(0.6)[..., None]
    image = np.clip(image * inside[..., None], 0, 1)
    return np.round(image * 255).astype(np.uint8), scene.visible()
