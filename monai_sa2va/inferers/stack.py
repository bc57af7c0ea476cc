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

"""Objects shown in some slices by sentence, clicks, box or mask, drawn there and carried through the rest by memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.inferers import Inferer
from PIL import Image

from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.presence import Presence
from monai_sa2va.inferers.showing import check_one, check_shown, show_object, tell_sentence
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.steps import draw_objects, inferring, picture_maps
from monai_sa2va.inferers.tracking import ObjectTracker, full_size_masks
from monai_sa2va.inferers.visual_prompts import VisualPrompts
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.picture import to_picture

__all__ = ["OBJECT_NAME", "StackInferer"]

OBJECT_NAME = "object"
"""Name of what was shown without a sentence."""


class StackInferer(Inferer):
    """Draws objects where they are shown, and carries them through the other slices both ways by SAM2's memory.

    In a slice with clicks SAM2 draws first by sentence, box and mask, as far as they are given, and then once more for
    each click in their order, with all clicks so far and its last mask: what a user saw is computed anew, and one click
    less is an undo. Other slices are drawn from memory alone; what is kept doesn't grow with the stack. Where nothing
    shows the object, it is emptied below the presence threshold.

    Args:
        amp: autocast to bfloat16 on the network's device; ``False`` leaves an outer autocast as it is.
        max_conditioned: as for :class:`~monai_sa2va.networks.memory.MemoryBank`, like the next.
        recent: last slices whose masks a slice attends to.
        presence_threshold: as for :class:`~monai_sa2va.inferers.image.ImageInferer`.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(
        self,
        amp: bool = False,
        max_conditioned: int | None = 4,
        recent: int = 6,
        presence_threshold: float | str | None = "stored",
    ) -> None:
        super().__init__()
        # refused here, not at the first stack
        MemoryBank(max_conditioned, recent)
        self.amp, self.max_conditioned, self.recent = amp, max_conditioned, recent
        self.presence = Presence(presence_threshold)

    def __call__(  # type: ignore[override]  # MONAI's own inferers name their arguments, too
        self,
        inputs: Sequence[Any],
        network: Sa2VA,
        prompt: str | None = None,
        shown: Mapping[int, VisualPrompts] | None = None,
        first: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SliceResults:
        """Segment a stack.

        Args:
            inputs: the slices in their order, each as for :class:`~monai_sa2va.inferers.image.ImageInferer`, and read
                one at a time.
            network: the Sa2VA; left in the mode (training or evaluation) that it is in.
            prompt: a sentence; of one object where ``shown`` holds anything.
            shown: slice -> what shows the object there, as
                :func:`~monai_sa2va.inferers.visual_prompts.sort_by_slice` gives it.
            first: the slice that the sentence is asked in where nothing is ``shown``; the middle one by default.
            progress: called with the number of slices done and of all.

        Returns:
            What there is of each slice, a picture being a stack of one. Without a sentence the object is called
            :data:`OBJECT_NAME`.

        Raises:
            DataError: when a slice is no picture.
            PromptError: when there is neither sentence nor anything shown, the sentence can't be asked or names more
                objects than one that is shown, a slice is not there, or clicks begin with one beside the object.
        """
        shown = dict(shown or {})
        check_shown(prompt, shown, first, len(inputs))
        starts = sorted(shown) or [len(inputs) // 2 if first is None else first]
        with inferring(network, self.amp):
            bank = MemoryBank(self.max_conditioned, self.recent)
            run = _Run(network, inputs, bank, self.presence, progress)
            for number in starts:
                run.show(number, prompt, shown.get(number))
            for number in range(starts[0] + 1, len(inputs)):
                if number not in starts:
                    run.carry(number, reverse=False)
            for number in range(starts[0] - 1, -1, -1):
                run.carry(number, reverse=True)
        return run.results


class _Run:
    """One stack on its way through the network."""

    def __init__(
        self,
        network: Sa2VA,
        slices: Sequence[Any],
        bank: MemoryBank,
        presence: Presence,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.network, self.slices, self.presence = network, slices, presence
        self.tracker = ObjectTracker(network, bank)
        self.names: list[str] = []
        self.answer = ""
        self.results = SliceResults(len(slices), progress)

    def show(self, number: int, prompt: str | None, visual: VisualPrompts | None) -> None:
        """Draw the objects in a slice where they are shown, and remember it."""
        picture = to_picture(self.slices[number])
        base = self._language(picture, prompt)
        if visual is not None:
            check_one(self.names)
        maps = picture_maps(self.network, picture)
        size = (picture.height, picture.width)
        if visual is None:
            decoded = draw_objects(self.network, maps, base)
        else:
            decoded = show_object(self.network, maps, base, visual, size)
        self._keep(number, decoded, size, certain=visual is not None)
        # one picture alone has nothing to remember
        if len(self.slices) > 1:
            self.tracker.condition(number, maps, decoded)

    def carry(self, number: int, reverse: bool) -> None:
        """Draw the objects in a slice from memory, and remember it."""
        picture = to_picture(self.slices[number])
        decoded = self.tracker.carry(number, picture_maps(self.network, picture), reverse)
        self._keep(number, decoded, (picture.height, picture.width), certain=False)

    def _language(self, picture: Image.Image, prompt: str | None) -> GroundingPrompts:
        if prompt is None:
            self.names = [OBJECT_NAME]
            return GroundingPrompts.empty(1, self.network.device, self.network.dtype)
        # the first slice's reading holds for all
        base, self.names, self.answer = tell_sentence(self.network, picture, prompt, self.names)
        return base

    def _keep(self, number: int, decoded: DecodedMasks, size: tuple[int, int], certain: bool) -> None:
        logits, ious = decoded.best()
        masks = full_size_masks(self.network, logits, size)
        presence = self.presence(self.network, decoded.object_scores)
        threshold = self.presence.threshold_of(self.network)
        if threshold is not None and not certain:
            masks = masks & (presence >= threshold)[:, None, None]
        result = ImageResult(
            masks=masks,
            names=self.names,
            prompt_indices=[0] * len(self.names),
            presence=presence,
            iou_scores=ious.float().cpu(),
            answers=[self.answer],
            phrases=[self.names],
            presence_threshold=threshold,
        )
        self.results.keep(number, result)
