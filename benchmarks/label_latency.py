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

"""What clicks, and a second sentence, on a known image cost of the first request; and what stays in memory.

    python benchmarks/label_latency.py
    python benchmarks/label_latency.py --preset internvl3_8b --device cuda --size 512 --slices 24

Prints one line of JSON: medians in seconds (of processor time on a CPU) over ``--repeats`` fresh phantoms a structure,
medians and maxima of their ratios to the first request on the same image, the mean Dice after each request, and the
bytes of the cache. Each click lies where the mask before it is most wrong, and each request brings all clicks so far,
as the stock clients do. A preset other than the shipped weights has random ones: its times count, its masks don't, and
no correction ends before its reach.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from monai_sa2va import Sa2VA, Segmentation, Segmenter
from monai_sa2va.data.phantom_stacks import PhantomStack, make_stack
from monai_sa2va.data.phantoms import LABEL_VALUES
from monai_sa2va.data.read_image import read_image
from monai_sa2va.label.cache import FeatureCache
from monai_sa2va.label.one_slice import show_slice
from monai_sa2va.label.options import usual_reach

_CLICKS = 3
_STRUCTURES = ("spine", "vessels", "liver")


def wrong_click(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> list[float]:
    """Where a user would click: x, y, z and the label, most inside of what is most wrong, both masks (D, H, W)."""
    z = int((found ^ truth).sum(axis=(1, 2)).argmax())
    missing, surplus = truth[z] & ~found[z], found[z] & ~truth[z]
    depths = [ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1] for part in (missing, surplus)]
    y, x = np.unravel_index(int(np.argmax(np.maximum(*depths))), truth[z].shape)
    return [float(x), float(y), float(z), float(truth[z, y, x])]


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Overlap, 0 to 1; 1 of two empty masks."""
    total = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


class Stopwatch:
    """Seconds and Dice of requests, by their kind."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._wait: Callable[[], None] = torch.cuda.synchronize if cuda else lambda: None
        # on a CPU what else runs there doesn't count
        self._clock: Callable[[], float] = time.perf_counter if cuda else time.process_time
        self.seconds: dict[str, list[float]] = {}
        self.dice: dict[str, list[float]] = {}

    def time(self, kind: str, act: Callable[[], Segmentation], truth: NDArray[np.bool_] | None = None) -> Segmentation:
        """Run a request."""
        self._wait()
        began = self._clock()
        found = act()
        self._wait()
        self.seconds.setdefault(kind, []).append(self._clock() - began)
        if truth is not None:
            self.dice.setdefault(kind, []).append(dice(found.masks[0].reshape(truth.shape), truth))
        return found


def measure_volume(segmenter: Segmenter, stack: PhantomStack, name: str, watch: Stopwatch, reach: int) -> None:
    """Requests on one volume that shows a structure."""
    pixels = torch.from_numpy(stack.image.transpose(2, 1, 0)[None].copy())
    volume = MetaTensor(pixels, affine=torch.tensor(stack.affine))
    source, truth, text = read_image(volume), stack.label == LABEL_VALUES[name], f"Segment the {name}."
    first = watch.time("volume: first sentence", lambda: segmenter.segment(source, text), truth)
    watch.time("volume: same sentence", lambda: segmenter.segment(source, text))
    for way in ("with the sentence", "alone"):
        found: NDArray[np.bool_] = first.masks[0] if way == "with the sentence" else np.zeros_like(truth)
        clicks: list[list[float]] = []
        for number in range(1, _CLICKS + 1):
            clicks.append(wrong_click(found, truth))
            sentence = None if way == "alone" else text
            act = partial(segmenter.correct, source, sentence, points=list(clicks), reach=reach)
            found = watch.time(f"volume: click {number} {way}", act, truth).masks[0]
    watch.time("volume: click in a slice", lambda: show_slice(segmenter, source, text, points=clicks[:1]))
    watch.time("volume: another sentence", lambda: segmenter.segment(source, "Segment the liver and the kidney."))


def measure_picture(segmenter: Segmenter, stack: PhantomStack, name: str, watch: Stopwatch) -> None:
    """Requests on the slice of a volume that shows most of a structure."""
    inside = stack.label == LABEL_VALUES[name]
    number = int(inside.sum(axis=(1, 2)).argmax())
    picture, truth, text = stack.image[number], inside[number : number + 1], f"Segment the {name}."
    found = watch.time("picture: first sentence", lambda: segmenter.segment(picture, text), truth)
    clicks: list[list[float]] = []
    for count in range(1, _CLICKS + 1):
        x, y, _, label = wrong_click(found.masks, truth)
        clicks.append([x, y, label])
        act = partial(segmenter.segment, picture, text, points=list(clicks))
        found = watch.time(f"picture: click {count}", act, truth)
    watch.time("picture: another sentence", lambda: segmenter.segment(picture, "Segment the liver and the kidney."))


def measure(
    segmenter: Segmenter, cache: FeatureCache, size: int, slices: int, repeats: int, reach: int | None = None
) -> dict[str, Any]:
    """Times of requests on volumes and pictures.

    Args:
        segmenter: with weights.
        cache: what the server has.
        size: side of a slice, pixels.
        slices: of a volume.
        repeats: fresh phantoms a structure.
        reach: slices that a correction is carried at most, each way; ``None`` as on the server.

    Returns:
        Seconds by kind of request, ratios to the first, Dice, bytes kept.
    """
    watch, reach = Stopwatch(segmenter.device), usual_reach(slices) if reach is None else reach
    with cache.attached(segmenter.network, "benchmark"):
        for name in _STRUCTURES:
            stacks = (make_stack(seed, "volume", "ct", size, slices) for seed in range(1000))
            shown = (stack for stack in stacks if name in stack.names)
            for count, stack in enumerate(islice(shown, repeats + 1)):
                # what torch sets up once is no request's cost
                kept = watch if count else Stopwatch(segmenter.device)
                cache.clear()
                measure_volume(segmenter, stack, name, kept, reach)
                cache.clear()
                measure_picture(segmenter, stack, name, kept)
    firsts = {kind.partition(":")[0]: seconds for kind, seconds in watch.seconds.items() if "first" in kind}
    ratios = {
        kind: [value / first for value, first in zip(values, firsts[kind.partition(":")[0]], strict=True)]
        for kind, values in watch.seconds.items()
        if "first" not in kind
    }
    return {
        "seconds": {kind: round(statistics.median(values), 4) for kind, values in watch.seconds.items()},
        "ratios": {kind: round(statistics.median(values), 3) for kind, values in ratios.items()},
        "largest_ratios": {kind: round(max(values), 3) for kind, values in ratios.items()},
        "dice": {kind: round(statistics.mean(values), 3) for kind, values in watch.dice.items()},
        "cache_bytes": cache.size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", help="random weights of this geometry in place of the shipped ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reach", type=int, help="slices that a correction goes at most; by default as on the server")
    given = parser.parse_args(arguments)
    if given.preset:
        network = Sa2VA(given.preset, seed=0).to(given.device, torch.bfloat16)
        segmenter = Segmenter(network, device=given.device)
    else:
        segmenter = Segmenter.from_bundle(device=given.device)
    found = measure(segmenter, FeatureCache(8 * 2**30), given.size, given.slices, given.repeats, given.reach)
    print(json.dumps({"preset": given.preset or "shipped", "device": given.device, **found}))


if __name__ == "__main__":
    main()
