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

"""Is the task of the phantoms a task, and does the trained model look at the sentence? Measured.

``python benchmarks/phantoms.py threshold --count 64 --seed 9000`` prints, for each prompt, the mean Dice of the best
global threshold (of both polarities) and of the best band of grey values, both chosen on the very images they are
scored on and so better than any real one, and how many images hold two structures that share their grey range.

``python benchmarks/phantoms.py model --checkpoint demo/models/model.pt`` prints the trained model's Dice for each
prompt, and what is left of it when each structure is asked for by the name of another one of its image: a model that
ignores the sentence would lose nothing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monai_sa2va.data.phantoms import Phantom, make_phantom
from monai_sa2va.errors import Sa2VAError

if TYPE_CHECKING:
    from scoring import Case

    from monai_sa2va.metrics import PromptScores
    from monai_sa2va.predictor import Segmenter

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


def other_names(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The same names, at random, in an order that leaves none of them in its place.

    Of ``n`` names, ``n - 1`` rotations of a random order do; one of them is drawn. ``n`` is at least 2.
    """
    order = [names[i] for i in rng.permutation(len(names))]
    step = int(rng.integers(1, len(names)))
    following = dict(zip(order, order[step:] + order[:step], strict=True))
    return [following[name] for name in names]


def exchange_names(segmenter: Segmenter, cases: Sequence[Case], seed: int) -> tuple[PromptScores, PromptScores]:
    """Dice of each structure asked for by its own name, and by that of another one of its image.

    Images with one structure only count for the first.

    Raises:
        DataError: when no image has two structures.
    """
    from scoring import PLAIN, ask, score

    rng = np.random.default_rng(seed)
    right, wrong = [], []
    for case in cases:
        names = list(case.masks)
        masks, _ = ask(segmenter, case, [PLAIN.format(name) for name in names])
        found = dict(zip(names, masks, strict=True))
        right += [(name, found[name], case.masks[name]) for name in names]
        if len(names) > 1:
            pairs = zip(names, other_names(names, rng), strict=True)
            wrong += [(name, found[other], case.masks[name]) for name, other in pairs]
    return score(right), score(wrong)


def model(checkpoint: str, preset: str, count: int, seed: int, size: int) -> None:
    """Print the trained model's Dice by prompt, asked rightly and with the names of an image exchanged."""
    # imported here, as PyTorch takes seconds to load and thresholds don't need it
    from scoring import load_segmenter, make_cases, print_table

    right, wrong = exchange_names(load_segmenter(checkpoint, preset), make_cases(count, seed, size), seed)
    print_table(
        f"{count} phantoms of seeds {seed} to {seed + count - 1}, {size} x {size}",
        ["prompt", "objects", "Dice", "Dice by another's name"],
        [[name, right.counts[name], dice, wrong.by_name.get(name)] for name, dice in right.by_name.items()],
        ["mean over prompts", "", right.mean, wrong.mean],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trivial = commands.add_parser("threshold", help="what the best global threshold reaches")
    trivial.add_argument("--count", type=int, default=64, help="number of phantoms")
    trivial.add_argument("--seed", type=int, default=9000, help="seed of the first one")
    trivial.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    trivial.add_argument("--look", default=None, help="only this look; by default they take turns")
    trivial.set_defaults(run=threshold)
    trained = commands.add_parser("model", help="what a trained model reaches, asked rightly and with names exchanged")
    trained.add_argument("--checkpoint", required=True, help="file of weights, e.g. demo/models/model.pt")
    trained.add_argument("--preset", default="tiny", help="geometry of a checkpoint that does not say its own")
    trained.add_argument("--count", type=int, default=64, help="number of phantoms")
    trained.add_argument("--seed", type=int, default=9000, help="seed of the first one")
    trained.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    trained.set_defaults(run=model)
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    try:
        arguments.pop("run")(**arguments)
    except Sa2VAError as error:
        sys.exit(f"phantoms.py {command}: {error}")


if __name__ == "__main__":
    main()
