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

"""Clips: a few consecutive slices of a volume or frames of a cine, chosen at random for training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils import ImageMetaKey

from monai_sa2va.data.datalist import parse_prompts
from monai_sa2va.data.headers import same_grid
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.plane_transform import PlaneTransform, plain
from monai_sa2va.transforms.source import file_name, grid_of, source_name

__all__ = [
    "RandClipD",
    "RandClipDict",
    "RandClipd",
    "StackFrames",
    "StackFramesD",
    "StackFramesDict",
    "StackFramesd",
    "as_frames",
]


def as_frames(frames: torch.Tensor, source: Any) -> MetaTensor:
    """Frames (C, T, H, W) that know the file of their source and nothing of its place in space."""
    return MetaTensor(frames, meta={ImageMetaKey.FILENAME_OR_OBJ: file_name(source)})


class StackFrames(PlaneTransform):
    """All planes of a volume as frames, displayed as :class:`~monai_sa2va.transforms.planes.ToPlane` does.

    Args:
        axis: as for ``ToPlane``.
    """

    def __call__(self, image: Any, name: Hashable = "image") -> MetaTensor:
        """Stack the planes.

        Args:
            image: (C, X, Y, Z) ``MetaTensor``, any dtype.
            name: what error messages call the image.

        Returns:
            (C, D, H, W), D in LPS order, with the name of the source's file.

        Raises:
            DataError: when it is no volume, or its orientation can't be used.
        """
        geometry = self._geometry(image, name)
        if image.ndim != 4:
            raise DataError(f"{source_name(image, name)} is a picture; clips are made of volumes and cines")
        planes = geometry.stack(plain(image))
        return as_frames((planes.flip(0) if geometry.flips[0] else planes).transpose(0, 1).contiguous(), image)


class StackFramesd(MapTransform):
    """Dictionary form of :class:`StackFrames`; what each frame shows is noted, for :class:`RandClipd` to choose by.

    Args:
        keys: of the image and the label, which have to lie on one grid; the label is the last.
        axis: as for :class:`StackFrames`.
        prompts_key: of the phrases for the label's values.
        shown_key: where the table (D, P) bool goes: whether a frame holds a value, in ascending order of values.
    """

    def __init__(
        self,
        keys: KeysCollection = (Keys.IMAGE, Keys.LABEL),
        axis: int | str = "auto",
        prompts_key: str = Keys.PROMPTS,
        shown_key: str = Keys.SHOWN,
    ) -> None:
        super().__init__(keys)
        self.stack = StackFrames(axis)
        self.prompts_key, self.shown_key = prompts_key, shown_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Stack the planes of every key.

        Raises:
            DataError: when the keys differ in grid, or the label has several channels.
        """
        d = dict(data)
        first, label = self.keys[0], self.keys[-1]
        reason = same_grid(grid_of(d[first]), grid_of(d[label]))
        if reason:
            raise DataError(f"{source_name(d[first], first)} and {source_name(d[label], label)} don't fit: {reason}")
        if len(d[label]) != 1:
            raise DataError(f"{source_name(d[label], label)} has {len(d[label])} channels; give one of label values")
        for key in self.keys:
            d[key] = self.stack(d[key], name=key)
        planes = d[label].as_tensor()[0].flatten(1)
        wanted = list(parse_prompts(d[self.prompts_key]))
        if wanted == [1] and torch.unique(planes).tolist() in ([255], [0, 255]):
            wanted = [255]  # of a 0/255 label, 1 means the foreground
        held = [(planes == value).any(1) for value in wanted]
        d[self.shown_key] = torch.stack(held, 1) if held else planes.new_zeros((len(planes), 0), dtype=torch.bool)
        return d


