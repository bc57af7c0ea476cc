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
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from monai.networks.utils import eval_mode

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.presence import Presence
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.tracking import ObjectTracker, full_size_masks
from monai_sa2va.inferers.visual_prompts import VisualPrompts
from monai_sa2va.networks.clicks import mark_clicks
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.naming import answer_ids, find_objects
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.picture import to_picture
from monai_sa2va.transforms.sentences import check_prompt

__all__ = ["OBJECT_NAME", "StackInferer", "show_object"]

OBJECT_NAME = "object"
"""Name of what was shown without a sentence."""

# logit of a rough mask's inside, as SAM2 hands a mask to itself
_MASK_LOGIT = 10.0


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
        _check(prompt, shown, first, len(inputs))
        starts = sorted(shown) or [len(inputs) // 2 if first is None else first]
        with eval_mode(network), torch.inference_mode(), self._autocast(network.device):
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

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.amp else nullcontext()


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
        sample = self.network.processor.image(picture)
        base = self._language(sample, prompt)
        if visual is not None and len(base) > 1:
            raise PromptError(
                f"the prompt names {len(base)} objects ({', '.join(self.names)}), and what is shown by clicks, box or "
                "mask is one; ask for one at a time"
            )
        maps = self.tracker.encode(sample[Keys.GROUNDING_PIXEL_VALUES], len(base))
        features = self.tracker.sam2.without_memory(maps)
        size = (picture.height, picture.width)
        if visual is None:
            decoded = self.tracker.sam2.decode(features, base)
        else:
            decoded = show_object(self.network, features, base, visual, size)
        self._keep(number, decoded, size, certain=visual is not None)
        self.tracker.condition(number, maps, decoded)

    def carry(self, number: int, reverse: bool) -> None:
        """Draw the objects in a slice from memory, and remember it."""
        picture = to_picture(self.slices[number])
        pixels = self.network.processor.grounding_image(picture).unsqueeze(0)
        decoded = self.tracker.carry(number, self.tracker.encode(pixels, len(self.names)), reverse)
        self._keep(number, decoded, (picture.height, picture.width), certain=False)

    def _language(self, sample: Mapping[str, Any], prompt: str | None) -> GroundingPrompts:
        network = self.network
        if prompt is None:
            self.names = [OBJECT_NAME]
            return GroundingPrompts.empty(1, network.device, network.dtype)
        pixels = sample[Keys.PIXEL_VALUES].to(network.device, network.dtype)
        tokens = network.mllm.encode_image(pixels, sample.get(Keys.IMAGE_GRID))
        # the first slice's reading holds for all
        names = self.names or find_objects(network, tokens, prompt)
        ids, self.answer = answer_ids(network, prompt, names, network.processor.n_tiles(sample))
        ids = ids.unsqueeze(0).to(network.device)
        self.names = list(names)
        return GroundingPrompts.of_language(network.language_embeddings(tokens, ids, torch.ones_like(ids)))

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


def show_object(
    network: Sa2VA,
    features: Sequence[torch.Tensor],
    base: GroundingPrompts,
    visual: VisualPrompts,
    size: tuple[int, int],
) -> DecodedMasks:
    """Draw one object in one slice by what shows it, click by click.

    Args:
        network: the Sa2VA.
        features: three maps of the slice, (1, C, h, w) each.
        base: the sentence's prompt, or an empty one, of one object.
        visual: what shows the object.
        size: (H, W) of the slice, pixels.
    """
    side = network.config.grounding.image_size
    scale = np.array([side / size[1], side / size[0]])
    sam2, like = network.grounding_encoder.sam2_model, features[-1]
    start = base
    if visual.box is not None:
        # a box holds its last pixel: its edges are those of the pixels
        edges = np.concatenate([visual.box[:2] * scale, (visual.box[2:] + 1) * scale]) - 0.5
        start = start.with_boxes(torch.as_tensor(edges, dtype=like.dtype, device=like.device).unsqueeze(0))
    places = torch.as_tensor((visual.points[:, :2] + 0.5) * scale - 0.5, dtype=like.dtype, device=like.device)
    labels = torch.as_tensor(visual.points[:, 2], dtype=torch.long, device=like.device)
    begun = visual.box is not None or visual.mask is not None or bool(base.has_language.any())
    prompts = start
    if visual.mask is not None:
        prompts = start.with_masks(_rough(visual.mask, features[0].shape[-2:]).to(like))
    taken = 0 if begun else 1
    if taken:
        prompts = prompts.with_points(places[None, :1], labels[None, :1])
    decoded = sam2.decode(features, prompts)
    for number in range(taken + 1, len(places) + 1):
        clicked = start.with_points(places[None, :number], labels[None, :number])
        last, _ = decoded.best()
        marked = mark_clicks(last, clicked.points, clicked.point_labels, side, sam2.click_mark)
        decoded = sam2.decode(features, clicked.with_masks(marked))
    return decoded


def _rough(mask: np.ndarray, side: torch.Size) -> torch.Tensor:
    """(1, S/4, S/4) logits of a mask (H, W)."""
    share = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=tuple(side), mode="area")[0]
    return (share * 2 - 1) * _MASK_LOGIT


def _check(prompt: str | None, shown: Mapping[int, VisualPrompts], first: int | None, depth: int) -> None:
    if prompt is None and not shown:
        raise PromptError("there is neither a prompt nor anything shown; give a sentence, points, a box or a mask")
    if prompt is not None:
        check_prompt(prompt)
    if first is not None and (isinstance(first, bool) or not isinstance(first, int | np.integer)):
        raise PromptError(f"the slice to ask in is {first!r}; give its whole number, 0 to {depth - 1}")
    odd = [number for number in (*shown, *(() if first is None else (first,))) if not 0 <= number < depth]
    if odd:
        raise PromptError(f"slice {odd[0]} is not there; the stack has {depth}")
    for number, visual in shown.items():
        begun = prompt is not None or visual.box is not None or visual.mask is not None
        if not begun and visual.points[0, 2] != 1:
            raise PromptError(f"slice {number} begins with a click beside the object; give one on it first")
