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

"""Where in a volume objects are: asked in few slices, then between those that show an object and those that don't."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.slices import SliceAsker

__all__ = ["Answer", "Run", "Sweep"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What one slice said of the N objects.

    Attributes:
        present: (N,) bool: the object is there, and its mask isn't empty.
        quality: (N,) float32, 0 to 1: how far its mask is to be trusted, presence x predicted IoU.
        language: (N, C), what the language model told SAM2.
    """

    present: torch.Tensor
    quality: torch.Tensor
    language: torch.Tensor


@dataclass(frozen=True)
class Run:
    """Slices that follow each other and hold one object.

    Attributes:
        first: where memory may draw it from.
        last: where it may draw it to, at least ``first``.
        shown: slices within, in order, in which a sentence drew it; at least one.
    """

    first: int
    last: int
    shown: tuple[int, ...]


class Sweep:
    """Asks in chosen slices. Where an object is shown, what the sentence drew is kept, and nothing where it isn't.

    Args:
        ask: the sentences and the slices; the middle one is asked at once.
        results: of the stack.
        threshold: presence from which on an object is there.

    Attributes:
        answers: slice -> what it said.
        like: what the middle slice was found to hold.
        objects: number of the objects that are asked for.
    """

    def __init__(self, ask: SliceAsker, results: SliceResults, threshold: float) -> None:
        self._ask, self._results, self._threshold = ask, results, threshold
        self.depth = len(ask.pictures)
        self.answers: dict[int, Answer] = {}
        self.like = self._ask_in(ask.middle)
        self.objects = len(self.like.names)

    def look(self, numbers: Iterable[int]) -> None:
        """Ask in slices that weren't asked yet."""
        for number in numbers:
            if number not in self.answers:
                self._ask_in(number)

    def _ask_in(self, number: int) -> ImageResult:
        found = self._ask(number)
        assert found.language is not None
        present = (found.presence >= self._threshold) & found.masks.flatten(1).any(1)
        self.answers[number] = Answer(present, found.presence * found.iou_scores, found.language)
        self._results.keep(number, replace(found, masks=found.masks & present[:, None, None]))
        return found

    def shows(self, number: int, item: int) -> bool:
        """Whether a slice that was asked shows an object."""
        return bool(self.answers[number].present[item])

    def sweep(self, step: int, finest: int) -> None:
        """Ask in every ``step``-th slice, and finer, down to every ``finest``-th, while an object isn't found."""
        first = step // 2
        while True:
            # the coarser slices are among the finer ones
            self.look(range(first % step, self.depth, step))
            lost = [item for item in range(self.objects) if not any(self.shows(n, item) for n in self.answers)]
            if not lost or step <= finest:
                return
            step = max(step // 2, finest)

    def narrow(self) -> None:
        """Ask between neighbours of which one shows an object and the other doesn't, until they touch."""
        known = 0
        # what is asked for one object may show another where none was expected
        while known < len(self.answers):
            known = len(self.answers)
            for item in range(self.objects):
                for low, high in [*pairwise(sorted(self.answers))]:
                    self._between(item, low, high)

    def _between(self, item: int, low: int, high: int) -> None:
        while self.shows(low, item) != self.shows(high, item) and high - low > 1:
            middle = (low + high) // 2
            self.look([middle])
            if self.shows(middle, item) == self.shows(low, item):
                low = middle
            else:
                high = middle

    def runs(self, item: int, min_share: float = 0.0) -> list[Run]:
        """The slices of an object: from each slice that shows it to the next ones asked that don't.

        A single slice that doesn't show it, between two that do, is left to memory.

        Args:
            item: number of the object.
            min_share: a run that holds less than this share of what the largest one holds is a mistake, and what its
                sentences drew is forgotten.
        """
        order = sorted(self.answers)
        groups: list[list[int]] = []
        for place, number in enumerate(order):
            if not self.shows(number, item):
                continue
            follows = bool(place) and self.shows(order[place - 1], item)
            if groups and (follows or number - groups[-1][-1] <= 2):
                groups[-1].append(number)
            else:
                groups.append([number])
        found = []
        for group in groups:
            before = [number for number in order if number < group[0]]
            after = [number for number in order if number > group[-1]]
            first = before[-1] + 1 if before else 0
            last = after[0] - 1 if after else self.depth - 1
            found.append(Run(first, last, tuple(group)))
        sizes = [self._size(item, run) for run in found]
        kept = [run for run, size in zip(found, sizes, strict=True) if size >= min_share * max(sizes)]
        for run in set(found) - set(kept):
            self._results.masks[item, list(run.shown)] = False
        return kept

    def _size(self, item: int, run: Run) -> float:
        """About how many voxels a run holds."""
        areas = [int(self._results.masks[item, number].sum()) for number in run.shown]
        return sum(areas) / len(areas) * (run.last - run.first + 1)

    def anchors(self, item: int, run: Run, count: int) -> dict[int, torch.Tensor]:
        """Where memory of an object begins: the best of each of ``count`` parts of a run's slices that show it.

        Returns:
            Slice -> (C,), what the language model told SAM2 there.
        """
        parts = min(count, len(run.shown))
        ends = [round(part * len(run.shown) / parts) for part in range(parts + 1)]
        best = [
            max(run.shown[low:high], key=lambda n: float(self.answers[n].quality[item])) for low, high in pairwise(ends)
        ]
        return {number: self.answers[number].language[item] for number in best}
