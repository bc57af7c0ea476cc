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

"""What the benchmarks share: images with named truth, a segmenter from a checkpoint, scores by prompt, tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from monai_sa2va.checkpoints.info import stored
from monai_sa2va.checkpoints.load import load_weights
from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.phantoms import make_phantom
from monai_sa2va.enums import InputRange, MaskScore
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.metrics import PromptScores, PromptSegmentationMetric
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

__all__ = ["PLAIN", "BoolMask", "Case", "ask", "load_segmenter", "make_cases", "print_table", "read_cases", "score"]

PLAIN = "Segment the {}."
"""The sentence that others are compared with: the one that validation asks."""

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Case:
    """An image and its truth.

    Attributes:
        name: of the image's file, without suffix: ``"<look>_<seed>"``.
        picture: (H, W, 3) uint8, RGB.
        masks: (H, W) bool by the structure's name, of those that are there.
    """

    name: str
    picture: NDArray[np.uint8]
    masks: dict[str, BoolMask]

    @property
    def look(self) -> str:
        """``"fundus"``, ``"ct"`` or ``"ultrasound"``."""
        return self.name.split("_")[0]


def read_cases(datalist: str | os.PathLike[str], section: str) -> list[Case]:
    """Images of one section of a datalist of phantoms (8-bit PNG with label maps).

    Raises:
        DatalistError: when the datalist can't be used.
        DataError: when an image or label can't be read, or their sizes differ.
    """
    return [_read_case(entry) for entry in load_datalist(datalist, section)]


def _read_case(entry: Mapping[str, Any]) -> Case:
    path = Path(entry[Keys.IMAGE])
    try:
        picture = np.array(Image.open(path).convert("RGB"))
        label = np.array(Image.open(entry[Keys.LABEL]))
    except (OSError, KeyError) as error:
        raise DataError(f"{path} or its label can't be read: {error}") from error
    if label.shape != picture.shape[:2]:
        raise DataError(f"{path} has the shape {picture.shape[:2]}, its label {label.shape}; give labels of one value")
    named = {phrases[0]: label == int(value) for value, phrases in entry[Keys.PROMPTS].items()}
    return Case(path.name.split(".")[0], picture, named)


def make_cases(count: int, seed: int, size: int = 128) -> list[Case]:
    """``count`` phantoms made in memory, of the seeds from ``seed`` on."""
    phantoms = [make_phantom(seed + i, size=size) for i in range(count)]
    return [Case(f"{phantom.look}_{phantom.seed:06d}", phantom.image, phantom.masks) for phantom in phantoms]


def load_segmenter(checkpoint: str | os.PathLike[str], preset: str = "tiny") -> Segmenter:
    """A Segmenter on the CPU with the weights of a checkpoint.

    Raises:
        CheckpointError: when the file is missing or doesn't fit the preset.
    """
    network = Sa2VA(stored(checkpoint, "config", preset), seed=0)
    load_weights(network, checkpoint)
    return Segmenter(network, device="cpu")


def ask(segmenter: Segmenter, case: Case, sentences: Sequence[str]) -> tuple[list[BoolMask], list[list[str]]]:
    """Ask about one image by sentences that differ from each other.

    Returns:
        A mask (H, W) a sentence, the union where it was taken to name several structures, and the names it was taken
        to hold.

    Raises:
        PromptError: when the language model finds no name in a sentence.
    """
    found = segmenter.segment(case.picture, sentences)
    objects = [[i for i, prompt in enumerate(found.prompts) if prompt == sentence] for sentence in sentences]
    masks = [np.any(found.masks[indices], axis=0) for indices in objects]
    return masks, [[found.labels[i] for i in indices] for indices in objects]


def score(objects: Iterable[tuple[str, BoolMask, BoolMask]]) -> PromptScores:
    """Dice of (name, predicted mask, true mask) triples, grouped by name.

    Raises:
        DataError: when there is none, or shapes differ.
    """
    metric = PromptSegmentationMetric(MaskScore.DICE, InputRange.PROBABILITIES)
    for name, predicted, truth in objects:
        metric(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None], names=[name])
    return metric.scores()


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], last: Sequence[object] = ()) -> None:
    """Print a table: text to the left, numbers to the right with three decimals.

    Args:
        title: stands above.
        head: names of the columns.
        rows: their cells; ``None`` shows as a dash.
        last: a row below a line: the means.
    """
    # a title of the table itself would be broken at the table's width
    console = Console(highlight=False)
    console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
    table = Table()
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    if last:
        table.add_section()
        table.add_row(*map(_cell, last))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
