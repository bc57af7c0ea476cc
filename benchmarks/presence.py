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


"""Does the model see what is not there? Measured on phantoms of unseen seeds.

``python benchmarks/presence.py --checkpoint demo/models/model.pt --count 64 --seed 9000 --output presence`` asks about
each phantom for every structure that it shows, for those of its look that it doesn't show (``missing``), for those of
the other looks (``foreign``), and for things that no phantom shows and nobody was trained on (``unknown``, reported as
they are). It prints how many masks are empty, beside what is asked for: at least 90 % of the foreign, at least 75 % of
the missing, at most 5 % of those that are there. ``presence.json`` holds the figures, ``presence.png`` a reliability
diagram and the ROC of presence.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scoring import PLAIN, Case, load_segmenter, make_cases, print_table

from monai_sa2va.data.phantom_scene import STRUCTURES
from monai_sa2va.errors import ConfigError, Sa2VAError
from monai_sa2va.metrics.presence import ReliabilityBin, auc, expected_calibration_error, reliability, roc_curve
from monai_sa2va.predictor import Segmenter

__all__ = ["KINDS", "LIMITS", "UNKNOWN", "Answer", "collect", "draw", "questions", "summarise"]

KINDS = ("present", "missing", "foreign", "unknown")
"""What a phrase may be to an image: shown, of its look but not shown, of another look, of no phantom."""

LIMITS: dict[str, tuple[str, float]] = {
    "foreign": ("at least", 0.90),
    "missing": ("at least", 0.75),
    "present": ("at most", 0.05),
}
"""Share of empty masks that is asked for."""

UNKNOWN = ("pacemaker", "femur", "left ventricle", "tooth", "prostate", "thyroid gland")
"""Things that no phantom shows."""

_SIDE, _EDGE, _FONT = 360, 48, 14
_COLOURS = {"missing": (200, 80, 60), "foreign": (40, 110, 190)}
_GREY, _BAR = (150, 150, 150), (150, 190, 225)


@dataclass(frozen=True)
class Answer:
    """What came of one question.

    Attributes:
        image: name of the phantom.
        phrase: what was asked for.
        kind: one of :data:`KINDS`.
        presence: of the object, 0 to 1; the largest, where the sentence was taken to name several.
        empty: whether no pixel was marked.
        below: whether presence is below the checkpoint's threshold.
    """

    image: str
    phrase: str
    kind: str
    presence: float
    empty: bool
    below: bool = False


def questions(case: Case, unknown: Sequence[str] = UNKNOWN) -> dict[str, str]:
    """What is asked about a phantom: phrase -> kind."""
    own = STRUCTURES[case.look]
    others = [name for names in STRUCTURES.values() for name in names if name not in own]
    return {
        **dict.fromkeys(case.masks, "present"),
        **{name: "missing" for name in own if name not in case.masks},
        **dict.fromkeys(others, "foreign"),
        **dict.fromkeys(unknown, "unknown"),
    }


def collect(segmenter: Segmenter, cases: Sequence[Case], unknown: Sequence[str] = UNKNOWN) -> list[Answer]:
    """Ask about each phantom for everything of :func:`questions`."""
    answers: list[Answer] = []
    for case in cases:
        asked = questions(case, unknown)
        found = segmenter.segment(case.picture, [PLAIN.format(phrase) for phrase in asked])
        belongs = np.array(found.prompts)
        for phrase, kind in asked.items():
            own = np.flatnonzero(belongs == PLAIN.format(phrase))
            presence, threshold = float(found.scores[own].max()), found.presence_threshold
            below = threshold is not None and presence < threshold
            answers.append(Answer(case.name, phrase, kind, presence, not found.masks[own].any(), below))
    return answers


def summarise(answers: Sequence[Answer], bins: int = 10) -> dict[str, Any]:
    """Rates, curves and calibration.

    Returns:
        ``kinds``: of each the number ``asked``, ``empty``, their ``rate`` (``None`` without any), and how many are
        ``below`` the threshold; ``acceptance``: rate, limit and whether it is ``met``; ``phrases``: the same rates by
        kind and phrase; ``auc`` of what is there against each other kind; ``roc`` (``false``, ``true``) over what is
        there, missing and foreign; ``reliability`` (stretches of presence) and ``calibration_error`` over what is there
        and, of each image, one missing and one foreign phrase: presence is a probability among questions as validation
        asks them.

    Raises:
        DataError: when nothing is there, or nothing is missing or foreign.
    """
    kinds = {kind: _rate([answer for answer in answers if answer.kind == kind]) for kind in KINDS}
    phrases = {
        kind: {
            phrase: _rate([answer for answer in answers if (answer.kind, answer.phrase) == (kind, phrase)])
            for phrase in dict.fromkeys(answer.phrase for answer in answers if answer.kind == kind)
        }
        for kind in KINDS
    }
    false, hits = roc_curve(*_pairs(answers, ("missing", "foreign")))
    stretches = reliability(*_pairs(_as_validated(answers), ("missing", "foreign")), bins)
    return {
        "kinds": kinds,
        "acceptance": {kind: _verdict(kinds[kind]["rate"], *limit) for kind, limit in LIMITS.items()},
        "phrases": phrases,
        "auc": {kind: auc(*_pairs(answers, (kind,))) for kind in KINDS[1:] if kinds[kind]["asked"]},
        "reliability": [asdict(stretch) for stretch in stretches],
        "calibration_error": expected_calibration_error(stretches),
        "roc": {"false": false.tolist(), "true": hits.tolist()},
    }


def _rate(answers: Sequence[Answer]) -> dict[str, Any]:
    empty = sum(answer.empty for answer in answers)
    below = sum(answer.below for answer in answers)
    return {"asked": len(answers), "empty": empty, "rate": empty / len(answers) if answers else None, "below": below}


def _as_validated(answers: Sequence[Answer]) -> list[Answer]:
    """What is there, and of each image one missing and one foreign phrase, by turns."""
    chosen = [answer for answer in answers if answer.kind == "present"]
    for number, image in enumerate(dict.fromkeys(answer.image for answer in answers)):
        for kind in ("missing", "foreign"):
            own = [answer for answer in answers if (answer.image, answer.kind) == (image, kind)]
            chosen += own[number % len(own) :][:1] if own else []
    return chosen


def _verdict(rate: float | None, side: str, limit: float) -> dict[str, Any]:
    met = rate is not None and (rate >= limit if side == "at least" else rate <= limit)
    return {"rate": rate, "limit": f"{side} {limit:g}", "met": met}


def _pairs(answers: Sequence[Answer], negatives: Sequence[str]) -> tuple[list[float], list[bool]]:
    """Presence, and whether it is there, of what is there and of some kinds that are not."""
    used = [answer for answer in answers if answer.kind in ("present", *negatives)]
    return [answer.presence for answer in used], [answer.kind == "present" for answer in used]


def draw(answers: Sequence[Answer], report: Mapping[str, Any]) -> Image.Image:
    """Reliability diagram and, for missing and for foreign phrases, the ROC, side by side: RGB."""
    panel = _SIDE + 2 * _EDGE
    sheet = Image.new("RGB", (2 * panel, panel), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    stretches = [ReliabilityBin(**stretch) for stretch in report["reliability"]]
    for stretch in stretches:
        pen.rectangle([*_at(0, stretch.low, stretch.observed), *_at(0, stretch.high, 0)], fill=_BAR, outline="white")
        pen.text(_at(0, stretch.low, 0.05), f"{stretch.count}", fill=_GREY, font=font)
    pen.line([_at(0, stretch.presence, stretch.observed) for stretch in stretches], fill="black", width=2)
    error = report["calibration_error"]
    _axes(pen, 0, f"reliability (calibration error {error:.3f})", "presence", "share that is there", font)
    _axes(pen, 1, "ROC of presence", "not there, taken as there", "there, found", font)
    for number, (kind, colour) in enumerate(_COLOURS.items()):
        if kind not in report["auc"]:
            continue
        false, hits = roc_curve(*_pairs(answers, (kind,)))
        pen.line([_at(1, x, y) for x, y in zip(false, hits, strict=True)], fill=colour, width=2)
        text = f"against {kind}: area {report['auc'][kind]:.3f}"
        pen.text(_at(1, 0.35, 0.2 - 0.07 * number), text, fill=colour, font=font)
    return sheet


def _at(panel: int, x: float, y: float) -> tuple[float, float]:
    """Pixel of a point (0 to 1 both ways, y upwards) of a panel."""
    return panel * (_SIDE + 2 * _EDGE) + _EDGE + x * _SIDE, _EDGE + (1 - y) * _SIDE


def _axes(pen: ImageDraw.ImageDraw, panel: int, title: str, right: str, up: str, font: Any) -> None:
    pen.rectangle([*_at(panel, 0, 1), *_at(panel, 1, 0)], outline="black")
    pen.line([_at(panel, 0, 0), _at(panel, 1, 1)], fill=_GREY)
    left, top = _at(panel, 0, 1)
    pen.text((left, top - 40), title, fill="black", font=font)
    pen.text((left, top - 20), up, fill=_GREY, font=font)
    pen.text((left, top + _SIDE + 22), right, fill=_GREY, font=font)
    for mark in (0, 0.5, 1):
        x, y = _at(panel, mark, 0)
        pen.text((x - 8, y + 4), f"{mark:g}", fill=_GREY, font=font)
        x, y = _at(panel, 0, mark)
        pen.text((x - 26, y - 8), f"{mark:g}", fill=_GREY, font=font)


def run(checkpoint: Path, preset: str, count: int, seed: int, size: int, output: Path) -> None:
    """Ask, print the tables, and write ``presence.json`` and ``presence.png`` into the output folder."""
    if count < 1:
        raise ConfigError(f"count is {count}; give at least 1")
    segmenter = load_segmenter(checkpoint, preset)
    threshold = segmenter.network.config.presence_threshold
    answers = collect(segmenter, make_cases(count, seed, size))
    report = summarise(answers)
    told = "no presence threshold" if threshold is None else f"masks below a presence of {threshold:.4f} are emptied"
    where = f"{count} phantoms of seeds {seed} to {seed + count - 1}, {size} x {size}"
    print_table(
        f"{where}; {told}",
        ["phrases", "asked", "below", "empty", "rate", "goal", "met", "AUC"],
        [
            [
                kind,
                *(report["kinds"][kind][key] for key in ("asked", "below", "empty", "rate")),
                report["acceptance"].get(kind, {}).get("limit"),
                {True: "yes", False: "no"}.get(report["acceptance"].get(kind, {}).get("met")),
                report["auc"].get(kind),
            ]
            for kind in KINDS
        ],
    )
    print_table(
        f"empty masks by phrase; calibration error {report['calibration_error']:.3f}",
        ["phrase", *KINDS],
        [
            [phrase, *(report["phrases"][kind].get(phrase, {}).get("rate") for kind in KINDS)]
            for phrase in dict.fromkeys(answer.phrase for answer in answers)
        ],
    )
    output.mkdir(parents=True, exist_ok=True)
    settings = {"checkpoint": checkpoint.name, "count": count, "seed": seed, "size": size}
    content = {**settings, "presence_threshold": threshold, **report, "answers": [asdict(a) for a in answers]}
    (output / "presence.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(answers, report).save(output / "presence.png")
    print(f"\nwrote {output / 'presence.json'} and {output / 'presence.png'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="file of weights, e.g. bundle/models/model.pt")
    parser.add_argument("--preset", default="tiny", help="geometry of a checkpoint that does not say its own")
    parser.add_argument("--count", type=int, default=64, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=9000, help="seed of the first one")
    parser.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    parser.add_argument("--output", type=Path, default=Path("presence"), help="folder of presence.json and .png")
    arguments = vars(parser.parse_args())
    try:
        run(**arguments)
    except (Sa2VAError, OSError) as error:
        sys.exit(f"presence.py: {error}")


if __name__ == "__main__":
    main()
