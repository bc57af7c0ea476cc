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

"""A network learns to segment what is clicked, and to follow it by memory, from simulated interaction alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.clicks import draw_clicks
from monai_sa2va.networks.interaction import SimulatedInteraction
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.sentences import answer_segments

SIDE, FRAMES = 64, 3


def _clip(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two discs that move, on noise: frames (3, 3, 64, 64) and truth (3, 2, 64, 64). Only a click tells them apart."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    noise = torch.Generator().manual_seed(number)
    images, truth = [], []
    for frame in range(FRAMES):
        first = (y - 16 - 4 * frame) ** 2 + (x - 14 - 4 * number) ** 2 < 81
        second = (y - 48 + 2 * frame) ** 2 + (x - 40 - 2 * frame) ** 2 < (7 + number) ** 2
        grey = 1.5 * (first | second) - 0.5
        images.append(grey.expand(3, SIDE, SIDE) + 0.2 * torch.randn(3, SIDE, SIDE, generator=noise))
        truth.append(torch.stack([first, second]))
    return torch.stack(images), torch.stack(truth).to(torch.uint8)


@torch.no_grad()
def _dice(network: Sa2VA, images: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Mean Dice of both discs in the first frame, by one click each, and in the others, by memory."""
    sam2, bank = network.eval().grounding_encoder.sam2_model, MemoryBank()
    maps, scores = sam2.image_features(images), []
    for frame, real in enumerate(truth > 0):
        mine = [level[[frame, frame]] for level in maps]
        prompts = GroundingPrompts.empty(2)
        if frame == 0:
            points, labels = draw_clicks(torch.zeros_like(real), real, torch.ones(2, dtype=torch.bool), SIDE)
            features = sam2.without_memory(mine)
            prompts = prompts.with_points(points.unsqueeze(1), labels.unsqueeze(1))
        else:
            features = [*mine[:-1], sam2.attend(mine[-1], bank.entries(frame))]
        found = sam2.decode(features, prompts)
        masks, _ = found.best()
        memory = sam2.remember(mine[-1], masks, found.object_scores, found.pointers)
        if frame == 0:
            bank.condition(frame, memory)
        else:
            bank.add(frame, memory)
        drawn = functional.interpolate(masks.unsqueeze(1), size=(SIDE, SIDE), mode="bilinear").squeeze(1) > 0
        overlap = 2 * (drawn & real).flatten(1).sum(1) / (drawn.flatten(1).sum(1) + real.flatten(1).sum(1))
        scores.append(overlap.mean().item())
    network.train()
    return scores[0], sum(scores[1:]) / (FRAMES - 1)


@pytest.mark.slow
def test_one_click_and_memory_are_learnt(micro_config: Sa2VAConfig) -> None:
    interaction = SimulatedInteraction(
        text_prob=0.0, point_prob=1.0, box_prob=0.0, mask_prob=0.0, mixed_prob=0.0, rounds=1, max_conditioned=1
    )
    criterion = Sa2VALoss(language_weight=0.0, iou_weight=0.1, object_weight=0.1)
    network = Sa2VA(micro_config, criterion, seed=0, interaction=interaction).train()
    clips = [_clip(number) for number in range(4)]
    turn = ("Segment the left and the right.", answer_segments(["left", "right"]))
    sample = network.processor(torch.zeros(3, 32, 32, dtype=torch.uint8), [turn])
    batch = sa2va_collate(
        [{**sample, "g_pixel_values": i, "gt_masks": t, "frames_per_batch": FRAMES} for i, t in clips]
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    before = [_dice(network, *clip) for clip in clips]
    torch.manual_seed(0)
    for _ in range(350):
        optimizer.zero_grad()
        network(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    after = [_dice(network, *clip) for clip in clips]
    # both discs together would have a Dice of 0.63 with either
    for part in (0, 1):
        assert sum(clip[part] for clip in before) / 4 < 0.3
        assert sum(clip[part] for clip in after) / 4 > 0.85
