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

"""Objects carried by SAM2's memory, each through its own slices, from the slices in which a sentence drew it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.presence import Presence
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.steps import draw_objects, picture_maps
from monai_sa2va.inferers.sweep import Run
from monai_sa2va.inferers.tracking import ObjectTracker, full_size_masks
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.picture import to_picture

__all__ = ["Propagation"]


class _Journey:
    """One object on its way: its memory, and the slices that are to be drawn from it."""

    def __init__(
        self, item: int, runs: Sequence[Run], anchors: Mapping[int, torch.Tensor], tracker: ObjectTracker
    ) -> None:
        self.item, self.anchors, self.tracker = item, anchors, tracker
        self.shown = {number for run in runs for number in run.shown}
        # slices to draw -> whether they lie on the way to one that shows the object
        self.ways: dict[bool, dict[int, bool]] = {False: {}, True: {}}
        for run in runs:
            start = next(number for number in run.shown if number in anchors)
            forward, back = range(start + 1, run.last + 1), range(start - 1, run.first - 1, -1)
            self.ways[False] |= {n: n <= run.shown[-1] for n in forward if n not in anchors}
            self.ways[True] |= {n: n >= run.shown[0] for n in back if n not in anchors}
        self.missing = 0

    def wants(self, number: int, reverse: bool, patience: int) -> bool:
        """Whether it is to be drawn in this slice."""
        if number not in self.ways[reverse]:
            return False
        if number + (1 if reverse else -1) in self.shown:
            self.missing = 0
        return self.missing < patience or self.ways[reverse][number]


class Propagation:
    """Draws objects in the slices where no sentence drew them.

    A slice is encoded once a direction for all objects; each object has a memory of its own, which is bounded.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.
        slices: in their order, read one at a time.
        presence: of objects.
        results: gets what is drawn.
        max_conditioned: as for :class:`~monai_sa2va.networks.memory.MemoryBank`, like the next.
        recent: last slices whose masks a slice attends to.
        patience: slices without an object, one after the other, after which it is no longer looked for, but for those
            on the way to a slice that shows it.
    """

    def __init__(
        self,
        network: Sa2VA,
        slices: Sequence[Any],
        presence: Presence,
        results: SliceResults,
        max_conditioned: int | None = 4,
        recent: int = 6,
        patience: int = 3,
    ) -> None:
        self.network, self.slices, self.presence, self.results = network, slices, presence, results
        self.max_conditioned, self.recent, self.patience = max_conditioned, recent, patience
        self._journeys: list[_Journey] = []

    def add(self, item: int, runs: Sequence[Run], anchors: Mapping[int, torch.Tensor]) -> None:
        """Take up an object.

        Args:
            item: its number among those of ``results``.
            runs: its slices; none of an object that isn't there.
            anchors: slice -> (C,), what the language model tells SAM2 there; at least one of each run.
        """
        if runs:
            tracker = ObjectTracker(self.network, MemoryBank(self.max_conditioned, self.recent))
            self._journeys.append(_Journey(item, runs, anchors, tracker))

    def run(self, like: ImageResult) -> None:
        """Draw all objects.

        Args:
            like: what any slice was found to hold, for the names.
        """
        for number in sorted({number for journey in self._journeys for number in journey.anchors}):
            maps, _ = self._encode(number)
            for journey in self._journeys:
                if number in journey.anchors:
                    prompts = GroundingPrompts.of_language(journey.anchors[number].unsqueeze(0))
                    journey.tracker.condition(number, maps, draw_objects(self.network, maps, prompts))
        for reverse in (False, True):
            for number in sorted({n for journey in self._journeys for n in journey.ways[reverse]}, reverse=reverse):
                wanting = [journey for journey in self._journeys if journey.wants(number, reverse, self.patience)]
                if wanting:
                    self._carry(number, wanting, reverse, like)

    def _encode(self, number: int) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """Feature maps of a slice, and its size."""
        picture = to_picture(self.slices[number])
        return picture_maps(self.network, picture), (picture.height, picture.width)

    def _carry(self, number: int, journeys: Sequence[_Journey], reverse: bool, like: ImageResult) -> None:
        maps, size = self._encode(number)
        threshold = self.presence.threshold_of(self.network)
        for journey in journeys:
            decoded = journey.tracker.carry(number, maps, reverse)
            if number in journey.shown:
                continue
            logits, ious = decoded.best()
            masks = full_size_masks(self.network, logits, size)
            presence = self.presence(self.network, decoded.object_scores)
            if threshold is not None:
                masks = masks & (presence >= threshold)[:, None, None]
            there = bool(masks.any()) and float(presence) >= self.presence.decision_of(self.network)
            journey.missing = 0 if there else journey.missing + 1
            found = replace(like, masks=masks, presence=presence, iou_scores=ious.float().cpu(), language=None)
            self.results.keep(number, found, [journey.item])
