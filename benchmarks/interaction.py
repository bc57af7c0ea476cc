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

"""What clicks, boxes and memory are worth, each beside the same weights with that part at random.

``python benchmarks/interaction.py clicks --checkpoint FILE`` prints, on phantoms of unseen seeds, the
Dice of text alone, of text and 1 to 3 clicks where text alone stays below 0.9, and of points and boxes alone.
``... propagation`` carries what a sentence draws in the middle slice of phantom volumes through the others, and counts
the slices without the object that stay empty. ``--random text``, ``clicks`` or ``memory`` gives that part new weights
first. Every click is where the mask is wrong: in the larger of missed and superfluous regions, at its most inner point.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scoring import PLAIN, BoolMask, Case, load_segmenter, make_cases, print_table, score
from torch import nn

from monai_sa2va.data.phantom_stacks import make_stack
from monai_sa2va.data.phantoms import LABEL_VALUES
from monai_sa2va.errors import Sa2VAError
from monai_sa2va.inferers.stack import StackInferer
from monai_sa2va.inferers.visual_prompts import sort_by_slice
from monai_sa2va.metrics import PromptScores
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["PARTS", "click", "dice", "reinitialise"]

_HARD = 0.9
_ROUNDS = 3

PARTS: dict[str, Callable[[Sa2VA], list[nn.Module]]] = {
    "text": lambda network: [network.text_hidden_fcs],
    "clicks": lambda network: [
        network.grounding_encoder.sam2_model.sam_prompt_encoder.point_embeddings,
        network.grounding_encoder.sam2_model.sam_prompt_encoder.mask_downscaling,
    ],
    "memory": lambda network: [
        network.grounding_encoder.sam2_model.memory_attention,
        network.grounding_encoder.sam2_model.memory_encoder,
        network.grounding_encoder.sam2_model.obj_ptr_proj,
    ],
}
"""What each kind of prompt hangs on, and nothing else does."""


def dice(found: BoolMask, truth: BoolMask) -> float:
    """2 |A and B| / (|A| + |B|), 1 where both are empty."""
    total = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def click(found: BoolMask, truth: BoolMask) -> tuple[int, int, int] | None:
    """x, y and label of a click in the larger of missed and superfluous regions, at its most inner point."""
    regions = []
    for wrong, label in ((truth & ~found, 1), (found & ~truth, 0)):
        parts, number = ndimage.label(wrong)
        if number:
            sizes = ndimage.sum_labels(wrong, parts, range(1, number + 1))
            regions.append((float(sizes.max()), label, parts == int(sizes.argmax()) + 1))
    if not regions:
        return None
    _, label, region = max(regions, key=lambda item: item[0])
    # the picture's edge is an edge of the region
    inner = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return int(x), int(y), label


def reinitialise(network: Sa2VA, part: str, seed: int = 271828) -> None:
    """Give one part of :data:`PARTS` the weights of a network that was never trained.

    Not those that its own training began with, which the embeddings of clicks are still close to when it ends.
    """
    fresh = Sa2VA(network.config, seed=seed)
    for old, new in zip(PARTS[part](network), PARTS[part](fresh), strict=True):
        old.load_state_dict(new.state_dict())


def corrected(
    network: Sa2VA, case: Case, truth: BoolMask, prompt: str | None, rounds: int, box: bool = False
) -> Iterator[BoolMask]:
    """Masks after what comes first, and after each of ``rounds`` clicks."""
    inferer = StackInferer()
    points: list[tuple[int, int, int]] = []
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    corners = [columns[0], rows[0], columns[-1], rows[-1]] if box else None
    found = np.zeros_like(truth)
    for number in range(rounds + 1):
        shown = sort_by_slice(truth.shape, points or None, corners)
        if shown or prompt:
            result = inferer([case.picture], network, prompt, shown or None, first=None if shown else 0)
            found = result[0].masks[0].numpy()
            yield found
        if number < rounds:
            place = click(found, truth)
            # nothing is wrong any more: the next click would change nothing that counts
            points += [place] if place else []


def measure_clicks(network: Sa2VA, cases: Sequence[Case]) -> dict[str, PromptScores]:
    """Dice by way of prompting; those with ``hard`` in their names are of objects that text alone leaves below 0.9."""
    found: dict[str, list[tuple[str, BoolMask, BoolMask]]] = {}
    for case in cases:
        for name, truth in case.masks.items():
            sentence = PLAIN.format(name)
            by_text = list(corrected(network, case, truth, sentence, _ROUNDS))
            found.setdefault("text", []).append((name, by_text[0], truth))
            if dice(by_text[0], truth) < _HARD:
                for number, mask in enumerate(by_text):
                    found.setdefault(f"hard: text + {number}", []).append((name, mask, truth))
            for number, mask in enumerate(corrected(network, case, truth, None, _ROUNDS), start=1):
                found.setdefault(f"{number} points alone", []).append((name, mask, truth))
            mask = next(corrected(network, case, truth, None, 0, box=True))
            found.setdefault("box alone", []).append((name, mask, truth))
    return {way: score(triples) for way, triples in found.items()}


def measure_propagation(
    network: Sa2VA, volumes: int, seed: int, size: int, slices: int
) -> tuple[PromptScores, float, int]:
    """Dice by name over whole volumes, share of slices without the object that stay empty, and their number."""
    triples: list[tuple[str, BoolMask, BoolMask]] = []
    empty = without = 0
    for number in range(volumes):
        stack = make_stack(seed + number, "volume", size=size, slices=slices)
        pictures = [np.repeat(plane[..., None], 3, axis=2) for plane in stack.image]
        middle = slices // 2
        for name in stack.names:
            truth = stack.label == LABEL_VALUES[name]
            # what isn't in the middle slice can't be shown there
            if not truth[middle].any():
                continue
            result = StackInferer()(pictures, network, PLAIN.format(name), first=middle)
            masks = np.stack([plane.masks[0].numpy() for plane in result])
            triples.append((name, masks, truth))
            bare = ~truth.any(axis=(1, 2))
            without += int(bare.sum())
            empty += int((bare & ~masks.any(axis=(1, 2))).sum())
    return score(triples), empty / without if without else float("nan"), without


def _clicks(network: Sa2VA, arguments: argparse.Namespace) -> dict[str, object]:
    found = measure_clicks(network, make_cases(arguments.count, arguments.seed, arguments.size))
    names = sorted({name for scores in found.values() for name in scores.by_name})
    ways = sorted(found)
    print_table(
        f"{arguments.count} phantoms of seeds from {arguments.seed} on",
        ["prompt", *ways],
        [[name, *(found[way].by_name.get(name) for way in ways)] for name in names],
        ["mean over prompts", *(found[way].mean for way in ways)],
    )
    pooled = {way: _over_objects(scores) for way, scores in found.items()}
    print("over all objects: " + ", ".join(f"{way} {pooled[way]:.3f}" for way in ways))
    return {way: {"mean": found[way].mean, "objects": pooled[way], **found[way].by_name} for way in ways}


def _over_objects(scores: PromptScores) -> float:
    total = sum(scores.counts[name] * value for name, value in scores.by_name.items())
    return total / sum(scores.counts[name] for name in scores.by_name)


def _propagation(network: Sa2VA, arguments: argparse.Namespace) -> dict[str, object]:
    scores, empty, without = measure_propagation(
        network, arguments.volumes, arguments.seed, arguments.size, arguments.slices
    )
    print_table(
        f"{arguments.volumes} phantom volumes of {arguments.slices} slices, from the middle one",
        ["prompt", "objects", "Dice"],
        [[name, scores.counts[name], value] for name, value in scores.by_name.items()],
        ["mean over prompts", "", scores.mean],
    )
    print(f"of {without} slices without the object {empty:.1%} stay empty")
    return {"mean": scores.mean, **scores.by_name, "stay_empty": empty, "slices_without": without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("clicks", "propagation"), help="what is measured")
    parser.add_argument("--checkpoint", required=True, help="file of weights")
    parser.add_argument("--random", choices=sorted(PARTS), help="give this part new weights first")
    parser.add_argument("--count", type=int, default=64, help="number of phantoms")
    parser.add_argument("--volumes", type=int, default=16, help="number of phantom volumes")
    parser.add_argument("--slices", type=int, default=24, help="slices of a volume")
    parser.add_argument("--seed", type=int, default=9000, help="seed of the first one")
    parser.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    arguments = parser.parse_args()
    try:
        network = load_segmenter(arguments.checkpoint).network
        if arguments.random:
            reinitialise(network, arguments.random)
            print(f"{arguments.random}: new weights")
        with torch.inference_mode():
            figures = {"clicks": _clicks, "propagation": _propagation}[arguments.kind](network, arguments)
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except (Sa2VAError, OSError) as error:
        sys.exit(f"interaction.py {arguments.kind}: {error}")


if __name__ == "__main__":
    main()
