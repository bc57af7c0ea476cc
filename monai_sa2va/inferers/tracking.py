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

from monai_sa2va.inferers.steps import carry_objects, remember_objects
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.transforms.postprocess import binarize, upsample_mask_logits

__all__ = ["ObjectTracker", "full_size_masks"]


class ObjectTracker:
    """Remembers what was drawn in slices, and draws others from that.

    Args:
        network: in evaluation mode; the caller sees to it that no gradient is kept.
        bank: an empty one.
    """

    def __init__(self, network: Sa2VA, bank: MemoryBank) -> None:
        self.network, self.bank = network, bank

    def condition(self, number: int, maps: list[torch.Tensor], decoded: DecodedMasks) -> None:
        """Remember a slice in which the objects were prompted.

        Args:
            number: of the slice.
            maps: its feature maps, one frame, from :func:`~monai_sa2va.inferers.steps.picture_maps`.
            decoded: what was drawn.
        """
        self.bank.condition(number, remember_objects(self.network, [maps], decoded))

    def carry(self, number: int, maps: list[torch.Tensor], reverse: bool = False) -> DecodedMasks:
        """Draw the objects in a slice from memory, and remember it.

        Args:
            number: of the slice.
            maps: as for :meth:`condition`.
            reverse: whether the stack is gone through from larger numbers to smaller ones.
        """
        decoded = carry_objects(self.network, [maps], self.bank.entries(number, reverse))
        self.bank.add(number, remember_objects(self.network, [maps], decoded), reverse)
        return decoded


def full_size_masks(network: Sa2VA, low_res: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks (N, H, W) bool on the CPU of logits (N, S/4, S/4)."""
    side = network.config.grounding.image_size
    # one at a time: full-size logits of all objects would need far more memory than the network
    masks = [binarize(upsample_mask_logits(low[None], side, size))[0].cpu() for low in low_res.float()]
    return torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool)
