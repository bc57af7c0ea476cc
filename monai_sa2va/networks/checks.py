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

"""Checks of a batch before the network runs: one clear line instead of an index error deep inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError

__all__ = ["asked_frames", "check_batch", "check_masks", "frame_numbers"]

_INTEGERS = (torch.int64, torch.int32)


def check_batch(data: Mapping[str, Any]) -> None:
    """Refuse a batch whose entries are missing or don't fit each other.

    Args:
        data: as :meth:`monai_sa2va.networks.sa2va.Sa2VA.forward` takes it.

    Raises:
        DataError: naming the entry, its shape and the expected one.
    """
    for key in (Keys.INPUT_IDS, Keys.GROUNDING_PIXEL_VALUES):
        if not isinstance(data.get(key), torch.Tensor):
            raise DataError(f"the batch holds no tensor {key}; build it with sa2va_collate")
    ids = data[Keys.INPUT_IDS]
    if ids.ndim != 2 or ids.dtype not in _INTEGERS:
        raise DataError(f"input_ids is {ids.dtype} of shape {tuple(ids.shape)}; expected int64 (B, L)")
    for key in (Keys.ATTENTION_MASK, Keys.LABELS):
        if data.get(key) is not None and data[key].shape != ids.shape:
            raise DataError(f"{key} has shape {tuple(data[key].shape)}; expected {tuple(ids.shape)}, as input_ids")
    frames, images = frame_numbers(data), data[Keys.GROUNDING_PIXEL_VALUES]
    if sum(frames) != len(images):
        raise DataError(f"frames_per_batch adds up to {sum(frames)} frames, g_pixel_values has {len(images)}")


def frame_numbers(data: Mapping[str, Any]) -> list[int]:
    """Frames of each sample of a batch, one where ``frames_per_batch`` is absent.

    Raises:
        DataError: when there isn't one number of at least 1 for each sample.
    """
    samples, frames = len(data[Keys.INPUT_IDS]), data.get(Keys.FRAMES_PER_BATCH)
    if frames is None:
        return [1] * samples
    numbers = [int(n) for n in frames]
    if len(numbers) != samples or min(numbers, default=1) < 1:
        raise DataError(f"frames_per_batch is {numbers}; expected {samples} numbers of at least 1, one a sample")
    return numbers


def asked_frames(data: Mapping[str, Any]) -> list[int] | None:
    """The frame of each sample that the language model saw, ``None`` where the batch doesn't say.

    Raises:
        DataError: when there isn't one number for each sample, or it is no frame of it.
    """
    asked, frames = data.get(Keys.PROMPT_FRAME), frame_numbers(data)
    if asked is None:
        return None
    numbers = [int(n) for n in asked]
    if len(numbers) != len(frames) or any(not 0 <= n < length for n, length in zip(numbers, frames, strict=True)):
        raise DataError(f"prompt_frame is {numbers}; expected one frame of each sample, which have {frames}")
    return numbers


def check_masks(truth: torch.Tensor, n_frames: int, n_slots: int) -> None:
    """Refuse ground truth that isn't (frames, N, H, W) with a mask for each [SEG] token.

    Raises:
        DataError: naming both shapes.
    """
    if truth.ndim != 4 or len(truth) != n_frames or truth.shape[1] < n_slots:
        raise DataError(
            f"gt_masks has shape {tuple(truth.shape)}; expected ({n_frames}, {n_slots} or more, H, W): "
            "one mask a [SEG] token"
        )
