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
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["SliceAsker", "ask_everywhere"]


class SliceAsker:
    """Asks the same sentences in any slices; all have the objects that the first one asked was found to have.

    Args:
        pictures: the slices in their order, at least one, each as ``inferer`` takes it; read one at a time.
        network: the Sa2VA.
        inferer: applies it to one picture.
        asked: the sentences.
        mode: ``"segment"`` or ``"chat"``.
        known: what another view of the same volume was found to hold, in place of the first slice's.
    """

    def __init__(
        self,
        pictures: Sequence[Any],
        network: Sa2VA,
        inferer: ImageInferer,
        asked: Sequence[str],
        mode: str = "segment",
        known: ImageResult | None = None,
    ) -> None:
        self.pictures, self.network, self.inferer, self.asked, self.mode = pictures, network, inferer, asked, mode
        self._phrases = None if known is None else known.phrases
        self._replies = None if known is None else known.replies

    @property
    def middle(self) -> int:
        """The slice to ask first: the likeliest to show what a free sentence asks for."""
        return len(self.pictures) // 2

    def __call__(self, number: int) -> ImageResult:
        """Ask in one slice.

        Raises:
            ConfigError: when there is no such mode.
            PromptError: when a sentence can't be asked.
        """
        given = (self.pictures[number], self.network, self.asked)
        if self.mode == "chat":
            result = self.inferer(*given, mode=self.mode, replies=self._replies)
        else:
            result = self.inferer(*given, self._phrases)
        if self._phrases is None:
            self._phrases, self._replies = result.phrases, result.replies
        return result


def ask_everywhere(ask: SliceAsker, progress: Callable[[int, int], None] | None = None) -> SliceResults:
    """Ask in each slice by itself, the middle one first.

    Args:
        ask: the sentences and the slices.
        progress: called with the number of slices done and of all.

    Raises:
        ConfigError: when there is no such mode.
        PromptError: when a sentence can't be asked.
    """
    results = SliceResults(len(ask.pictures), progress)
    for number in (ask.middle, *(i for i in range(len(ask.pictures)) if i != ask.middle)):
        results.keep(number, ask(number))
    return results
