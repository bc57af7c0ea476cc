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

"""One slice of a volume asked or clicked by itself; the others stay empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai_sa2va.data.read_image import SourceImage
from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.image import ImageResult
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.visual_prompts import sort_by_slice
from monai_sa2va.label.options import RequestError
from monai_sa2va.predictor import Segmenter
from monai_sa2va.segmentation import Segmentation, join_results

__all__ = ["ask_slice", "show_slice"]


def ask_slice(segmenter: Segmenter, source: SourceImage, text: str, number: int, mode: str) -> Segmentation:
    """Ask in one slice.

    Args:
        segmenter: with the window wanted.
        source: a volume.
        text: the sentence.
        number: of the slice, as the masks count; -1 for the middle one.
        mode: ``"segment"`` or ``"chat"``.

    Raises:
        PromptError: when the sentence can't be asked.
        RequestError: when there is no such slice.
    """

    def ask(pictures: Sequence[Any], where: int) -> ImageResult:
        return segmenter.inferer(pictures[where], segmenter.network, [text], mode=mode)

    return _alone(segmenter, source, number, ask, text)


def show_slice(segmenter: Segmenter, source: SourceImage, text: str | None, **shown: Any) -> Segmentation:
    """Draw an object in the one slice where it is shown.

    Args:
        segmenter: with the window wanted.
        source: a volume.
        text: a sentence about it, if any.
        **shown: ``points``, ``boxes`` and ``mask`` as :meth:`Segmenter.segment` takes them.

    Raises:
        PromptError: when it is shown in no slice, in several, or as it can't be drawn.
    """
    geometry = segmenter.reader.geometry(source)
    found = sort_by_slice((geometry.depth, *geometry.plane_shape), **shown)
    if len(found) != 1:
        raise PromptError(f"mode is slice, and the object is shown in {len(found)} slices; show it in one")
    ((number, visual),) = found.items()

    def draw(pictures: Sequence[Any], where: int) -> ImageResult:
        return segmenter.stack_inferer([pictures[where]], segmenter.network, text, {0: visual})[0]

    return _alone(segmenter, source, number, draw, text or "")


def _alone(
    segmenter: Segmenter,
    source: SourceImage,
    number: int,
    draw: Callable[[Sequence[Any], int], ImageResult],
    text: str,
) -> Segmentation:
    pictures = segmenter.reader.slices(source)
    depth = len(pictures)
    where = depth // 2 if number == -1 else number
    if not 0 <= where < depth:
        raise RequestError(f"slice is {number}; give 0 to {depth - 1}, or -1 for the middle one")
    results = SliceResults(depth)
    results.keep(where, draw(pictures, where))
    return join_results(source, pictures, pictures.geometry, results, [text])
