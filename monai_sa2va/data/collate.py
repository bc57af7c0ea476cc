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

"""Collation of samples with unequal tiles, token lengths and numbers of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.chat import IGNORED_LABEL

__all__ = ["sa2va_collate"]

_NEEDED: tuple[str, ...] = (Keys.PIXEL_VALUES, Keys.GROUNDING_PIXEL_VALUES, Keys.INPUT_IDS, Keys.FRAMES_PER_BATCH)


def sa2va_collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch.

    Args:
        samples: as :class:`~monai_sa2va.transforms.processor.Sa2VAProcessord` gives them; ``gt_masks`` is (N, H, W),
            the same for all frames of the sample, or (frames, N, H, W).

    Returns:
        ``pixel_values`` (tiles of the batch, 3, t, t), ``g_pixel_values`` (frames of the batch, 3, S, S) and, where
        there is one, ``image_grid_thw`` (pictures of the batch, 3), one sample after another; ``input_ids``,
        ``labels`` and ``attention_mask`` (B, L), padded on the right; ``gt_masks`` (frames of the batch, N, H, W)
        uint8 with N the largest number of objects; ``frames_per_batch``; every other entry as a list.

    Raises:
        DataError: when there is no sample, an entry is missing in some of them, or ground-truth masks have unequal
            sizes or don't fit their frames.
    """
    if not samples:
        raise DataError("a batch of no samples can't be made")
    for number, sample in enumerate(samples):
        odd = set(_NEEDED) - set(sample) or set(samples[0]) ^ set(sample)
        if odd:
            raise DataError(f"sample {number} of the batch and the others don't all have {min(map(str, odd))!r}")
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in {Keys.PIXEL_VALUES, Keys.GROUNDING_PIXEL_VALUES, Keys.IMAGE_GRID} & set(batch):
        batch[key] = torch.cat([torch.as_tensor(value) for value in batch[key]])
    batch[Keys.FRAMES_PER_BATCH] = [int(frames) for frames in batch[Keys.FRAMES_PER_BATCH]]
    ids = batch[Keys.INPUT_IDS]
    batch[Keys.ATTENTION_MASK] = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    # what stands on padding is neither attended to nor learnt, and 0 is never [SEG]
    batch[Keys.INPUT_IDS] = pad_sequence(ids, batch_first=True, padding_value=0)
    if Keys.LABELS in batch:
        batch[Keys.LABELS] = pad_sequence(batch[Keys.LABELS], batch_first=True, padding_value=IGNORED_LABEL)
    if Keys.MASKS in batch:
        batch[Keys.MASKS] = _pad_masks(batch[Keys.MASKS], batch[Keys.FRAMES_PER_BATCH])
    return batch


def _pad_masks(masks: Sequence[torch.Tensor], frames: Sequence[int]) -> torch.Tensor:
    for mask, n_frames in zip(masks, frames, strict=True):
        if mask.ndim not in (3, 4) or (n_frames if mask.ndim == 3 else len(mask)) != n_frames:
            raise DataError(f"gt_masks has shape {tuple(mask.shape)}; expected (N, H, W) or ({n_frames}, N, H, W)")
    sizes = {tuple(mask.shape[-2:]) for mask in masks}
    if len(sizes) != 1:
        raise DataError(f"gt_masks of one batch have sizes {sorted(sizes)}; set mask_size, or take batches of one")
    slots = max(mask.shape[-3] for mask in masks)
    padded = torch.zeros((sum(frames), slots, *sizes.pop()), dtype=torch.uint8)
    first = 0
    for mask, n_frames in zip(masks, frames, strict=True):
        padded[first : first + n_frames, : mask.shape[-3]] = mask
        first += n_frames
    return padded
