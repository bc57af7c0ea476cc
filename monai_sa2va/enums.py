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

"""Keys of samples, batches and network outputs, so that no string literal is typed twice."""

from __future__ import annotations

from enum import Enum

__all__ = ["InputRange", "MaskScore", "Sa2VAKeys"]


class StrEnum(str, Enum):
    """Members that are, print and format as their value, like MONAI's; MONAI's own would import torch."""

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return str(self.value)


class Sa2VAKeys(StrEnum):
    """Names of the entries of a sample (before collation), of a batch, and of the network's output."""

    # a datalist entry
    IMAGE = "image"
    LABEL = "label"
    PROMPTS = "prompts"
    ABSENT = "absent"
    FAMILY = "family"  # str: images of one kind, which may show each other's structures
    SLICE = "slice"  # int: index of the slice of a volume, in LPS order
    PATIENT = "patient"  # whom an image shows: images of one are never independent
    GROUP = "group"  # the same by a name of another kind, such as part of the file's name
    SOURCE = "source"  # str: base name of the image's file, with the slice's number, for messages
    MISSING = "missing"  # list of phrase groups: what the entry says is not there, by all its phrases
    FOREIGN = "foreign"  # list of phrase groups: what no image of the entry's family shows
    # a sample on its way through the transforms
    PHRASES = "phrases"  # list[str]: the phrase asked for, one a mask
    SHOWN = "shown"  # (D, P) bool: which prompts' values each frame of a volume holds
    FRAMES = "frames"  # list[int]: numbers of a clip's frames in their volume
    TURNS = "turns"  # list of (question, answer) pairs
    NAMES = "names"  # list[str]: the first phrase of each structure, by which metrics are grouped
    # network inputs
    PIXEL_VALUES = "pixel_values"  # (tiles, 3, t, t) float: the MLLM's tiles; of Qwen (patches, 3 * T * p * p)
    IMAGE_GRID = "image_grid_thw"  # (pictures, 3) int64, Qwen only: 1, rows and columns of patches
    GROUNDING_PIXEL_VALUES = "g_pixel_values"  # (frames, 3, S, S) float: SAM2's image
    INPUT_IDS = "input_ids"  # (L,) int64
    ATTENTION_MASK = "attention_mask"  # (B, L) int64
    LABELS = "labels"  # (L,) int64, -100 where nothing is learnt
    MASKS = "gt_masks"  # (N, H, W) uint8, one a [SEG] of the sample, in the answer's order
    FRAMES_PER_BATCH = "frames_per_batch"  # list[int]: frames of each sample
    PROMPT_FRAME = "prompt_frame"  # list[int], clips only: the frame, counted in the clip, that pixel_values show
    LOSS_COUNTS = "loss_counts"  # dict[str, Tensor]: what each loss part's sum is divided by
    WINDOW_END = "window_end"  # bool: whether the optimizer steps after this micro-batch
    # network outputs
    PRED_MASKS = "pred_masks"
    SEG_STATES = "seg_states"
    OBJECT_SCORES = "object_scores"
    IOU_SCORES = "iou_scores"
    LOSS = "loss"


class InputRange(StrEnum):
    """What the numbers handed to a metric are; never guessed from the values.

    ``LOGITS`` are thresholded at 0, ``PROBABILITIES`` at 0.5, ``IMAGE`` (0 to 255) at 127.
    """

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    IMAGE = "image"


class MaskScore(StrEnum):
    """Scores of a predicted mask against the true one."""

    DICE = "dice"
    IOU = "iou"
    PRECISION = "precision"
    RECALL = "recall"
