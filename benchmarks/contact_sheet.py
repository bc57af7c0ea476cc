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

"""A contact sheet: pictures of each look, what was asked for, what was drawn and what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

__all__ = ["COLOURS", "Tile", "contact_sheet", "paint"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "vessels": (255, 77, 77),
    "lesion": (255, 214, 10),
    "optic disc": (64, 196, 255),
    "macula": (199, 125, 255),
    "liver": (255, 150, 60),
    "kidney": (90, 225, 130),
    "spine": (120, 160, 255),
    "cyst": (60, 220, 210),
    "nodule": (255, 130, 200),
}
"""Red, green and blue of each structure, told apart on grey and on a red fundus."""

_BACKGROUND, _INK, _FAINT = (18, 21, 27), (232, 234, 238), (150, 156, 168)
_SIDE, _GAP, _MARGIN, _LINE = 188, 4, 14, 22
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_PANELS = ("picture", "Sa2VA", "truth")


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of the sheet.

    Attributes:
        picture: (H, W, 3) uint8.
        predicted: (H, W) bool by name; every name is one of :data:`COLOURS`.
        truth: likewise.
        lines: what the legend says of each name: the sentence and the score.
    """

    picture: NDArray[np.uint8]
    predicted: Mapping[str, NDArray[np.bool_]]
    truth: Mapping[str, NDArray[np.bool_]]
    lines: Mapping[str, str]


def paint(picture: NDArray[np.uint8], masks: Mapping[str, NDArray[np.bool_]], side: int = _SIDE) -> Image.Image:
    """Enlarge a picture to a square of ``side`` pixels and lay masks over it, with their outlines."""
    canvas = np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    for name, mask in masks.items():
        # enlarged as grey values and cut at half, so that the edges are smooth
        grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BICUBIC)
        large = np.asarray(grey) > 127
        colour = np.array(COLOURS[name], dtype=np.float64)
        canvas[large] = 0.5 * canvas[large] + 0.5 * colour
        # what lies beyond the border counts as inside, else masks at the border get a frame
        canvas[large & ~binary_erosion(large, border_value=1)] = colour
    return Image.fromarray(np.round(canvas).clip(0, 255).astype(np.uint8))


def contact_sheet(rows: Sequence[tuple[str, Sequence[Tile]]], footer: str) -> Image.Image:
    """Draw tiles in rows, each with its picture, the predicted masks and the truth side by side.

    Args:
        rows: a heading and the tiles of each row.
        footer: the last line.

    Returns:
        The sheet; two tiles a row make it 1,184 pixels wide.
    """
    triple = 3 * _SIDE + 2 * _GAP
    width = 2 * _MARGIN + max(len(tiles) for _, tiles in rows) * (triple + _MARGIN) - _MARGIN
    heights = [2 * _LINE + _SIDE + max(_legend_height(tile) for tile in tiles) + _MARGIN for _, tiles in rows]
    sheet = Image.new("RGB", (width, _MARGIN + sum(heights) + _LINE), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(14), ImageFont.load_default(17)
    top = _MARGIN
    for (heading, tiles), height in zip(rows, heights, strict=True):
        draw.text((_MARGIN, top), heading, _INK, large)
        for number, tile in enumerate(tiles):
            _draw_tile(sheet, draw, (_MARGIN + number * (triple + _MARGIN), top + _LINE), tile, small)
        top += height
    draw.text((_MARGIN, top), footer, _FAINT, small)
    return sheet


def _legend_height(tile: Tile) -> int:
    return 6 + _LINE * -(-len(tile.lines) // 2)


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], tile: Tile, font: Font) -> None:
    left, top = corner
    panels: tuple[Mapping[str, NDArray[np.bool_]], ...] = ({}, tile.predicted, tile.truth)
    for number, (caption, masks) in enumerate(zip(_PANELS, panels, strict=True)):
        x = left + number * (_SIDE + _GAP)
        draw.text((x, top), caption, _FAINT, font)
        sheet.paste(paint(tile.picture, masks), (x, top + _LINE))
    half = (3 * _SIDE + 2 * _GAP) // 2
    for number, (name, line) in enumerate(tile.lines.items()):
        x, y = left + number % 2 * half, top + _LINE + _SIDE + 8 + number // 2 * _LINE
        draw.rounded_rectangle((x, y + 2, x + 13, y + 15), 3, COLOURS[name])
        draw.text((x + 20, y), line, _INK, font)
