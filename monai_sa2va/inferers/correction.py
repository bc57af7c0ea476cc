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
"""Masks of a volume corrected where an object is shown, and as far around as that changes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from numpy.typing import NDArray
from scipy import ndimage

from monai_sa2va.errors import ConfigError
from monai_sa2va.inferers.presence import Presence
from monai_sa2va.inferers.showing import check_one, check_shown, show_object, tell_sentence
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.steps import carry_objects, inferring, picture_maps, remember_objects
from monai_sa2va.inferers.tracking import full_size_masks
from monai_sa2va.inferers.visual_prompts import VisualPrompts
from monai_sa2va.networks.memory import Memory, MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.picture import to_picture

__all__ = ["CorrectionInferer"]

# share of a slice's longer side by which a correction may move from one slice to the next
_SHIFT = 1 / 32


class CorrectionInferer(Inferer):
    """Corrects what a sentence, or a first click, drew in a volume, where clicks, boxes or masks show the object.

    In each slice where the object is shown it is drawn by sentence and clicks, as
    :class:`~monai_sa2va.inferers.stack.StackInferer` does. What that changed is carried to the slices on both sides by
    SAM2's memory of the corrected slice: there, too, only what is connected to the change in the slice before is
    changed. It ends on a side where the mask would overlap the one that was there by ``agreement`` or more, at the end
    of the volume, after ``reach`` slices, and where another slice in which the object is shown is nearer. All else
    stays as it was.

    Args:
        amp: autocast to bfloat16 on the network's device; ``False`` leaves an outer autocast as it is.
        agreement: intersection over union, 0 to 1, from which on a slice is left as it is.
        reach: slices that a correction is carried at most, each way; ``None`` as far as it changes anything.
        recent: last slices whose masks a slice attends to.
        presence_threshold: as for :class:`~monai_sa2va.inferers.image.ImageInferer`.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(
        self,
        amp: bool = False,
        agreement: float = 0.9,
        reach: int | None = None,
        recent: int = 6,
        presence_threshold: float | str | None = "stored",
    ) -> None:
        super().__init__()
        if not 0 <= agreement <= 1:
            raise ConfigError(f"agreement is {agreement}; give 0 to 1")
        if reach is not None and reach < 0:
            raise ConfigError(f"reach is {reach}; give 0 or more slices, or null for as far as anything changes")
        # refused here, not at the first volume
        MemoryBank(recent=recent)
        self.amp, self.agreement, self.reach, self.recent = amp, agreement, reach, recent
        self.presence = Presence(presence_threshold)

    def __call__(  # type: ignore[override]  # MONAI's own inferers name their arguments, too
        self,
        inputs: Sequence[Any],
        network: Sa2VA,
        prompt: str | None,
        shown: Mapping[int, VisualPrompts],
        start: SliceResults,
    ) -> SliceResults:
        """Correct a volume.

        Args:
            inputs: the slices in their order, each as for :class:`~monai_sa2va.inferers.image.ImageInferer`, and read
                one at a time.
            network: the Sa2VA; left in the mode (training or evaluation) that it is in.
            prompt: the sentence, of one object, if any.
            shown: slice -> what shows the object there, at least one.
            start: what is corrected; changed in place.

        Returns:
            ``start``, corrected.

        Raises:
            DataError: when a slice is no picture.
            PromptError: when there are several objects, the sentence can't be asked, a slice is not there, or clicks
                begin with one beside an object of which nothing else tells.
        """
        check_shown(prompt, shown, None, len(inputs))
        check_one(start[0].names)
        with inferring(network, self.amp):
            for number in sorted(shown):
                self._correct(inputs, network, prompt, shown, number, start)
        return start

    def _correct(
        self,
        inputs: Sequence[Any],
        network: Sa2VA,
        prompt: str | None,
        shown: Mapping[int, VisualPrompts],
        number: int,
        results: SliceResults,
    ) -> None:
        """Draw a slice where the object is shown, and carry what that changed."""
        picture = to_picture(inputs[number])
        size, maps = (picture.height, picture.width), picture_maps(network, picture)
        if prompt is None:
            base = GroundingPrompts.empty(1, network.device, network.dtype)
        else:
            base, _, _ = tell_sentence(network, picture, prompt, results[number].names)
        decoded = show_object(network, maps, base, shown[number], size)
        before = results.masks[0, number].copy()
        self._keep(network, results, number, decoded, full_size_masks(network, decoded.best()[0], size))
        changed = results.masks[0, number] ^ before
        if not changed.any():
            return
        # both ways are drawn at once, as two objects whose frames differ
        memory = remember_objects(network, [maps], decoded)
        assert memory.features is not None
        bank = MemoryBank(recent=self.recent)
        bank.condition(0, Memory(memory.features.repeat(2, 1, 1, 1), memory.pointers.repeat(2, 1)))
        ways = dict.fromkeys((1, -1), changed)
        for distance in range(1, len(inputs) if self.reach is None else self.reach + 1):
            places = {step: number + step * distance for step in ways}
            going = [_is_nearest(place, number, shown, len(inputs)) for place in places.values()]
            bank, ways = bank.select(going), dict(compress(ways.items(), going))
            if not ways:
                return
            frames = [picture_maps(network, to_picture(inputs[places[step]])) for step in ways]
            drawn = carry_objects(network, frames, bank.entries(distance))
            masks = full_size_masks(network, drawn.best()[0], size)
            threshold = self.presence.threshold_of(network)
            if threshold is not None:
                masks = masks & (self.presence(network, drawn.object_scores) >= threshold)[:, None, None]
            going = []
            for row, step in enumerate(ways):
                old = results.masks[0, places[step]].copy()
                ways[step] = _connected(masks[row].numpy() ^ old, ways[step])
                new = old ^ ways[step]
                going.append(_overlap(old, new) < self.agreement)
                if going[-1]:
                    one = DecodedMasks(*(part[row : row + 1] for part in drawn))
                    self._keep(network, results, places[step], one, torch.from_numpy(new)[None])
            if any(going):
                bank.add(distance, remember_objects(network, frames, drawn))
            bank, ways = bank.select(going), dict(compress(ways.items(), going))

    def _keep(
        self, network: Sa2VA, results: SliceResults, number: int, decoded: DecodedMasks, masks: torch.Tensor
    ) -> None:
        _, ious = decoded.best()
        presence = self.presence(network, decoded.object_scores)
        results.keep(number, replace(results[number], masks=masks, presence=presence, iou_scores=ious.float().cpu()))


def _is_nearest(place: int, number: int, shown: Mapping[int, VisualPrompts], depth: int) -> bool:
    """Whether a slice is there, and none in which the object is shown is nearer; of two, the lower one has it."""
    return 0 <= place < depth and min(shown, key=lambda other: (abs(other - place), other)) == number


def _connected(differs: NDArray[np.bool_], changed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What differs (H, W) in one piece with what was changed in the slice before, which may have moved a little."""
    if not differs.any():
        return differs
    pieces, _ = ndimage.label(differs, structure=np.ones((3, 3)))
    near = ndimage.distance_transform_edt(~changed) <= max(1.0, _SHIFT * max(changed.shape))
    touched = np.unique(pieces[near])
    found: NDArray[np.bool_] = np.isin(pieces, touched[touched > 0])
    return found


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 of two that are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
