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

"""The grounding encoder: images and projected [SEG] states in, mask logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from monai_sa2va.config import GroundingConfig
from monai_sa2va.errors import DataError
from monai_sa2va.networks.sam2 import LanguageSAM2

__all__ = ["ABSENT_LOGIT", "GroundingEncoder", "GroundingOutput", "ObjectIndex"]

ABSENT_LOGIT = -1024.0
"""Logit of every pixel of a padding mask: SAM2's own value for "no object here"."""


class GroundingOutput(NamedTuple):
    """What SAM2 says of M objects.

    Attributes:
        masks: (M, S/4, S/4) logits.
        iou_scores: (M,) predicted IoU, 0 to 1.
        object_scores: (M,) logit of the object being in the frame.
    """

    masks: torch.Tensor
    iou_scores: torch.Tensor
    object_scores: torch.Tensor


class ObjectIndex(NamedTuple):
    """Which frame, slot and embedding each of M flattened objects has; frames first, then objects.

    Attributes:
        frame: (M,) index into the frames of the batch.
        slot: (M,) index among the objects of its frame.
        embedding: (M,) index into the embeddings of the batch.
    """

    frame: torch.Tensor
    slot: torch.Tensor
    embedding: torch.Tensor

    @classmethod
    def build(
        cls, objects: Sequence[int], frames: Sequence[int], device: torch.device | str | None = None
    ) -> ObjectIndex:
        """Index the objects of a batch.

        Args:
            objects: number of [SEG] tokens of each sample.
            frames: number of frames of each sample; every object is drawn in every frame of its sample.
            device: where the index lives.

        Raises:
            DataError: when the two lists don't have one entry a sample.
        """
        if len(objects) != len(frames):
            raise DataError(f"frames_per_batch has {len(frames)} entries for {len(objects)} samples")
        rows: list[tuple[int, int, int]] = []
        first_frame = first_object = 0
        for n_objects, n_frames in zip(objects, frames, strict=True):
            rows += [(first_frame + f, o, first_object + o) for f in range(n_frames) for o in range(n_objects)]
            first_frame, first_object = first_frame + n_frames, first_object + n_objects
        index = torch.tensor(rows, dtype=torch.long, device=device).reshape(-1, 3)
        return cls(*index.unbind(1))


class GroundingEncoder(nn.Module):
    """SAM2 prompted by language: encodes each frame once and decodes all objects in one batched call.

    Args:
        config: SAM2's geometry.
    """

    def __init__(self, config: GroundingConfig) -> None:
        super().__init__()
        self.config = config
        self.sam2_model = LanguageSAM2(config)

    def encode(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Encode frames, (F, 3, S, S) float, into feature maps (see :meth:`LanguageSAM2.image_features`).

        Raises:
            DataError: when the images are not S x S.
        """
        side = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise DataError(f"g_pixel_values has shape {tuple(images.shape)}; expected (frames, 3, {side}, {side})")
        return self.sam2_model.image_features(images.to(self.sam2_model.no_mem_embed.dtype))

    def decode(self, features: list[torch.Tensor], embeddings: torch.Tensor, index: ObjectIndex) -> GroundingOutput:
        """Draw the masks of M objects.

        Args:
            features: of the batch's frames, from :meth:`encode`.
            embeddings: (n, C) projected [SEG] states of the whole batch.
            index: which frame and embedding each object has.
        """
        expanded = [level[index.frame] for level in self.sam2_model.without_memory(features)]
        return GroundingOutput(*self.sam2_model.decode_language(expanded, embeddings[index.embedding]))

    def forward(
        self,
        image: torch.Tensor,
        embeddings: torch.Tensor | Sequence[torch.Tensor],
        frames_per_batch: Sequence[int] | None = None,
    ) -> GroundingOutput:
        """Segment every object in every frame of its sample.

        Args:
            image: (frames of the batch, 3, S, S) float, normalised.
            embeddings: (B, N, C), or a list of B tensors (n_i, C) where samples have different numbers of objects.
            frames_per_batch: frames of each sample, one each when ``None``.

        Returns:
            The M objects of the batch, flattened: by sample, then frame, then object.

        Raises:
            DataError: when the numbers of frames don't add up to the images.
        """
        samples = list(embeddings)
        frames = [1] * len(samples) if frames_per_batch is None else [int(n) for n in frames_per_batch]
        if sum(frames) != len(image):
            raise DataError(f"frames_per_batch adds up to {sum(frames)} frames, g_pixel_values has {len(image)}")
        index = ObjectIndex.build([len(s) for s in samples], frames, image.device)
        return self.decode(self.encode(image), torch.cat(samples), index)
