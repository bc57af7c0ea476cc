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

"""What ``make demo`` ends with: scores by prompt, sentences never seen, a contact sheet, and how long it took.

``python benchmarks/demo_report.py`` reads what the demo's training and inference left in ``demo/``, prints tables and
writes ``demo/report.json`` and ``demo/overview.png``. The masks of the first table are the files that the bundle's
inference wrote; for the second, the trained model is asked again, in other words.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contact_sheet import Tile, contact_sheet
from PIL import Image
from rich.console import Console
from scoring import PLAIN, BoolMask, Case, ask, load_segmenter, print_table, read_cases, score

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.errors import DataError, PromptError, Sa2VAError
from monai_sa2va.metrics import calculate_dice
from monai_sa2va.predictor import Segmenter
from monai_sa2va.transforms.sentences import parse_phrases
from monai_sa2va.writers.files import safe_name
from monai_sa2va.writers.results import folder_name

__all__ = ["UNSEEN", "compare_sentences", "draw_overview", "read_masks", "score_masks", "training_seconds"]

UNSEEN: tuple[str, ...] = (
    "Kindly delineate the {} in the scan.",
    "Could you please highlight all the {}?",
    "Now show me this {}, please.",
    "Would you contour the {} on this slice?",
    "Please find any {} in the photograph.",
    "I would like to see the {} on its own.",
    "Which part of the picture is the {}?",
    "Tell me where the {} lies and paint it.",
    "For my measurements I need every pixel that shows the {}.",
    "The {} interests me, so draw its outline.",
    "A colleague asked about the {} yesterday; can you trace it?",
    "Is there a {} here? If so, colour it.",
)
"""Sentences that no training asks. Some have a form that ``parse_phrases`` knows; in the others the language model has
to find the name."""

HEADINGS = {"fundus": "Fundus", "ct": "CT", "ultrasound": "Ultrasound"}
OVERLAP = "IoU of two structures' masks, the largest"
_LIMITS = {
    "mean Dice over prompts": (">=", 0.75),
    "Dice of vessels": (">=", 0.70),
    OVERLAP: ("<", 0.2),
    "Dice lost by unseen sentences": ("<=", 0.05),
}


def read_masks(folder: Path, case: Case) -> dict[str, BoolMask]:
    """The masks (H, W) that inference wrote for the structures of an image, by name.

    Raises:
        DataError: when a mask is missing, can't be read, or has another size than the image.
    """
    masks = {}
    for name, truth in case.masks.items():
        path = folder / folder_name(case.name) / f"{safe_name(name)}.png"
        try:
            mask = np.array(Image.open(path)) > 127
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror or error}; run the demo's inference") from error
        if mask.shape != truth.shape:
            raise DataError(f"{path} has the shape {mask.shape}, its image {truth.shape}; run the demo's inference")
        masks[name] = mask
    return masks


def score_masks(cases: Sequence[Case], masks: Sequence[Mapping[str, BoolMask]]) -> dict[str, Any]:
    """Dice by prompt, and how much the masks of two structures of one image overlap.

    Returns:
        ``mean_dice`` (over prompts), ``dice_of_objects`` (over all masks), ``by_prompt`` (``n`` and ``dice``) and
        ``overlap`` (of IoU, 0 where both masks are empty: ``max``, ``mean``, the number of ``pairs``, how many of
        them are ``too_much``: at least the limit, and of the two names whose masks overlap most, ``worst_names``, the
        mean over images, ``worst``).
    """
    scores = score(
        (name, mask, case.masks[name]) for case, found in zip(cases, masks, strict=True) for name, mask in found.items()
    )
    by_names: dict[tuple[str, str], list[float]] = {}
    for found in masks:
        for first, second in itertools.combinations(sorted(found), 2):
            by_names.setdefault((first, second), []).append(_iou(found[first], found[second]))
    overlaps = [iou for values in by_names.values() for iou in values]
    worst = max(by_names, key=lambda names: float(np.mean(by_names[names])), default=None)
    return {
        "images": len(cases),
        "mean_dice": scores.mean,
        "dice_of_objects": scores.object_mean,
        "by_prompt": {name: {"n": scores.counts[name], "dice": dice} for name, dice in scores.by_name.items()},
        "overlap": {
            "max": max(overlaps, default=0.0),
            "mean": float(np.mean(overlaps)) if overlaps else 0.0,
            "pairs": len(overlaps),
            "too_much": sum(iou >= _LIMITS[OVERLAP][1] for iou in overlaps),
            "worst_names": worst,
            "worst": float(np.mean(by_names[worst])) if worst else 0.0,
        },
    }


def _iou(first: BoolMask, second: BoolMask) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def compare_sentences(segmenter: Segmenter, cases: Sequence[Case], sentences: Sequence[str]) -> dict[str, Any]:
    """Ask for every structure of some images plainly and in other words.

    A sentence in which the model finds no name counts as an empty mask.

    Returns:
        ``plain_dice`` and ``unseen_dice``, means over prompts (and sentences), ``lost``, their difference, and
        ``by_sentence``: its ``dice``, and for those that the language model has to read ``read_right``, the share of
        names read right (the canonical name or a synonym of it, and nothing else), ``None`` for the others.
    """
    plain: list[tuple[str, BoolMask, BoolMask]] = []
    others: list[list[tuple[str, BoolMask, BoolMask]]] = [[] for _ in sentences]
    right: list[list[bool]] = [[] for _ in sentences]
    for case in cases:
        for name, truth in case.masks.items():
            asked = [PLAIN.format(name), *(sentence.format(name) for sentence in sentences)]
            masks, names = _ask_patiently(segmenter, case, asked)
            plain.append((name, masks[0], truth))
            for i, sentence in enumerate(asked[1:]):
                others[i].append((name, masks[i + 1], truth))
                if parse_phrases(sentence) is None:
                    right[i].append(len(names[i + 1]) == 1 and names[i + 1][0].casefold() in SYNONYMS[name])
    plain_dice = score(plain).mean
    by_sentence = {
        sentence: {"dice": score(triples).mean, "read_right": float(np.mean(hits)) if hits else None}
        for sentence, triples, hits in zip(sentences, others, right, strict=True)
    }
    unseen_dice = float(np.mean([values["dice"] for values in by_sentence.values()]))
    return {
        "images": len(cases),
        "objects": len(plain),
        "plain_dice": plain_dice,
        "unseen_dice": unseen_dice,
        "lost": plain_dice - unseen_dice,
        "read_right": float(np.mean([hit for hits in right for hit in hits])) if any(right) else None,
        "by_sentence": by_sentence,
    }


def _ask_patiently(
    segmenter: Segmenter, case: Case, sentences: Sequence[str]
) -> tuple[list[BoolMask], list[list[str]]]:
    """Like ``ask``, with an empty mask and no name for a sentence that can't be read."""
    try:
        return ask(segmenter, case, sentences)
    except PromptError:
        if len(sentences) == 1:
            return [np.zeros(case.picture.shape[:2], dtype=bool)], [[]]
    answers = [_ask_patiently(segmenter, case, [sentence]) for sentence in sentences]
    return [masks[0] for masks, _ in answers], [names[0] for _, names in answers]


