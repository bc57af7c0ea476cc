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

"""Paired augmentation of planes and their labels by MONAI's transforms; no mirroring where a phrase names a side."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import (
    Compose,
    Flip,
    InvertibleTransform,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    ThresholdIntensityd,
)
from monai.utils import TraceKeys, convert_to_tensor

from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.sides import names_side

__all__ = [
    "AugmentPlanesD",
    "AugmentPlanesDict",
    "AugmentPlanesd",
    "RandSideAwareFlipD",
    "RandSideAwareFlipDict",
    "RandSideAwareFlipd",
]


class RandSideAwareFlipd(RandomizableTransform, MapTransform, InvertibleTransform):
    """Flip planes (C, H, W) left to right, all keys together, unless a phrase of the entry names a side.

    Args:
        keys: of the planes and labels.
        prompts_key: of the entry's prompts: label value -> phrase or phrases.
        absent_key: of the phrases for what is not there; may be missing.
        prob: probability of a flip where one is allowed.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prompts_key: str = Sa2VAKeys.PROMPTS,
        absent_key: str = Sa2VAKeys.ABSENT,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.prompts_key, self.absent_key = prompts_key, absent_key
        # columns, the second of a plane's axes, run from one side to the other
        self.flipper = Flip(spatial_axis=1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Flip, or not.

        Raises:
            DataError: when the entry has no prompts, so that nobody knows whether a side is named.
        """
        d = dict(data)
        if self.prompts_key not in d:
            raise DataError(f"the entry has no '{self.prompts_key}', which says whether it may be mirrored; add it")
        # drawn even where it is not used, so that an entry's phrases don't change what later entries get
        self.randomize(None)
        if names_side([d[self.prompts_key], d.get(self.absent_key), d.get(Sa2VAKeys.MISSING)]):
            self._do_transform = False
        for key in self.key_iterator(d):
            if self._do_transform:
                d[key] = self.flipper(d[key])
            else:
                d[key] = convert_to_tensor(d[key], track_meta=get_track_meta())
            self.push_transform(d[key], replace=True)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Flip back what was flipped."""
        d = dict(data)
        for key in self.key_iterator(d):
            if self.pop_transform(d[key])[TraceKeys.DO_TRANSFORM]:
                with self.flipper.trace_transform(False):
                    d[key] = self.flipper(d[key])
        return d


class AugmentPlanesd(Compose):
    """Augmentation of an image plane with values 0 to 255 and its label, for training.

    In this order: a side-aware flip; rotation, scaling and translation (bilinear for the image, nearest for the label,
    0 outside); contrast; blur; noise; the image cut to 0 to 255 again. Every step is MONAI's, so a configuration that
    needs others lists them itself.

    Args:
        image_key: of the image, (C, H, W), 0 to 255.
        label_key: of the label, (K, H, W), which may be missing.
        prompts_key: as for :class:`RandSideAwareFlipd`.
        absent_key: as for :class:`RandSideAwareFlipd`.
        flip_prob: probability of a flip where one is allowed.
        affine_prob: probability of rotation, scaling and translation.
        rotate: largest angle to either side, radians.
        scale: largest relative change of size, along each axis by itself.
        translate: largest shift to either side, pixels.
        contrast_prob: probability of a change of contrast.
        gamma: smallest and largest exponent of it.
        blur_prob: probability of a blur.
        sigma: smallest and largest standard deviation of it, pixels.
        noise_prob: probability of noise.
        noise_std: largest standard deviation of it, grey values.
    """

    def __init__(
        self,
        image_key: str = Sa2VAKeys.IMAGE,
        label_key: str = Sa2VAKeys.LABEL,
        prompts_key: str = Sa2VAKeys.PROMPTS,
        absent_key: str = Sa2VAKeys.ABSENT,
        flip_prob: float = 0.5,
        affine_prob: float = 0.5,
        rotate: float = 0.26,
        scale: float = 0.1,
        translate: float = 0.0,
        contrast_prob: float = 0.3,
        gamma: tuple[float, float] = (0.7, 1.5),
        blur_prob: float = 0.1,
        sigma: tuple[float, float] = (0.25, 1.0),
        noise_prob: float = 0.2,
        noise_std: float = 8.0,
    ) -> None:
        both = (image_key, label_key)
        super().__init__(
            [
                RandSideAwareFlipd(both, prompts_key, absent_key, flip_prob, allow_missing_keys=True),
                RandAffined(
                    both,
                    prob=affine_prob,
                    rotate_range=rotate,
                    scale_range=(scale, scale),
                    translate_range=(translate, translate),
                    mode=("bilinear", "nearest"),
                    padding_mode="zeros",
                    allow_missing_keys=True,
                ),
                RandAdjustContrastd(image_key, prob=contrast_prob, gamma=gamma),
                RandGaussianSmoothd(image_key, prob=blur_prob, sigma_x=sigma, sigma_y=sigma),
                RandGaussianNoised(image_key, prob=noise_prob, std=noise_std),
                ThresholdIntensityd(image_key, threshold=0.0, above=True, cval=0.0),
                ThresholdIntensityd(image_key, threshold=255.0, above=False, cval=255.0),
            ]
        )


RandSideAwareFlipD = RandSideAwareFlipDict = RandSideAwareFlipd
AugmentPlanesD = AugmentPlanesDict = AugmentPlanesd
