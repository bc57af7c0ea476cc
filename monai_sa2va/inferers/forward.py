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

"""SAM2's part of the reference's way: objects prompted in the first frames, carried forward by memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.inferers.steps import draw_objects, picture_maps
from monai_sa2va.inferers.tracking import ObjectTracker, full_size_masks
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.picture import to_picture

__all__ = ["DrawnFrame", "ForwardDrawer"]

_MEMORY_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


class DrawnFrame(NamedTuple):
    """What SAM2 says of M objects in one frame, on the CPU.

    Attributes:
        masks: (M, H, W) bool, of the frame's size.
        object_scores: (M,) float32, logit of the object being in the frame.
        iou_scores: (M,) float32, predicted IoU, 0 to 1.
    """

    masks: torch.Tensor
    object_scores: torch.Tensor
    iou_scores: torch.Tensor


class ForwardDrawer:
    """Draws objects in the frames of a cine as the reference does.

    Each of the first frames is drawn by the objects' language alone; memory of all of them and of the last ones draws
    the frames that follow, forward. No object's masks depend on the others'.

    Args:
        n_context: frames that are drawn by language, at least 1.
        memory_dtype: type that the memory is kept in: ``"bfloat16"`` as in the reference, whatever the weights are,
            ``"float32"``, ``"float16"``, or ``None`` for the weights' own.
        max_objects: objects that are drawn at a time; less needs less memory.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(self, n_context: int = 5, memory_dtype: str | None = "bfloat16", max_objects: int = 16) -> None:
        if n_context < 1:
            raise ConfigError(f"n_context is {n_context}; the language model sees at least 1 frame")
        if max_objects < 1:
            raise ConfigError(f"max_objects is {max_objects}; at least 1 is needed")
        if memory_dtype is not None and memory_dtype not in _MEMORY_TYPES:
            raise ConfigError(f"memory_dtype is {memory_dtype!r}; allowed: {', '.join(_MEMORY_TYPES)}, null")
        self.n_context, self.max_objects = n_context, max_objects
        self.memory_dtype = None if memory_dtype is None else _MEMORY_TYPES[memory_dtype]

    def __call__(self, inputs: Sequence[Any], network: Sa2VA, language: torch.Tensor) -> Iterator[DrawnFrame]:
        """Draw objects frame by frame.

        Args:
            inputs: the frames in their order, all of one size, each as for
                :class:`~monai_sa2va.inferers.image.ImageInferer`; read one at a time.
            network: in evaluation mode; the caller sees to it that no gradient is kept.
            language: (M, C), from :meth:`~monai_sa2va.networks.sa2va.Sa2VA.language_embeddings`.

        Raises:
            DataError: when a frame is no picture or of another size than the first.
        """
        groups = [GroundingPrompts.of_language(part) for part in language.split(self.max_objects) if len(part)]
        trackers = [ObjectTracker(network, self._bank()) for _ in groups]
        size: tuple[int, int] | None = None
        for number in range(len(inputs)):
            picture = to_picture(inputs[number], f"frame {number}")
            size = _same_size(picture, size, number)
            if not groups:
                yield DrawnFrame(torch.zeros((0, *size), dtype=torch.bool), torch.zeros(0), torch.zeros(0))
                continue
            maps = picture_maps(network, picture)
            drawn = [
                self._draw(number, len(inputs), tracker, prompts, maps)
                for tracker, prompts in zip(trackers, groups, strict=True)
            ]
            best = [decoded.best() for decoded in drawn]
            yield DrawnFrame(
                torch.cat([full_size_masks(network, logits, size) for logits, _ in best]),
                torch.cat([decoded.object_scores for decoded in drawn]).float().cpu(),
                torch.cat([ious for _, ious in best]).float().cpu(),
            )

    def _draw(
        self, number: int, n_frames: int, tracker: ObjectTracker, prompts: GroundingPrompts, maps: list[torch.Tensor]
    ) -> DecodedMasks:
        """Some objects in one frame."""
        if number >= self.n_context:
            return tracker.carry(number, maps)
        decoded = draw_objects(tracker.network, maps, prompts)
        # where no frame follows nothing has to be remembered
        if n_frames > self.n_context:
            tracker.condition(number, maps, decoded)
        return decoded

    def _bank(self) -> MemoryBank:
        return MemoryBank(max_conditioned=None, capacity=max(self.n_context, 2), dtype=self.memory_dtype)


def _same_size(picture: Image.Image, size: tuple[int, int] | None, number: int) -> tuple[int, int]:
    """(H, W) of a frame, which is that of the frames before."""
    if size is not None and size != (picture.height, picture.width):
        raise DataError(
            f"frame {number} has {picture.width} x {picture.height} pixels, the first {size[1]} x {size[0]}; "
            "give frames of one size"
        )
    return picture.height, picture.width