def draw_overview(cases: Sequence[Case], masks: Sequence[Mapping[str, BoolMask]], columns: int = 2) -> Image.Image:
    """A contact sheet of the first images of each look: not the best ones."""
    rows = []
    for look, heading in HEADINGS.items():
        pairs = [(case, found) for case, found in zip(cases, masks, strict=True) if case.look == look][:columns]
        tiles = [
            Tile(
                case.picture,
                found,
                case.masks,
                {
                    name: f'"{PLAIN.format(name)}"  Dice {_dice(mask, case.masks[name]):.2f}'
                    for name, mask in found.items()
                },
            )
            for case, found in pairs
        ]
        if tiles:
            rows.append((heading, tiles))
    footer = (
        "The first two unseen phantoms of each look, and each mask's Dice coefficient. All images are made in code."
    )
    return contact_sheet(rows, footer)


def _dice(mask: BoolMask, truth: BoolMask) -> float:
    return float(calculate_dice(mask, truth))


def training_seconds(folder: Path) -> float | None:
    """Seconds between the first and the last loss that training wrote for TensorBoard; ``None`` where there is none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spans = []
    for file in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        if "train/loss" in events.Tags()["scalars"]:
            spans.append(events.Scalars("train/loss")[-1].wall_time - events.FirstEventTimestamp())
    return max(spans, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of the demo")
    parser.add_argument("--checkpoint", type=Path, help="weights; models/model.pt of the demo by default")
    parser.add_argument("--preset", default="tiny", help="geometry of a checkpoint that does not say its own")
    parser.add_argument("--sentence-images", type=int, default=12, help="images that are asked about in other words")
    arguments = parser.parse_args()
    try:
        report(arguments.demo, arguments.checkpoint, arguments.preset, arguments.sentence_images)
    except Sa2VAError as error:
        sys.exit(f"demo_report.py: {error}")


def report(demo: Path, checkpoint: Path | None, preset: str, sentence_images: int) -> None:
    """Print the tables and write ``report.json`` and ``overview.png`` into the folder of the demo."""
    began = time.time()
    cases = read_cases(demo / "unseen" / "datalist.json", "testing")
    masks = [read_masks(demo / "masks", case) for case in cases]
    scores = score_masks(cases, masks)
    draw_overview(cases, masks).save(demo / "overview.png", optimize=True)
    print_table(
        f"{len(cases)} unseen phantoms, masks written by the bundle's inference",
        ["prompt", "images", "Dice"],
        [[name, row["n"], row["dice"]] for name, row in scores["by_prompt"].items()],
        ["mean over prompts", "", scores["mean_dice"]],
    )
    segmenter = load_segmenter(checkpoint or demo / "models" / "model.pt", preset)
    sentences = compare_sentences(segmenter, cases[:sentence_images], UNSEEN)
    print_table(
        f"Sentences never seen in training, {sentences['objects']} objects of {sentences['images']} images",
        ["sentence", "Dice", "name read right"],
        [
            [PLAIN.format("NAME"), sentences["plain_dice"], None],
            *([text.format("NAME"), row["dice"], row["read_right"]] for text, row in sentences["by_sentence"].items()),
        ],
        ["mean of the unseen", sentences["unseen_dice"], sentences["read_right"]],
    )
    values = (
        scores["mean_dice"],
        scores["by_prompt"].get("vessels", {}).get("dice"),
        scores["overlap"]["max"],
        sentences["lost"],
    )
    checks = {name: (value, *limit) for (name, limit), value in zip(_LIMITS.items(), values, strict=True)}
    print_table(
        "What is asked of the demo",
        ["figure", "value", "wanted", ""],
        [[n, v, f"{sign} {limit:.2f}", _verdict(v, sign, limit)] for n, (v, sign, limit) in checks.items()],
    )
    trained = training_seconds(demo / "eval" / "tensorboard")
    started = demo / "started"
    result = {
        **scores,
        "sentences": sentences,
        "met": {name: _verdict(*check) == "met" for name, check in checks.items()},
        "training_seconds": trained,
        "report_seconds": time.time() - began,
        "seconds_since_start": time.time() - float(started.read_text()) if started.is_file() else None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    (demo / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console = Console(soft_wrap=True, highlight=False)
    overlap = scores["overlap"]
    console.print(
        f"IoU of two structures' masks: mean {overlap['mean']:.3f}, largest {overlap['max']:.3f}, "
        f"too much in {overlap['too_much']} of {overlap['pairs']} pairs; "
        f"most between {' and '.join(overlap['worst_names'] or ['none'])}, {overlap['worst']:.3f} on average"
    )
    for what, seconds in (("training", trained), ("everything since the install", result["seconds_since_start"])):
        console.print(f"{what}: {'not known' if seconds is None else f'{seconds:.0f} s'}")
    console.print(f"picture: {demo / 'overview.png'}   numbers: {demo / 'report.json'}")


def _verdict(value: float | None, sign: str, limit: float) -> str:
    if value is None:
        return "missed"
    met = {">=": value >= limit, "<=": value <= limit, "<": value < limit}[sign]
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
