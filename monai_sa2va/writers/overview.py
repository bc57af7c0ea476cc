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

"""One picture that shows at a glance what was found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from monai_sa2va.writers.colours import PALETTE
from monai_sa2va.writers.files import atomic_path

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmentation

__all__ = ["PALETTE", "draw_overview", "enlarge", "paint", "write_overview"]

_FILL = 0.35
_SHORT_SIDE, _LONG_SIDE = 320, 1600
_LINE, _FONT = 22, 14
_MAX_LABEL = 48
_ROW = 4


def enlarge(picture: np.ndarray, short: int = _SHORT_SIDE, long: int = _LONG_SIDE) -> Image.Image:
    """A picture (H, W, 3) uint8, its shorter side enlarged to ``short`` pixels or its longer reduced to ``long``."""
    height, width = picture.shape[:2]
    scale = min(max(1.0, short / min(height, width)), long / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)


def paint(picture: Image.Image, masks: np.ndarray, fill: float = _FILL) -> Image.Image:
    """A picture with masks, filled lightly and outlined.

    Args:
        picture: RGB, of any size.
        masks: (N, H, W) bool, brought to the picture's size; the first has the first colour of `PALETTE`.
        fill: how strong the colour is within the outline, 0 to 1.
    """
    canvas = np.asarray(picture).astype(np.float32)
    for number, mask in enumerate(masks):
        colour = np.array(PALETTE[number % len(PALETTE)], dtype=np.float32)
        drawn = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
        # what lies beyond the border counts as inside, else masks at the border get a frame
        outline = drawn & ~binary_erosion(drawn, border_value=1, iterations=2)
        canvas[drawn] = canvas[drawn] * (1 - fill) + colour * fill
        canvas[outline] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def draw_overview(segmentation: Segmentation) -> Image.Image:
    """The picture, or the slice of a volume with the largest area of objects, beside itself with masks, and a legend.

    Objects are filled lightly and outlined in their colour; the legend gives each one's label and presence, and says
    where a mask is empty. Of a volume, the slices that tell most of its objects follow in rows of four, outlined, with
    their numbers.

    Returns:
        RGB; pictures are enlarged to a shorter side of 320 pixels or reduced to a longer one of 1600.
    """
    picture = enlarge(segmentation.picture)
    size = picture.size
    index = segmentation.slice_index
    masks = segmentation.masks if index is None else segmentation.masks[:, index]

    legend = _legend(segmentation, masks)
    sheet = Image.new("RGB", (2 * size[0] + 4, size[1] + _LINE * len(legend) + 8), "black")
    sheet.paste(picture, (0, 0))
    sheet.paste(paint(picture, masks), (size[0] + 4, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for row, (colour_of, text) in enumerate(legend):
        top = size[1] + 4 + row * _LINE
        if colour_of is not None:
            draw.rectangle((6, top + 3, 6 + _FONT, top + 3 + _FONT), fill=colour_of)
        draw.text((28, top + 2), text, fill="white", font=font)
    further = [view for view in segmentation.views if view[0] != index]
    return _add_views(sheet, further, segmentation.masks) if further else sheet


def write_overview(segmentation: Segmentation, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write :func:`draw_overview` as a PNG.

    Raises:
        OutputError: when the file is there already or can't be written.
    """
    target = Path(path)
    with atomic_path(target, overwrite) as temporary:
        draw_overview(segmentation).save(temporary)
    return target


def _add_views(sheet: Image.Image, views: Sequence[tuple[int, np.ndarray]], masks: np.ndarray) -> Image.Image:
    """The sheet with slices below it, each of a quarter of its width."""
    width = max(1, (sheet.width - (_ROW - 1) * 4) // _ROW)
    tiles = []
    for index, picture in views:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        tile = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        tile = paint(tile, masks[:, index], fill=0.0)
        ImageDraw.Draw(tile).text((4, 2), str(index), fill="white", font=ImageFont.load_default(_FONT))
        tiles.append(tile)
    height = tiles[0].height + 4
    rows = -(-len(tiles) // _ROW)
    larger = Image.new("RGB", (sheet.width, sheet.height + rows * height), "black")
    larger.paste(sheet, (0, 0))
    for number, tile in enumerate(tiles):
        larger.paste(tile, (number % _ROW * (width + 4), sheet.height + number // _ROW * height))
    return larger


def _legend(segmentation: Segmentation, shown: np.ndarray) -> list[tuple[tuple[int, int, int] | None, str]]:
    lines: list[tuple[tuple[int, int, int] | None, str]] = []
    for number, (label, score, mask) in enumerate(
        zip(segmentation.labels, segmentation.scores, segmentation.masks, strict=True)
    ):
        name = label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 3] + "..."
        state = "" if shown[number].any() else ", not in this slice" if mask.any() else ", empty"
        lines.append((PALETTE[number % len(PALETTE)], f"{name} (presence {score:.2f}{state})"))
    if segmentation.slice_index is not None:
        lines.append((None, f"slice {segmentation.slice_index} of {segmentation.masks.shape[1]}, counted from 0"))
    return lines
