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

"""What is done with a clip's frames: the same augmentation for all, the frame to prompt, and the network's inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.clips import as_frames
from monai_sa2va.transforms.plane_transform import plain
from monai_sa2va.transforms.processor import Sa2VAProcessord
from monai_sa2va.transforms.source import source_name

__all__ = [
    "ClipProcessorD",
    "ClipProcessorDict",
    "ClipProcessord",
    "RandPromptFrameD",
    "RandPromptFrameDict",
    "RandPromptFramed",
    "SameForFramesD",
    "SameForFramesDict",
    "SameForFramesd",
]


class SameForFramesd(Randomizable, MapTransform):
    """Apply a transform of planes to clips, to all frames alike: they stand in for the channels of one plane.

    What a transform draws once for a plane (a flip, a rotation, a contrast) is then the same in all frames, and what
    it draws for each value of it, as noise, is not.

    Args:
        transform: a dictionary transform of planes (C, H, W), as
            :class:`~monai_sa2va.transforms.augment.AugmentPlanesd`.
        keys: of the frames, (C, T, H, W), that it changes.
    """

    def __init__(self, transform: Callable[[Any], Any], keys: KeysCollection = (Keys.IMAGE, Keys.LABEL)) -> None:
        super().__init__(keys)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SameForFramesd:
        """Seed the transform."""
        super().set_random_state(seed, state)
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the frames.

        Raises:
            DataError: when the transform changes the number of channels, so that frames can't be told apart.
        """
        d = dict(data)
        before = {key: d[key] for key in self.key_iterator(d)}
        for key, frames in before.items():
            d[key] = as_frames(plain(frames).flatten(0, 1), frames)
        d = dict(self.transform(d))
        for key, frames in before.items():
            planes = plain(d[key])
            if planes.ndim != 3 or len(planes) != frames.shape[0] * frames.shape[1]:
                raise DataError(
                    f"{source_name(frames, key)} has {tuple(planes.shape)} after augmentation; a clip's needs "
                    f"{frames.shape[0] * frames.shape[1]} channels, as before"
                )
            d[key] = as_frames(planes.unflatten(0, tuple(frames.shape[:2])), frames)
        return d


class RandPromptFramed(Randomizable, MapTransform):
    """Choose the frame of a clip that the language model sees, and on which the objects are prompted.

    It shows a structure drawn from those that the clip shows, with at least half of that structure's largest area in
    the clip. Structures that other frames show, but not this one, are left out: a sentence about this frame can't ask
    for them. What no frame shows stays.

    Args:
        keys: of the masks, (N, T, H, W); ``phrases`` and ``names`` stand beside them.
        frame_key: where the frame's number goes, counted in the clip.
    """

    def __init__(self, keys: str = Keys.MASKS, frame_key: str = Keys.PROMPT_FRAME) -> None:
        super().__init__(keys)
        self.frame_key = frame_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the frame's number, and keep the masks, phrases and names that can be asked for on it."""
        d = dict(data)
        masks = plain(d[self.keys[0]])
        areas = masks.flatten(2).sum(2).numpy()
        there = np.flatnonzero(areas.any(1))
        if len(there):
            area = areas[there[self.R.randint(len(there))]]
            fitting = np.flatnonzero(2 * area >= area.max())
        else:
            fitting = np.arange(masks.shape[1])
        frame = int(fitting[self.R.randint(len(fitting))])
        kept = np.flatnonzero((areas[:, frame] > 0) | ~areas.any(1)).tolist()
        d[self.frame_key] = frame
        d[self.keys[0]] = masks[kept]
        for key in (Keys.PHRASES, Keys.NAMES):
            d[key] = [d[key][number] for number in kept]
        return d


class ClipProcessord(Sa2VAProcessord):
    """As :class:`~monai_sa2va.transforms.processor.Sa2VAProcessord`, for a clip.

    The language model sees one frame, SAM2 sees all: ``pixel_values`` are tiles of the frame ``prompt_frame``, and
    ``g_pixel_values`` is (T, 3, S, S), ``gt_masks`` (T, N, H, W), ``frames_per_batch`` T.

    Args:
        processor: as for ``Sa2VAProcessord``, like all that follow.
        keys: of the frames, (3, T, H, W) with values 0 to 255.
        mask_size: side of the masks, pixels.
        keep: other entries that the batch keeps.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn an entry with ``image``, ``turns``, ``gt_masks`` (N, T, H, W) and ``prompt_frame`` into network inputs.

        Raises:
            DataError: when the answers don't hold one [SEG] a mask.
        """
        frames, masks, shown = data[self.keys[0]], plain(data[Keys.MASKS]), int(data[Keys.PROMPT_FRAME])
        pictures = [as_frames(picture, frames) for picture in plain(frames).unbind(1)]
        entry = {**data, self.keys[0]: pictures[shown], Keys.MASKS: masks[:, shown]}
        if Keys.FRAMES in data:
            entry[Keys.SLICE] = data[Keys.FRAMES][shown]
        sample = super().__call__(entry)
        images = [
            sample[Keys.GROUNDING_PIXEL_VALUES] if number == shown else self.processor.grounding_image(picture)[None]
            for number, picture in enumerate(pictures)
        ]
        sample[Keys.GROUNDING_PIXEL_VALUES] = torch.cat(images)
        sample[Keys.MASKS] = torch.stack([self.sized(mask) for mask in masks.to(torch.uint8).unbind(1)])
        sample[Keys.FRAMES_PER_BATCH] = len(pictures)
        sample[Keys.PROMPT_FRAME] = shown
        return sample


SameForFramesD = SameForFramesDict = SameForFramesd
RandPromptFrameD = RandPromptFrameDict = RandPromptFramed
ClipProcessorD = ClipProcessorDict = ClipProcessord
