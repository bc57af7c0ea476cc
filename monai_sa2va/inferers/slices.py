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

"""Sentences asked in every slice of a volume by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["ask_everywhere"]


def ask_everywhere(
    pictures: Sequence[Any],
    network: Sa2VA,
    inferer: ImageInferer,
    asked: Sequence[str],
    mode: str = "segment",
    progress: Callable[[int, int], None] | None = None,
) -> list[ImageResult]:
    """Ask in each slice by itself; all slices have the objects that the middle one was found to have.

    Args:
        pictures: the slices in their order, at least one, each as ``inferer`` takes it; read one at a time.
        network: the Sa2VA.
        inferer: applies it to one picture.
        asked: the sentences.
        mode: ``"segment"`` or ``"chat"``.
        progress: called with the number of slices done and of all.

    Returns:
        What there is of each slice.

    Raises:
        ConfigError: when there is no such mode.
        PromptError: when a sentence can't be asked.
    """
    depth = len(pictures)
    # the middle slice is the likeliest to show what a free sentence asks for; its reading holds for all slices
    middle = depth // 2
    results: dict[int, ImageResult] = {}
    for index in (middle, *(i for i in range(depth) if i != middle)):
        first = results.get(middle)
        phrases, replies = (None, None) if first is None else (first.phrases, first.replies)
        given = (pictures[index], network, asked)
        if mode == "chat":
            results[index] = inferer(*given, mode=mode, replies=replies)
        else:
            results[index] = inferer(*given, phrases)
        if progress is not None:
            progress(len(results), depth)
    return [results[index] for index in range(depth)]
