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

"""Memory that volumes of few and of many slices need: ``python benchmarks/volume_memory.py``.

Segments made volumes of 100 and of 1,000 slices with random weights, each in a process of its own, slice by slice and
by propagation, and prints the peak of the process' anonymous memory (RssAnon, Linux only) and of the device's
(``max_memory_allocated``), less the volume itself. Every mask counts as one of an object that is there, so that all of
them are drawn and kept. The exit code is 1 where the most slices need more than 1.05 times what the fewest need.
On a GPU: ``python benchmarks/volume_memory.py --preset small --size 512 --device cuda``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import torch
from loading_memory import rss_anon
from monai.data import MetaTensor
from scoring import print_table

from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.volume import VOLUME_MODES
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

__all__ = ["ALLOWED", "main", "make_volume", "measure"]

ALLOWED = 1.05
"""How many times the memory of the fewest slices the most may need."""

_INTERVAL_S = 0.005
_WARM_UP = 12


def make_volume(slices: int, size: int) -> MetaTensor:
    """A bright ball in noise: (1, size, size, slices) int16, made slice by slice."""
    pixels = torch.empty((1, size, size, slices), dtype=torch.int16)
    generator = torch.Generator().manual_seed(0)
    grid = torch.arange(size) - size / 2
    disc = grid[:, None] ** 2 + grid**2 < (size / 4) ** 2
    for number in range(slices):
        noise = torch.randint(0, 300, (size, size), generator=generator, dtype=torch.int16)
        pixels[0, :, :, number] = noise + 600 * disc.to(torch.int16)
    return MetaTensor(pixels, affine=torch.eye(4, dtype=torch.float64))


def measure(preset: str, size: int, slices: int, volume: str, device: str) -> dict[str, float]:
    """Segment one volume in this process.

    Returns:
        ``host`` and ``device``, peaks in bytes beyond the volume, and ``seconds``.
    """
    segmenter = Segmenter(Sa2VA(preset, seed=0), device=device, inferer=ImageInferer(presence_threshold=0.0))
    # what is loaded at first use is there before anything is measured
    segmenter.segment(make_volume(_WARM_UP, size), "Segment the ball.", volume=volume)
    pixels = make_volume(slices, size)
    if segmenter.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    peak, done = rss_anon(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_INTERVAL_S):
            peak = max(peak, rss_anon())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        found = segmenter.segment(pixels, "Segment the ball.", volume=volume)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    if not found.masks.any(axis=(0, 2, 3)).all():
        raise RuntimeError("a slice has no mask, so that less was kept than could be; take another preset or seed")
    allocated = torch.cuda.max_memory_allocated() if segmenter.device.type == "cuda" else 0
    return {"host": peak - pixels.nbytes, "device": allocated, "seconds": seconds}


def main(words: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        1 where the most slices need more than :data:`ALLOWED` times the memory of the fewest, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", help="geometry, see monai_sa2va.networks.presets")
    parser.add_argument("--size", type=int, default=96, help="side of the slices, pixels")
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 1000], help="of the volumes, fewest first")
    parser.add_argument("--volume", nargs="+", choices=VOLUME_MODES, default=VOLUME_MODES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", action="store_true", help="only the first of each, in this process; prints JSON")
    arguments = parser.parse_args(words)
    if arguments.measure:
        one = (arguments.preset, arguments.size, arguments.slices[0], arguments.volume[0], arguments.device)
        print(json.dumps(measure(*one)))
        return 0
    rows, failed = [], False
    for volume in arguments.volume:
        first: dict[str, float] = {}
        for slices in arguments.slices:
            found = _measured(arguments, slices, volume)
            first = first or found
            ratios = [found[key] / first[key] if first[key] else None for key in ("host", "device")]
            failed |= any(ratio is not None and ratio > ALLOWED for ratio in ratios)
            megabytes = [found[key] / 1e6 for key in ("host", "device")]
            rows.append([volume, slices, megabytes[0], ratios[0], megabytes[1], ratios[1], slices / found["seconds"]])
    print_table(
        f"{arguments.preset}, {arguments.size} x {arguments.size} pixels, {arguments.device}: peaks beyond the volume",
        ["volume", "slices", "RssAnon MB", "ratio", "device MB", "ratio", "slices/s"],
        rows,
    )
    return int(failed)


def _measured(arguments: argparse.Namespace, slices: int, volume: str) -> dict[str, float]:
    """As :func:`measure`, in a process of its own."""
    words = ["--measure", "--preset", arguments.preset, "--size", str(arguments.size), "--device", arguments.device]
    done = subprocess.run(
        [sys.executable, __file__, *words, "--slices", str(slices), "--volume", volume],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
