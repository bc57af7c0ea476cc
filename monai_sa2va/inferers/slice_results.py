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

"""Masks of a volume's slices, kept as they are drawn, so that they don't pile up in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_sa2va.errors import OutputError
from monai_sa2va.inferers.image import ImageResult

__all__ = ["SliceResults", "join_slices", "mask_array"]

# bytes; smaller arrays aren't worth a file
_LARGEST_IN_MEMORY = 4 << 20


def mask_array(shape: Sequence[int]) -> NDArray[np.bool_]:
    """An array of bool, all False.

    A large one lies in a temporary file of the system's (``TMPDIR``) that has no name and is gone with the array: its
    pages are the disk's, which the system writes out and reads back as it needs memory.

    Args:
        shape: of it.

    Raises:
        OutputError: when there is no room for it.
    """
    size = int(np.prod(shape))
    if size <= _LARGEST_IN_MEMORY:
        return np.zeros(shape, dtype=bool)
    try:
        with tempfile.TemporaryFile() as file:
            # claimed now: a mapped file that meets a full disk would end the program
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=bool, mode="r+", shape=tuple(shape))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"the temporary folder has no room for {size >> 20} MiB of masks: {reason}; make room, or set TMPDIR to a "
            "larger one"
        ) from error


class SliceResults(Sequence[ImageResult]):
    """What there is of each slice of a stack, all slices having the same objects.

    Slices may be kept in any order, and objects of a slice one after the other; what isn't kept is empty and has
    presence 0.

    Args:
        depth: number of slices.
        progress: called with the number of slices that anything was kept of, and of all.
    """

    def __init__(self, depth: int, progress: Callable[[int, int], None] | None = None) -> None:
        self.depth, self._progress = depth, progress
        self._like: ImageResult | None = None
        self._seen: set[int] = set()
        self.masks = np.zeros((0, depth, 0, 0), dtype=bool)
        self.presence = self.iou_scores = torch.zeros((depth, 0))

    def keep(self, number: int, result: ImageResult, objects: Sequence[int] | None = None) -> None:
        """Keep what was found in a slice.

        Args:
            number: of the slice.
            result: masks (M, H, W); the first one that is kept tells names and answers of all, and has all objects.
            objects: which of all objects the M are; all by default.
        """
        if self._like is None:
            count, *size = result.masks.shape
            # its masks are copied, and what it told SAM2 holds for its own slice alone
            self._like = replace(result, masks=result.masks[:0], language=None)
            self.masks = mask_array((count, self.depth, *size))
            self.presence, self.iou_scores = torch.zeros((self.depth, count)), torch.zeros((self.depth, count))
        chosen: Any = slice(None) if objects is None else list(objects)
        self.masks[chosen, number] = result.masks.numpy()
        self.presence[number, chosen], self.iou_scores[number, chosen] = result.presence, result.iou_scores
        self.saw(number)

    def saw(self, number: int) -> None:
        """Note that a slice was looked at, for the progress alone."""
        self._seen.add(number)
        if self._progress is not None:
            self._progress(len(self._seen), self.depth)

    def finish(self) -> None:
        """Note that no slice needs to be looked at any more."""
        if self._progress is not None and len(self._seen) < self.depth:
            self._progress(self.depth, self.depth)

    def __len__(self) -> int:
        return self.depth

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(self.depth)[index]]
        number = range(self.depth)[index]
        if self._like is None:
            raise IndexError(f"nothing was kept of slice {number} yet")
        masks = torch.from_numpy(self.masks[:, number])
        presence, ious = self.presence[number], self.iou_scores[number]
        return replace(self._like, masks=masks, presence=presence, iou_scores=ious)


def join_slices(found: Sequence[SliceResults]) -> SliceResults:
    """What several prompts, asked one after the other, found in each slice.

    Args:
        found: for each prompt, what there is of each slice.
    """
    if len(found) == 1:
        return found[0]
    joined = SliceResults(found[0].depth)
    for number, results in enumerate(zip(*found, strict=True)):
        joined.keep(number, _join_prompts(results))
    return joined


def _join_prompts(results: Sequence[ImageResult]) -> ImageResult:
    return ImageResult(
        masks=torch.cat([result.masks for result in results]),
        names=[name for result in results for name in result.names],
        prompt_indices=[number for number, result in enumerate(results) for _ in result.names],
        presence=torch.cat([result.presence for result in results]),
        iou_scores=torch.cat([result.iou_scores for result in results]),
        answers=[answer for result in results for answer in result.answers],
        phrases=[names for result in results for names in result.phrases],
        presence_threshold=results[0].presence_threshold,
    )