class RandClipd(Randomizable, MapTransform):
    """Choose consecutive frames, at random but so that there is something to learn from them.

    Step between frames, direction and start are random. Of the possible starts, with ``change_prob`` only those count
    in whose clip a structure appears or vanishes, with ``empty_prob`` those whose clip shows nothing that a prompt
    names, and else those whose clip shows something; where there is none of a kind, clips that show something come
    before empty ones.

    The prompts of structures that no frame of the clip shows are left out and their names join ``absent``, as
    :func:`~monai_sa2va.data.slices.expand_slices` does for a slice.

    Args:
        keys: of the frames, (C, D, H, W).
        length: frames of a clip, T.
        stride: largest step from one frame of a clip to the next, in frames of the source.
        change_prob: probability of a clip in which a structure appears or vanishes.
        empty_prob: probability of a clip that shows nothing. Such a clip can only be asked for what is absent, so above
            0 it needs ``include_absent`` of :class:`~monai_sa2va.transforms.labels.LabelToMasksd`.
        prompts_key: of the phrases for the label's values.
        absent_key: of the phrases for what is not there.
        shown_key: of the table that :class:`StackFramesd` makes.
        frames_key: where the numbers of the chosen frames go.

    Raises:
        ConfigError: when a setting is out of its range.
    """

    def __init__(
        self,
        keys: KeysCollection = (Keys.IMAGE, Keys.LABEL),
        length: int = 4,
        stride: int = 2,
        change_prob: float = 0.6,
        empty_prob: float = 0.0,
        prompts_key: str = Keys.PROMPTS,
        absent_key: str = Keys.ABSENT,
        shown_key: str = Keys.SHOWN,
        frames_key: str = Keys.FRAMES,
    ) -> None:
        super().__init__(keys)
        for name, number in (("clip_length", length), ("clip_stride", stride)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ConfigError(f"{name} is {number!r}; give a whole number of at least 1")
        if min(change_prob, empty_prob) < 0 or change_prob + empty_prob > 1:
            raise ConfigError(
                f"change_prob is {change_prob} and empty_prob {empty_prob}; give probabilities that add up to at most 1"
            )
        self.length, self.stride, self.change_prob, self.empty_prob = length, stride, change_prob, empty_prob
        self.prompts_key, self.absent_key = prompts_key, absent_key
        self.shown_key, self.frames_key = shown_key, frames_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the frames (C, T, H, W) of every key.

        Raises:
            DataError: when the source has fewer frames than a clip.
        """
        d = dict(data)
        shown = np.asarray(d.pop(self.shown_key))
        if len(shown) < self.length:
            name = source_name(d[self.keys[0]], self.keys[0])
            raise DataError(f"{name} has {len(shown)} slices; a clip needs {self.length}, so lower clip_length")
        frames = self._choose(shown)
        for key in self.key_iterator(d):
            d[key] = as_frames(plain(d[key])[:, frames], d[key])
        visible = np.flatnonzero(shown[frames].any(0))
        prompts = list(parse_prompts(d[self.prompts_key]).items())
        kept = dict(prompts[number] for number in visible)
        names = {words[0] for words in kept.values()}
        missing = dict.fromkeys(words[0] for _, words in prompts if words[0] not in names)
        d[self.prompts_key] = {str(value): list(words) for value, words in kept.items()}
        d[self.absent_key] = list(dict.fromkeys([*missing, *(d.get(self.absent_key) or ())]))
        d[self.frames_key] = frames
        return d

    def _choose(self, shown: np.ndarray) -> list[int]:
        longest = (len(shown) - 1) // (self.length - 1) if self.length > 1 else 1
        step = int(self.R.randint(1, min(self.stride, longest) + 1))
        chance, backwards = self.R.random(), bool(self.R.random() < 0.5)
        starts = np.arange(len(shown) - (self.length - 1) * step)
        clips = shown[starts[:, None] + step * np.arange(self.length)]
        seen = clips.any(1)
        changing, some = (seen & ~clips.all(1)).any(1), seen.any(1)
        wanted = [changing, some] if chance < self.change_prob else [some]
        if chance >= 1 - self.empty_prob:
            wanted = [~some, some]
        fitting = next((starts[kind] for kind in wanted if kind.any()), starts)
        start = int(fitting[self.R.randint(len(fitting))])
        frames = [start + step * number for number in range(self.length)]
        return frames[::-1] if backwards else frames


StackFramesD = StackFramesDict = StackFramesd
RandClipD = RandClipDict = RandClipd
