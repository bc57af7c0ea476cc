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

"""Clicks and boxes in a volume: what they correct is drawn first, by the sentence or by the first of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from monai_sa2va.data.read_image import SourceImage
from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.correction import CorrectionInferer
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.stack import StackInferer
from monai_sa2va.inferers.visual_prompts import sort_by_slice
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.pictures import Slices
from monai_sa2va.volume_questions import VolumeQuestions

__all__ = ["VolumeCorrections"]


class VolumeCorrections:
    """Draws one object in a volume and corrects it.

    Args:
        network: with its weights.
        ask: draws it by a sentence.
        begin: draws it by the box, or else the first click, where there is no sentence.
        correct: corrects it by all clicks and boxes.
    """

    def __init__(self, network: Sa2VA, ask: VolumeQuestions, begin: StackInferer, correct: CorrectionInferer) -> None:
        self.network, self.ask, self.begin, self.correct = network, ask, begin, correct

    def __call__(
        self, source: SourceImage, pictures: Slices, prompt: str | None, points: Any = None, boxes: Any = None
    ) -> SliceResults:
        """Draw and correct.

        Args:
            source: the volume.
            pictures: its slices.
            prompt: a sentence of one object, if any.
            points: as for :func:`~monai_sa2va.inferers.visual_prompts.sort_by_slice`, like ``boxes``.
            boxes: of the object.

        Raises:
            PromptError: when nothing is shown, the sentence can't be asked or names several objects, or points or
                boxes can't be used.
        """
        shown = dict(sort_by_slice(pictures.shape, points, boxes))
        if not shown:
            raise PromptError("nothing is shown; give points or a box")
        if prompt is not None:
            start = self.ask(source, pictures, [prompt])
            return self.correct(pictures, self.network, prompt, shown, start)
        first = sort_by_slice(pictures.shape, None, boxes) or sort_by_slice(pictures.shape, np.atleast_2d(points)[:1])
        start = self.begin(pictures, self.network, None, first)
        for number, visual in shown.items():
            # elsewhere the clicks are about what is there already
            if number not in first and start.masks[0, number].any():
                shown[number] = replace(visual, mask=start.masks[0, number].copy())
        return self.correct(pictures, self.network, None, shown, start)
