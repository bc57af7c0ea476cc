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

"""Objects on their way through a stack of slices or frames: prompted in some, drawn from memory in the others."""

from __future__ import annotations

import torch

from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.postprocess import binarize, upsample_mask_logits

__all__ = ["ObjectTracker", "full_size_masks"]


class ObjectTracker:
    """Encodes slices for SAM2, remembers what was drawn in them, and draws others from that.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.
        bank: an empty one.
    """

    def __init__(self, network: Sa2VA, bank: MemoryBank) -> None:
        self.network, self.bank = network, bank
        self.sam2 = network.grounding_encoder.sam2_model

    def encode(self, pixels: torch.Tensor, objects: int) -> list[torch.Tensor]:
        """Feature maps of one slice, (1, 3, S, S), one entry an object."""
        maps = self.network.grounding_encoder.encode(pixels.to(self.network.device, self.network.dtype))
        return [level.expand(objects, -1, -1, -1) for level in maps]

    def condition(self, number: int, maps: list[torch.Tensor], decoded: DecodedMasks) -> None:
        """Remember a slice in which the objects were prompted."""
        logits, _ = decoded.best()
        self.bank.condition(number, self.sam2.remember(maps[-1], logits, decoded.object_scores, decoded.pointers))

    def carry(self, number: int, maps: list[torch.Tensor], reverse: bool = False) -> DecodedMasks:
        """Draw the objects in a slice from memory, and remember it.

        Args:
            number: of the slice.
            maps: from :meth:`encode`.
            reverse: whether the stack is gone through from larger numbers to smaller ones.
        """
        conditioned = self.sam2.attend(maps[-1], self.bank.entries(number, reverse))
        nothing = GroundingPrompts.empty(len(conditioned), conditioned.device, maps[-1].dtype)
        decoded = self.sam2.decode([*maps[:-1], conditioned], nothing)
        logits, _ = decoded.best()
        memory = self.sam2.remember(maps[-1], logits, decoded.object_scores, decoded.pointers)
        self.bank.add(number, memory, reverse)
        return decoded


def full_size_masks(network: Sa2VA, low_res: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks (N, H, W) bool on the CPU of logits (N, S/4, S/4)."""
    side = network.config.grounding.image_size
    # one at a time: full-size logits of all objects would need far more memory than the network
    masks = [binarize(upsample_mask_logits(low[None], side, size))[0].cpu() for low in low_res.float()]
    return torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool)
