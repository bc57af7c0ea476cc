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

"""One slice in which an object is shown: by a sentence, and click by click."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.steps import (
    answer_tokens,
    draw_clicked,
    draw_objects,
    name_objects,
    picture_tokens,
    tell_objects,
)
from monai_sa2va.inferers.visual_prompts import VisualPrompts
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.sentences import check_prompt

__all__ = ["check_one", "check_shown", "show_object", "tell_sentence"]

# logit of a rough mask's inside, as SAM2 hands a mask to itself
_MASK_LOGIT = 10.0


def tell_sentence(
    network: Sa2VA, picture: Image.Image, prompt: str, names: Sequence[str] = ()
) -> tuple[GroundingPrompts, list[str], str]:
    """What a sentence tells SAM2 of its objects in a picture.

    Args:
        network: the Sa2VA.
        picture: in RGB.
        prompt: the sentence.
        names: of its objects, where they are known.

    Returns:
        Prompts of the objects, their names, and the answer.
    """
    tokens, n_tiles = picture_tokens(network, picture)
    found = list(names or name_objects(network, tokens, prompt))
    ids, answer = answer_tokens(network, prompt, tuple(found), n_tiles)
    ids = ids.unsqueeze(0)
    return GroundingPrompts.of_language(tell_objects(network, tokens, ids, torch.ones_like(ids))), found, answer


def check_shown(prompt: str | None, shown: Mapping[int, VisualPrompts], first: int | None, depth: int) -> None:
    """Refuse what can't be drawn.

    Args:
        prompt: a sentence, if any.
        shown: slice -> what shows the object there.
        first: the slice that the sentence is asked in, if that is said.
        depth: number of slices.

    Raises:
        PromptError: when there is neither sentence nor anything shown, the sentence can't be asked, a slice is not
            there, or clicks begin with one beside the object.
    """
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


def check_one(names: Sequence[str]) -> None:
    """Refuse several objects where one is shown.

    Args:
        names: what a sentence asks for.

    Raises:
        PromptError: naming them.
    """
    if len(names) != 1:
        raise PromptError(
            f"the prompt names {len(names)} objects ({', '.join(names)}), and what is shown by clicks, box or "
            "mask is one; ask for one at a time"
        )


def show_object(
    network: Sa2VA,
    maps: list[torch.Tensor],
    base: GroundingPrompts,
    visual: VisualPrompts,
    size: tuple[int, int],
) -> DecodedMasks:
    """Draw one object in one slice by what shows it, click by click.

    Args:
        network: the Sa2VA.
        maps: of the slice, from :func:`~monai_sa2va.inferers.steps.picture_maps`.
        base: the sentence's prompt, or an empty one, of one object.
        visual: what shows the object.
        size: (H, W) of the slice, pixels.
    """
    side = network.config.grounding.image_size
    scale = np.array([side / size[1], side / size[0]])
    like = maps[-1]
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
        prompts = start.with_masks(_rough(visual.mask, maps[0].shape[-2:]).to(like))
    taken = 0 if begun else 1
    if taken:
        prompts = prompts.with_points(places[None, :1], labels[None, :1])
    if len(places) == taken:
        return draw_objects(network, maps, prompts)
    return draw_clicked(network, maps, prompts, places[None, taken:], labels[None, taken:])


def _rough(mask: np.ndarray, side: torch.Size) -> torch.Tensor:
    """(1, S/4, S/4) logits of a mask (H, W)."""
    share = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=tuple(side), mode="area")[0]
    return (share * 2 - 1) * _MASK_LOGIT
