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

"""What clicks are worth in a volume: corrections, beside carrying the clicked slices through all others.

    python benchmarks/label_corrections.py
    python benchmarks/label_corrections.py --structures lesion liver --volumes 3 --slices 12

Prints one line of JSON: for each structure and way the mean Dice after the sentence and after each click, which lies
where the mask before it is most wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from label_latency import dice, wrong_click
from monai.data import MetaTensor

from monai_sa2va import Segmenter
from monai_sa2va.data.phantom_stacks import PhantomStack, make_stack
from monai_sa2va.data.phantoms import LABEL_VALUES
from monai_sa2va.data.read_image import read_image
from monai_sa2va.label.cache import FeatureCache

_WAYS = ("corrected", "carried")


def measure(segmenter: Segmenter, stack: PhantomStack, name: str, clicks: int) -> dict[str, list[float]]:
    """Dice of one structure of a volume.

    Args:
        segmenter: with weights.
        stack: a volume that shows it.
        name: of it.
        clicks: how many.

    Returns:
        For each way the Dice after the sentence and after each click.
    """
    pixels = torch.from_numpy(stack.image.transpose(2, 1, 0)[None].copy())
    source = read_image(MetaTensor(pixels, affine=torch.tensor(stack.affine)))
    truth, text = stack.label == LABEL_VALUES[name], f"Segment the {name}."
    found: dict[str, list[float]] = {}
    with FeatureCache(2**30).attached(segmenter.network, "benchmark"):
        drawn = segmenter.segment(source, text).masks[0]
        for way in _WAYS:
            draw = segmenter.correct if way == "corrected" else segmenter.segment
            mask, points = drawn, []
            found[way] = [dice(mask, truth)]
            for _ in range(clicks):
                points.append(wrong_click(mask, truth))
                mask = draw(source, text, points=points).masks[0]
                found[way].append(dice(mask, truth))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", nargs="+", default=["lesion", "vessels", "kidney", "liver"])
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=12)
    given = parser.parse_args(arguments)
    segmenter, told = Segmenter.from_bundle(device="cpu"), {}
    for name in given.structures:
        stacks = (make_stack(seed, "volume", "ct", given.size, given.slices) for seed in range(1000))
        shown = islice((stack for stack in stacks if name in stack.names), given.volumes)
        all_found = [measure(segmenter, stack, name, given.clicks) for stack in shown]
        told[name] = {way: np.mean([found[way] for found in all_found], axis=0).round(3).tolist() for way in _WAYS}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
