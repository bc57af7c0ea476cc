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

"""What a user would draw, sampled from the truth: clicks on errors, boxes and rough masks, all in SAM2's pixels.

And :func:`mark_clicks`, by which training and inference show SAM2 the clicks in the mask that it gets back.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from monai_sa2va.networks.prompts import BACKGROUND, FOREGROUND

__all__ = ["draw_boxes", "draw_clicks", "draw_rough_masks", "mark_clicks"]

# SAM2's training moves a corner of a box by at most 20 pixels of 1024
_LARGEST_SHIFT = 20 / 1024
# SAM2 makes logits of a given mask that are -10 outside and 10 inside
_MASK_LOGIT = 10.0


@torch.no_grad()
def draw_clicks(predicted: Tensor, truth: Tensor, interior: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    """Click where prediction and truth differ: on what is missing as foreground, on what is too much as background.

    A click is drawn evenly from both regions, or set where SAM2's evaluation sets it: at the point of the two regions
    that is farthest from their edges. Where nothing differs it lies in the background, or on an object without any.

    Args:
        predicted: (M, H, W) bool; all false for a first click.
        truth: (M, H, W) bool.
        interior: (M,) bool, the objects whose click is the most interior point.
        image_size: side of SAM2's image, pixels.

    Returns:
        Points (M, 2) float32, x then y in SAM2's pixels, and labels (M,) int64, 1 or 0.
    """
    missing, surplus = truth & ~predicted, predicted & ~truth
    height, width = truth.shape[-2:]
    right = ~(missing | surplus).flatten(1).any(1)
    spare = right[:, None, None] & (~truth | truth.flatten(1).all(1)[:, None, None])
    weights = (missing | surplus | spare).flatten(1).float()
    place = torch.multinomial(weights, 1).squeeze(1)
    for row in torch.nonzero(interior & ~right).flatten().tolist():
        place[row] = _most_interior(missing[row], surplus[row])
    labels = truth.flatten(1).gather(1, place.unsqueeze(1)).squeeze(1)
    points = torch.stack([place % width, torch.div(place, width, rounding_mode="floor")], dim=1)
    return _scaled(points, height, width, image_size), torch.where(labels, FOREGROUND, BACKGROUND)


@torch.no_grad()
def draw_boxes(truth: Tensor, jitter: float, image_size: int) -> Tensor:
    """Boxes around objects, each corner moved at random.

    Args:
        truth: (M, H, W) bool; an object of no pixel gets the whole image.
        jitter: largest shift, as a share of the box's width and height; never above 20/1024 of the image.
        image_size: side of SAM2's image, pixels.

    Returns:
        (M, 4) float32, smallest x and y, largest x and y in SAM2's pixels, inside the image.
    """
    height, width = truth.shape[-2:]
    sides = []
    for axis, size in ((1, width), (2, height)):
        filled = truth.any(dim=axis)
        filled = filled | ~filled.any(dim=1, keepdim=True)
        steps = torch.arange(size, device=truth.device).expand_as(filled)
        sides.append((steps.where(filled, size).amin(1), steps.where(filled, -1).amax(1)))
    (left, right), (top, bottom) = sides
    corners = torch.stack([torch.stack([left, top], dim=1), torch.stack([right, bottom], dim=1)], dim=1)
    exact = _scaled(corners, height, width, image_size)
    extent = (exact[:, 1] - exact[:, 0]).unsqueeze(1)
    reach = (jitter * extent).clamp(max=_LARGEST_SHIFT * image_size)
    moved = exact + (2 * torch.rand_like(exact) - 1) * reach
    return moved.clamp(0, image_size - 1).flatten(1)


@torch.no_grad()
def draw_rough_masks(truth: Tensor, noise: float, side: int) -> Tensor:
    """Masks as a hasty hand or another method would give them: grown or shrunk, uneven, in parts missing.

    Args:
        truth: (M, H, W) bool.
        noise: how uneven, 0 to 1: where it is above the threshold, drawn from 0.2 to 0.6, parts are missing or added.
        side: of the masks, S/4 pixels.

    Returns:
        (M, side, side) float32 logits, -10 to 10.
    """
    number = len(truth)
    # the largest value, so that thin structures are not lost
    small = functional.adaptive_max_pool2d(truth.float().unsqueeze(1), side)
    soft = functional.avg_pool2d(small, 3, stride=1, padding=1)
    coarse = 2 * torch.rand(number, 1, 4, 4, device=truth.device) - 1
    waves = functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    threshold = 0.2 + 0.4 * torch.rand(number, 1, 1, 1, device=truth.device)
    logits = 2 * _MASK_LOGIT * (soft + noise * waves - threshold)
    return logits.clamp(-_MASK_LOGIT, _MASK_LOGIT).squeeze(1)


def mark_clicks(masks: Tensor, points: Tensor, labels: Tensor, image_size: int, width: float) -> Tensor:
    """Draw clicks into masks that are handed back to SAM2, whose own encoding of a click tells little of where it is.

    Each click on or beside the object draws the logits around it towards 10 or -10, by a Gaussian weight that is 1 at
    the click; a later one counts more. Corners of boxes draw nothing.

    Args:
        masks: (M, h, w) logits; gradients go on through them.
        points: (M, P, 2), x then y in SAM2's pixels.
        labels: (M, P) int64, 1 on the object, 0 beside it, others for what is no click.
        image_size: side of SAM2's image, pixels.
        width: standard deviation of the weight, pixels of the masks; 0 draws nothing.

    Returns:
        (M, h, w) logits.
    """
    if not width:
        return masks
    height, length = masks.shape[-2:]
    rows, columns = (torch.arange(size, device=masks.device) for size in (height, length))
    places = (points + 0.5) * (points.new_tensor([length, height]) / image_size) - 0.5
    for place, label in zip(places.unbind(1), labels.unbind(1), strict=True):
        across = (columns - place[:, 0, None]).square()
        down = (rows - place[:, 1, None]).square()
        weight = torch.exp(-(down[:, :, None] + across[:, None, :]) / (2 * width**2))
        is_click = (label == FOREGROUND) | (label == BACKGROUND)
        weight = (weight * is_click[:, None, None]).to(masks.dtype)
        wanted = torch.where(label == FOREGROUND, _MASK_LOGIT, -_MASK_LOGIT)[:, None, None].to(masks.dtype)
        masks = masks + weight * (wanted - masks)
    return masks


def _most_interior(missing: Tensor, surplus: Tensor) -> int:
    """Index of the pixel of two regions (H, W) bool that is farthest from their edges; the image's edge is one."""
    wrong = (missing | surplus).cpu().numpy()
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    # around both, distances are the same as in the whole image, and are found much faster
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    depths = [
        ndimage.distance_transform_edt(np.pad(region.cpu().numpy()[box], 1))[1:-1, 1:-1]
        for region in (missing, surplus)
    ]
    y, x = np.unravel_index(int(np.argmax(np.maximum(*depths))), depths[0].shape)
    return int((rows[0] + y) * wrong.shape[1] + columns[0] + x)


def _scaled(points: Tensor, height: int, width: int, image_size: int) -> Tensor:
    """Pixels (..., 2), x then y, of an image of H by W as pixels of SAM2's image."""
    size = torch.tensor([width, height], device=points.device)
    return (points + 0.5) * image_size / size - 0.5
