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

"""Simulated interaction: how objects are prompted and corrected while a network is trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from monai_sa2va.errors import ConfigError
from monai_sa2va.losses.terms import resize_logits
from monai_sa2va.networks.clicks import draw_boxes, draw_clicks, draw_rough_masks, mark_clicks
from monai_sa2va.networks.prompts import FOREGROUND, NO_POINT, GroundingPrompts

__all__ = ["SimulatedInteraction", "as_interaction"]

_TEXT, _POINT, _BOX, _MASK, _MIXED = range(5)


class SimulatedInteraction:
    """Prompts for training, drawn for each object as SAM2's training draws them, with language among them.

    The first prompt is language, a click, a box, a rough mask, or language with one of the other three. Then follow
    ``rounds`` clicks, each on an error of the mask before it, which is handed back as a mask prompt; what was there at
    first stays. An object that is absent can only be asked for by language.

    All random numbers come from torch's generators. With ``text_prob=1`` and ``rounds=0`` the objects of single images
    are trained exactly as without an interaction.

    Args:
        text_prob: probability of language alone as the first prompt.
        point_prob: that of one click.
        box_prob: that of a box.
        mask_prob: that of a rough mask.
        mixed_prob: that of language with a click, a box or a mask, each equally likely; the five add up to 1.
        rounds: corrective clicks an object, the same for all, 0 or more.
        interior_prob: share of clicks that are set at the most interior point of an error; the others lie anywhere in
            it.
        box_jitter: by how much of its width and height a box's corners are moved at most, 0 to 1.
        mask_noise: how uneven a rough mask is, 0 to 1.
        max_conditioned: most frames of a clip that are prompted, at least 1: a number from 1 to this is drawn; all
            other frames are drawn from memory.

    Raises:
        ConfigError: when a probability or number is out of its range.

    Example:
        >>> network = Sa2VA("tiny", interaction=SimulatedInteraction(rounds=2), seed=0).train()
    """

    def __init__(
        self,
        text_prob: float = 0.4,
        point_prob: float = 0.15,
        box_prob: float = 0.15,
        mask_prob: float = 0.1,
        mixed_prob: float = 0.2,
        rounds: int = 3,
        interior_prob: float = 0.3,
        box_jitter: float = 0.1,
        mask_noise: float = 0.3,
        max_conditioned: int = 2,
    ) -> None:
        first = {
            "text_prob": text_prob,
            "point_prob": point_prob,
            "box_prob": box_prob,
            "mask_prob": mask_prob,
            "mixed_prob": mixed_prob,
        }
        shares = {"interior_prob": interior_prob, "box_jitter": box_jitter, "mask_noise": mask_noise}
        for name, value in {**first, **shares}.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"interaction: {name} is {value}; give 0 to 1")
        if not math.isclose(sum(first.values()), 1, abs_tol=1e-6):
            raise ConfigError(f"interaction: {', '.join(first)} add up to {sum(first.values()):g}; make it 1")
        for name, number, least in (("rounds", rounds, 0), ("max_conditioned", max_conditioned, 1)):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ConfigError(f"interaction: {name} is {number!r}; give a whole number of at least {least}")
        self.probabilities = tuple(first.values())
        self.rounds = rounds
        self.interior_prob, self.box_jitter, self.mask_noise = interior_prob, box_jitter, mask_noise
        self.max_conditioned = max_conditioned

    def first_prompts(self, language: Tensor, truth: Tensor, image_size: int) -> GroundingPrompts:
        """Draw the prompts that M objects begin with.

        Args:
            language: (M, C) embeddings.
            truth: (M, H, W) bool.
            image_size: side of SAM2's image, pixels.
        """
        device = language.device
        kind = torch.multinomial(torch.tensor(self.probabilities), max(len(truth), 1), replacement=True)[: len(truth)]
        other = torch.where(kind == _MIXED, torch.randint(_POINT, _MIXED, (len(truth),)), kind).to(device)
        kind = kind.to(device)
        present = truth.flatten(1).any(1)
        prompts = GroundingPrompts.empty(len(truth), device)
        has_language = (kind == _TEXT) | (kind == _MIXED) | ~present
        if has_language.any():
            prompts = prompts.with_language(language, has_language)
        box, mask, point = ((other == which) & present for which in (_BOX, _MASK, _POINT))
        if box.any():
            prompts = prompts.with_boxes(draw_boxes(truth, self.box_jitter, image_size), box)
        if mask.any():
            prompts = prompts.with_masks(draw_rough_masks(truth, self.mask_noise, image_size // 4), mask)
        if point.any():
            points, _ = draw_clicks(torch.zeros_like(truth), truth, self._interior(truth), image_size)
            prompts = prompts.with_points(points.unsqueeze(1), torch.where(point, FOREGROUND, NO_POINT).unsqueeze(1))
        return prompts

    def corrected(
        self, prompts: GroundingPrompts, masks: Tensor, truth: Tensor, image_size: int, click_mark: float = 0.0
    ) -> GroundingPrompts:
        """Add a click on an error of each mask, and the mask itself, with the clicks drawn into it.

        Args:
            prompts: of M objects.
            masks: (M, S/4, S/4) logits that they made; gradients go on through them.
            truth: (M, H, W) bool.
            image_size: side of SAM2's image, pixels.
            click_mark: as in :class:`~monai_sa2va.config.GroundingConfig`.
        """
        predicted = resize_logits(masks.detach(), truth) > 0
        points, labels = draw_clicks(predicted, truth, self._interior(truth), image_size)
        clicked = prompts.with_points(points.unsqueeze(1), labels.unsqueeze(1))
        marked = mark_clicks(masks, clicked.points, clicked.point_labels, image_size, click_mark)
        return clicked.with_masks(marked)

    def conditioned_frames(self, objects: Tensor, asked: int | None = None) -> list[int]:
        """Draw the frames of a clip that are prompted; at least one is left to memory.

        Args:
            objects: (T,) number of objects that each frame shows; frames of more are drawn more often.
            asked: the frame that the language model saw, which is always among them; ``None`` for no such frame.

        Returns:
            Their numbers, in order; frame 0 where it is the only one.
        """
        most = min(self.max_conditioned, len(objects) - 1)
        if most < 1:
            return [0]
        number = int(torch.randint(1, most + 1, ()))
        # frames that show nothing are left to the end
        weights = objects.float().cpu() + 1e-6
        if asked is not None:
            weights[asked] = 0
            number -= 1
        drawn = torch.multinomial(weights, number).tolist() if number else []
        return sorted(drawn if asked is None else [*drawn, asked])

    def _interior(self, truth: Tensor) -> Tensor:
        return torch.rand(len(truth), device=truth.device) < self.interior_prob


def as_interaction(value: Any) -> SimulatedInteraction | None:
    """What a configuration names as a network's interaction: a :class:`SimulatedInteraction`, or ``None`` for none.

    Raises:
        ConfigError: when it is anything else.
    """
    if value is None or isinstance(value, SimulatedInteraction):
        return value
    raise ConfigError(f"interaction is a {type(value).__name__}; give a SimulatedInteraction, or null for none")
