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

"""Is the task of the phantoms a task? What no network is needed for, measured.

``python benchmarks/phantoms.py threshold --count 64 --seed 9000`` prints, for each prompt, the mean Dice of the best
global threshold (of both polarities) and of the best band of grey values, both chosen on the very images they are
scored on and so better than any real one, and how many images hold two structures that share their grey range.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.data.phantoms import Phantom, make_phantom

LEVELS = 256


def grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance (ITU-R BT.601) of an (H, W, 3) uint8 image: (H, W) uint8."""
    return np.round(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def best_dice(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> tuple[float, float]:
    """Mean Dice over (grey image, mask) pairs of the best single threshold and of the best band [low, high].

    Every pair of limits is tried, with one pair for all images; the mask is not empty.
    """
    total = np.zeros((LEVELS + 1, LEVELS + 1))
    count = 0
    for image, mask in pairs:
        # Pixels and hits darker than each level; a band [low, high) holds the difference of two.
        pixels, hits = (
            np.concatenate([[0], np.cumsum(np.bincount(values, minlength=LEVELS))])
            for values in (image.ravel(), image[mask])
        )
        inside, hit = pixels[None, :] - pixels[:, None], hits[None, :] - hits[:, None]
        total += 2 * hit / np.maximum(inside + mask.sum(), 1)
        count += 1
    mean = np.triu(total) / max(count, 1)
    return float(max(mean[:, LEVELS].max(), mean[0].max())), float(mean.max())


def share_grey(phantom: Phantom) -> bool:
    """Whether the central 80 % of the grey values of at least two structures overlap."""
    image = grey(phantom.image)
    ranges = [np.percentile(image[mask], (10, 90)) for mask in phantom.masks.values()]
    return any(max(a[0], b[0]) <= min(a[1], b[1]) for a, b in itertools.combinations(ranges, 2))


def threshold(count: int, seed: int, size: int, look: str | None) -> None:
    """Print the table of thresholds and the number of images whose structures share their grey range."""
    phantoms = [make_phantom(seed + i, look, size) for i in range(count)]
    names = sorted({name for phantom in phantoms for name in phantom.masks})
    print(f"{count} phantoms of seeds {seed} to {seed + count - 1}, {size} x {size}")
    print(f"{'prompt':<12} {'images':>6} {'threshold':>9} {'band':>6}")
    rows = []
    for name in names:
        pairs = [(grey(phantom.image), phantom.masks[name]) for phantom in phantoms if name in phantom.masks]
        rows.append(best_dice(pairs))
        print(f"{name:<12} {len(pairs):>6} {rows[-1][0]:>9.3f} {rows[-1][1]:>6.3f}")
    single, band = np.mean(rows, axis=0)
    print(f"{'mean':<12} {'':>6} {single:>9.3f} {band:>6.3f}")
    several = [phantom for phantom in phantoms if len(phantom.masks) > 1]
    print(f"structures share their grey range in {sum(map(share_grey, several))} of {len(several)} images with several")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trivial = commands.add_parser("threshold", help="what the best global threshold reaches")
    trivial.add_argument("--count", type=int, default=64, help="number of phantoms")
    trivial.add_argument("--seed", type=int, default=9000, help="seed of the first one")
    trivial.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    trivial.add_argument("--look", default=None, help="only this look; by default they take turns")
    trivial.set_defaults(run=threshold)
    arguments = vars(parser.parse_args())
    arguments.pop("command")
    arguments.pop("run")(**arguments)


if __name__ == "__main__":
    main()
