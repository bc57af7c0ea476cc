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

"""Outlines of made structures: blobs, beans and branching vessels as boolean masks, and smooth random fields.

Lengths are pixels of a 128-pixel image; the masks of a larger image are scaled with it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["REFERENCE_SIZE", "BoolMask", "Field", "blob", "field", "ramp", "ring", "vessel_tree"]

REFERENCE_SIZE = 128
BoolMask = NDArray[np.bool_]
Field = NDArray[np.float64]

_STEP = 0.5  # distance of two samples along a vessel, pixels of the reference size
_THINNEST = 2.0  # calibre at which a vessel ends
_FAINTEST = 1.5  # calibre below which a vessel that is cut beside its middle isn't seen
_RISE = 0.28  # how far the branches of a first fork rise and fall, of the height at which a vessel is cut no more


def _grid(size: int) -> tuple[Field, Field]:
    """Coordinates x (1, size) and y (size, 1) of the pixel centres, in pixels of the reference size."""
    axis = (np.arange(size) + 0.5) * REFERENCE_SIZE / size
    return axis[None, :], axis[:, None]


def blob(
    rng: np.random.Generator,
    size: int,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float = 0.0,
    roughness: float = 0.0,
    harmonics: tuple[int, int] = (2, 4),
    bend: float = 0.0,
) -> BoolMask:
    """A filled ellipse whose outline is deformed: r(θ) = 1 + Σₖ aₖ cos(kθ + φₖ), of random aₖ and φₖ.

    Args:
        rng: source of the deformation.
        size: side of the mask, pixels.
        centre: (x, y), pixels of the reference size.
        radii: half axes before the rotation, pixels of the reference size.
        angle: of the first half axis against x towards y (downwards), radians.
        roughness: standard deviation of Σₖ; 0 is an exact ellipse.
        harmonics: the first and the last k: low ones make an organ, high ones a ragged lesion.
        bend: how far the ends of the first axis are shifted along the second one, in half axes; 0.5 makes a bean.

    Returns:
        (size, size) bool.
    """
    # Only the window that the outline can reach is computed: this is what makes a phantom cheap.
    reach = 1.45 * max(radii) * (1 + abs(bend)) * size / REFERENCE_SIZE + 1
    columns, rows = (_window(c * size / REFERENCE_SIZE, reach, size) for c in centre)
    mask = np.zeros((size, size), dtype=bool)
    x, y = _grid(size)
    dx, dy = x[:, columns] - centre[0], y[rows] - centre[1]
    u = (dx * math.cos(angle) + dy * math.sin(angle)) / radii[0]
    v = (dy * math.cos(angle) - dx * math.sin(angle)) / radii[1]
    if bend:
        v = v - bend * (u**2 - 0.5)
    limit: Field | float = 1.0
    if roughness:
        theta = np.arctan2(v, u)
        orders = range(harmonics[0], harmonics[1] + 1)
        amplitudes = rng.normal(0.0, roughness * math.sqrt(2 / len(orders)), len(orders))
        phases = rng.uniform(0, 2 * math.pi, len(orders))
        waves = sum(a * np.cos(k * theta + p) for k, a, p in zip(orders, amplitudes, phases, strict=True))
        limit = np.clip(1.0 + waves, 0.65, 1.4)
    mask[rows, columns] = u**2 + v**2 <= limit**2
    return mask


def _window(centre: float, reach: float, size: int) -> slice:
    """The indices within ``reach`` of ``centre`` that lie in an axis of ``size`` pixels."""
    return slice(min(size, max(0, math.floor(centre - reach))), max(0, min(size, math.ceil(centre + reach))))


def _draw_discs(mask: BoolMask, x: Field, y: Field, radius: Field) -> None:
    """Set every pixel of ``mask`` whose centre lies within ``radius`` of one of the points (pixels of the mask)."""
    reach = math.ceil(float(radius.max()) + 0.5)
    offsets = np.arange(-reach, reach + 1)
    shape = (len(x), len(offsets), len(offsets))
    columns = np.broadcast_to(np.floor(x).astype(int)[:, None, None] + offsets[None, None, :], shape)
    rows = np.broadcast_to(np.floor(y).astype(int)[:, None, None] + offsets[None, :, None], shape)
    distance = (columns + 0.5 - x[:, None, None]) ** 2 + (rows + 0.5 - y[:, None, None]) ** 2
    height, width = mask.shape
    inside = (distance <= radius[:, None, None] ** 2) & (columns >= 0) & (columns < width) & (rows >= 0)
    inside &= rows < height
    mask[rows[inside], columns[inside]] = True


def vessel_tree(
    rng: np.random.Generator,
    size: int,
    root: tuple[float, float],
    heading: float,
    calibre: float,
    length: float,
    curvature: float = 0.02,
    spread: float = 0.6,
    generations: int = 3,
    swell: float = 1.0,
    level: float | None = None,
) -> BoolMask:
    """A curved vessel that tapers and splits in two until it is two pixels wide.

    The two branches of calibres d₁ and d₂ of a vessel of calibre d keep to Murray's law, d³ = d₁³ + d₂³
    (C. D. Murray, PNAS 1926).

    Args:
        rng: source of the course.
        size: side of the mask, pixels.
        root: (x, y) where it begins, pixels of the reference size.
        heading: direction at the root, radians from x towards y (downwards).
        calibre: width at the root, pixels of the reference size.
        length: of the first part, until it splits; each generation is about a quarter shorter.
        curvature: standard deviation of a part's mean curvature, radians a pixel.
        spread: mean angle between the branches and the vessel that they leave, radians.
        generations: number of times that a vessel splits at most.
        swell: factor on all calibres.
        level: height at which the tree is cut, as by a slice: of two branches one rises and one falls, and a vessel
            looks thinner away from its height, until at a distance of 1 nothing is left; ``None`` shows the whole tree.

    Returns:
        (size, size) bool.
    """
    xs, ys, widths, heights = [], [], [], []
    parts = [(root[0], root[1], heading, calibre, length, generations, 0.0, 0.0)]
    while parts:
        x0, y0, angle, width, extent, left, low, high = parts.pop()
        count = max(2, round(extent * rng.uniform(0.8, 1.2) / _STEP))
        turns = rng.normal(0.0, curvature) * _STEP + rng.normal(0.0, 0.04, count)
        angles = angle + np.cumsum(turns)
        x, y = x0 + np.cumsum(np.cos(angles)) * _STEP, y0 + np.cumsum(np.sin(angles)) * _STEP
        end = max(_THINNEST, 0.9 * width)
        xs.append(x)
        ys.append(y)
        widths.append(np.linspace(width, end, count))
        heights.append(np.linspace(low, high, count))
        if not left:
            continue
        share = rng.uniform(0.35, 0.65)
        side = rng.choice([-1.0, 1.0])
        for fraction, sign in ((share, side), (1 - share, -side)):
            branch = end * fraction ** (1 / 3)
            if branch >= _THINNEST:
                turn = sign * spread * (1.5 - fraction) * rng.uniform(0.7, 1.3)
                rise = high + float(sign) * _RISE * extent / length
                place = (float(x[-1]), float(y[-1]), float(angles[-1]) + turn)
                parts.append((*place, branch, 0.75 * extent, left - 1, high, rise))
    scale = size / REFERENCE_SIZE
    mask = np.zeros((size, size), dtype=bool)
    points = np.stack([np.concatenate(v) for v in (xs, ys, widths, heights)])
    points[2] *= swell
    if level is not None:
        points[2] *= np.sqrt(np.clip(1 - (points[3] - level) ** 2, 0, None))
        points = points[:, points[2] >= _FAINTEST]
    if points.size:
        _draw_discs(mask, points[0] * scale, points[1] * scale, points[2] * 0.5 * scale)
    return mask


def field(rng: np.random.Generator, size: int, sigma: float) -> Field:
    """Random field of mean 0 and standard deviation 1, (size, size): white noise smoothed with ``sigma``.

    Args:
        rng: source of the noise.
        size: side, pixels.
        sigma: of the Gaussian, pixels of the reference size.
    """
    # A wide Gaussian is drawn on a coarse grid: the same look in a fraction of the time.
    coarse = size if sigma < 6 else max(16, round(size * 3 / sigma))
    noise = gaussian_filter(rng.standard_normal((coarse, coarse)), sigma * coarse / REFERENCE_SIZE, mode="reflect")
    noise = (noise - noise.mean()) / noise.std()
    if coarse == size:
        return np.asarray(noise)
    at = (np.arange(size) + 0.5) * coarse / size - 0.5
    low = np.clip(np.floor(at).astype(int), 0, coarse - 2)
    part = np.clip(at - low, 0, 1)
    rows = noise[low] * (1 - part)[:, None] + noise[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def ramp(rng: np.random.Generator, size: int) -> Field:
    """Plane of random direction, -1 at one border of the image and 1 at the opposite one, (size, size)."""
    x, y = _grid(size)
    angle = rng.uniform(0, 2 * math.pi)
    plane = (x - REFERENCE_SIZE / 2) * math.cos(angle) + (y - REFERENCE_SIZE / 2) * math.sin(angle)
    return np.asarray(plane * 2 / REFERENCE_SIZE)


def ring(mask: BoolMask, width: float) -> BoolMask:
    """Pixels outside a mask that are nearer to it than about ``width`` pixels of the reference size."""
    sigma = max(0.5, width * mask.shape[0] / REFERENCE_SIZE / 1.5)
    near = gaussian_filter(mask.astype(np.float32), sigma) > 0.08
    return np.asarray(near & ~mask)
