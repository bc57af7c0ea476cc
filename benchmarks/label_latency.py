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

"""What a click, and a second sentence, on a known image cost of the first request; and what stays in memory.

    python benchmarks/label_latency.py
    python benchmarks/label_latency.py --preset internvl3_8b --device cuda --size 512 --slices 8

Prints one line of JSON: medians in seconds over ``--repeats`` fresh images, their ratios to the first request on the
same image, and the bytes of the cache. A preset other than the shipped weights has random ones: its times count, its
masks don't.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_sa2va import Sa2VA, Segmenter
from monai_sa2va.data.read_image import read_image
from monai_sa2va.label.cache import FeatureCache
from monai_sa2va.label.one_slice import show_slice


def make_volume(seed: int, size: int, slices: int) -> MetaTensor:
    """(1, X, Y, Z) uint8 of noise around a ball."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (size, size, slices)], indexing="ij"))
    ball = (np.linalg.norm(grid, axis=0) < 0.6) * 120
    return MetaTensor(
        torch.from_numpy((ball + rng.integers(0, 60, ball.shape)).astype(np.uint8))[None],
        affine=torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64)),
    )


def measure(segmenter: Segmenter, cache: FeatureCache, size: int, slices: int, repeats: int) -> dict[str, Any]:
    """Times of requests on a volume, and on a picture.

    Args:
        segmenter: with weights.
        cache: what the server has.
        size: side of a slice, pixels.
        slices: of the volume.
        repeats: fresh images.

    Returns:
        Seconds by kind of request, ratios to the first, bytes kept.
    """
    sync = torch.cuda.synchronize if segmenter.device.type == "cuda" else lambda: None
    text, middle = "Segment the ball.", size // 2
    times: dict[str, list[float]] = {}

    def timed(name: str, act: Callable[[], Any]) -> None:
        sync()
        began = time.perf_counter()
        act()
        sync()
        times.setdefault(name, []).append(time.perf_counter() - began)

    with cache.attached(segmenter.network, "benchmark"):
        # what torch sets up once is no request's cost
        segmenter.segment(make_volume(10**6, size, 2), text)
        for seed in range(repeats):
            volume = make_volume(seed, size, slices)
            source, click = read_image(volume), [[middle, middle, slices // 2, 1]]
            timed("volume: first sentence", lambda: segmenter.segment(volume, text))  # noqa: B023
            timed("volume: same sentence", lambda: segmenter.segment(volume, text))  # noqa: B023
            timed("volume: click in a slice", lambda: show_slice(segmenter, source, text, points=click))  # noqa: B023
            timed("volume: click carried", lambda: segmenter.segment(volume, text, points=click))  # noqa: B023
            picture = segmenter.reader.slices(read_image(make_volume(-seed - 1 + 10**5, size, 1)))[0]
            pixels = picture.round().to(torch.uint8).permute(1, 2, 0).numpy()
            timed("picture: first sentence", lambda: segmenter.segment(pixels, text))  # noqa: B023
            timed("picture: click", lambda: segmenter.segment(pixels, text, points=[[middle, middle, 1]]))  # noqa: B023
    medians = {name: statistics.median(values) for name, values in times.items()}
    firsts = {name.partition(":")[0]: value for name, value in medians.items() if name.endswith("first sentence")}
    return {
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "ratios": {name: round(value / firsts[name.partition(":")[0]], 3) for name, value in medians.items()},
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
    given = parser.parse_args(arguments)
    if given.preset:
        network = Sa2VA(given.preset, seed=0).to(given.device, torch.bfloat16)
        segmenter = Segmenter(network, device=given.device)
    else:
        segmenter = Segmenter.from_bundle(device=given.device)
    found = measure(segmenter, FeatureCache(8 * 2**30), given.size, given.slices, given.repeats)
    print(json.dumps({"preset": given.preset or "shipped", "device": given.device, **found}))


if __name__ == "__main__":
    main()
