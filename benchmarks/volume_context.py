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

"""Which slices the language model sees, and what that is worth: ``python benchmarks/volume_context.py``.

Makes volumes of 300 phantom slices whose object is in slices 180 to 220 only, and segments each by the shipped weights:
slice by slice; by propagation from the slices that a sweep over the volume finds, from evenly spread ones, and from the
best one alone; and as the reference does, from the first five. Prints, as means over the volumes, the Dice of slices
180 to 220, the voxels outside of the object's slices as a share of the object, the slices that were asked, and slices a
second beside those of slice by slice. The exit code is 1 where propagation by a sweep is more than 0.05 of Dice below
slice by slice in any volume, or has more than 1 % of the object outside.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from interaction import dice
from monai.data import MetaTensor
from numpy.typing import NDArray
from scoring import PLAIN, BoolMask, print_table

from monai_sa2va.data.phantom_course import Course, Pose, Section
from monai_sa2va.data.phantom_looks import LOOKS, draw
from monai_sa2va.data.phantom_scene import Scene
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.inferers.volume import VolumeInferer
from monai_sa2va.predictor import Segmenter

__all__ = ["WAYS", "Made", "Measured", "choose", "main", "make_volume", "measure"]

CASES = (("ct", "liver"), ("ct", "kidney"), ("ultrasound", "cyst"), ("ultrasound", "nodule"))
"""Looks and structures that take turns."""

WAYS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "slice by slice": ({}, {"volume": "slices"}),
    "sweep": ({}, {"volume": "propagate", "context": "sweep"}),
    "sweep, best slice alone": ({"n_context": 1}, {"volume": "propagate", "context": "sweep"}),
    "uniform": ({}, {"volume": "propagate", "context": "uniform"}),
    "first five (reference)": ({}, {"context": "first5"}),
}
"""Arguments of :class:`VolumeInferer`, and of :meth:`Segmenter.segment`."""

_SLICES = 300
_FINE = 1000  # slices in which the ends of a structure's course are looked for
_FIRST_SEED = 9100  # beyond the seeds of all training


@dataclass(frozen=True, eq=False)
class Made:
    """A made volume.

    Attributes:
        image: (1, X, Y, D) uint8, with its affine.
        truth: (D, H, W) bool, of the object.
        name: of the object.
    """

    image: MetaTensor
    truth: BoolMask
    name: str


class Measured(NamedTuple):
    """What one way makes of one volume.

    Attributes:
        dice: of the slices that may hold the object.
        outside: voxels in other slices than the object's, as a share of the object.
        asked: slices that the language model saw.
        seconds: for the whole volume.
    """

    dice: float
    outside: float
    asked: int
    seconds: float


class _Held(Section):
    """A slice that has one structure as another course has it, or not at all."""

    def __init__(self, course: Course, index: int, name: str, own: Section | None) -> None:
        super().__init__(course, index)
        self.name, self.own = name, own

    def pose(self, part: str) -> Pose | None:
        if part.partition("#")[0] != self.name:
            return super().pose(part)
        return None if self.own is None else self.own.pose(part)


def make_volume(
    seed: int, look: str, name: str, slices: int = _SLICES, first: int = 180, last: int = 220, size: int = 128
) -> Made | None:
    """A phantom volume that has one structure in some slices only; all others go through it as they do.

    Args:
        seed: of its chance.
        look: of the phantoms.
        name: of the structure.
        slices: of the volume.
        first: slice that may have the structure.
        last: likewise.
        size: side of the slices, pixels.

    Returns:
        ``None`` where the phantom of this seed has no such structure that can be seen.
    """
    key = [seed, tuple(LOOKS).index(look), 2]
    chosen = Scene(np.random.default_rng(key), np.random.default_rng(key), size).choose(look)
    if name not in chosen:
        return None
    course, fine = Course("volume", [*key, 2], slices, chosen), Course("volume", [*key, 2], _FINE, chosen)
    held = [index for index in range(_FINE) if fine.section(index).pose(name) is not None]
    planes: NDArray[np.uint8] = np.zeros((slices, size, size), dtype=np.uint8)
    truth = np.zeros((slices, size, size), dtype=bool)
    for index in range(slices):
        place = held[0] + (held[-1] - held[0]) * (index - first + 0.5) / (last - first + 1)
        own = fine.section(round(place)) if first <= index <= last else None
        colours, masks = draw(key, look, size, _Held(course, index, name, own))
        planes[index] = colours[..., 0]
        truth[index] = masks.get(name, False)
    if not truth.any():
        return None
    affine = torch.diag(torch.tensor([-1.0, -1.0, 3.0, 1.0], dtype=torch.float64))
    return Made(MetaTensor(torch.from_numpy(planes.transpose(2, 1, 0).copy())[None], affine=affine), truth, name)


def choose(count: int, **arguments: Any) -> Iterator[Made]:
    """The first ``count`` volumes that can be made, structures in turns; ``arguments`` as for :func:`make_volume`."""
    seed = _FIRST_SEED
    for number in range(count):
        made = None
        while made is None:
            made, seed = make_volume(seed, *CASES[number % len(CASES)], **arguments), seed + 1
        yield made


class _Counting(ImageInferer):
    """Counts the slices that are asked."""

    asked = 0

    def __call__(self, *arguments: Any, **named: Any) -> ImageResult:
        self.asked += 1
        return super().__call__(*arguments, **named)


def measure(segmenter: Segmenter, made: Made, way: str) -> Measured:
    """Segment a volume in one of :data:`WAYS`."""
    made_by, asked_by = WAYS[way]
    counting = _Counting(amp=segmenter.inferer.amp)
    own = Segmenter(
        segmenter.network, segmenter.device, inferer=counting, axis=2, volume_inferer=VolumeInferer(**made_by)
    )
    start = time.perf_counter()
    found = own.segment(made.image, PLAIN.format(made.name), **asked_by).masks[0]
    seconds = time.perf_counter() - start
    held = np.flatnonzero(made.truth.any(axis=(1, 2)))
    inside = slice(int(held[0]), int(held[-1]) + 1)
    outside = (int(found.sum()) - int(found[inside].sum())) / int(made.truth.sum())
    asked = counting.asked or own.first_frames_inferer.n_context
    return Measured(dice(found[inside], made.truth[inside]), outside, asked, seconds)


def main(words: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        1 where propagation by a sweep misses what is wanted of it, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="bundle", metavar="DIR", help="with the weights")
    parser.add_argument("--count", type=int, default=4, help="volumes")
    parser.add_argument("--device", default=None)
    arguments = parser.parse_args(words)
    segmenter = Segmenter.from_bundle(arguments.bundle, device=arguments.device)
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    names, failed = [], False
    for made in choose(arguments.count):
        names.append(made.name)
        for way, results in found.items():
            results.append(measure(segmenter, made, way))
        slices, sweep = found["slice by slice"][-1], found["sweep"][-1]
        failed |= sweep.dice < slices.dice - 0.05 or sweep.outside > 0.01
    means = {way: np.mean(np.array(results), axis=0).tolist() for way, results in found.items()}
    plain = means["slice by slice"][-1]
    print_table(
        f"{len(names)} volumes of {_SLICES} slices, the object in 180 to 220: {', '.join(names)}",
        ["context", "Dice", "outside", "slices asked", "slices/s", "times slice by slice"],
        [[way, *first, _SLICES / seconds, plain / seconds] for way, (*first, seconds) in means.items()],
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
