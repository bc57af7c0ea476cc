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

"""What an evaluation leaves: a table of objects, a report of means, and a picture of some cases."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from monai_sa2va import __version__
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import OutputError
from monai_sa2va.metrics.objects import ObjectScore
from monai_sa2va.writers.files import atomic_path, make_folder
from monai_sa2va.writers.overview import enlarge, paint
from monai_sa2va.writers.results import write_table

__all__ = ["CaseRow", "EvaluationWriter", "Panel", "draw_cases"]

_COLUMNS = (
    *("case", "image", "group", "prompt", "status", "truth_voxels", "predicted_voxels"),
    *("dice", "iou", "precision", "recall", "surface_dice", "hd95", "unit", "false_empty", "false_positive", "error"),
)
_TABLE, _REPORT, _PICTURE = "cases.csv", "metrics.json", "cases.png"
_PACKAGES = ("torch", "monai", "transformers", "sam2")
_SHORT_SIDE, _LONG_SIDE = 256, 512
_GAP, _LINE, _FONT, _MAX_TEXT = 4, 22, 14, 80


@dataclass(frozen=True)
class CaseRow:
    """One object of one image.

    Attributes:
        case: number of the image, counted from 1 in the order of evaluation.
        image: base name of its file.
        group: number of its patient.
        prompt: the phrase asked for.
        score: its scores; ``None`` where the image failed.
        error: one line that says why it failed, else empty.
        patient: whom the image shows, where that is asked for, else empty.
    """

    case: int
    image: str
    group: int
    prompt: str
    score: ObjectScore | None = None
    error: str = ""
    patient: str = ""

    def as_cells(self) -> dict[str, Any]:
        """Values by the table's columns."""
        cells = {"case": self.case, "image": self.image, "group": self.group, "prompt": self.prompt}
        if self.score is None:
            return {**cells, "status": "failed", "error": self.error}
        scores = {name: getattr(self.score, name) for name in _COLUMNS if hasattr(self.score, name)}
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in scores.items()}
        # a volume in microns has distances of less than a millionth
        rounded["hd95"] = None if math.isnan(self.score.hd95) else float(f"{self.score.hd95:.7g}")
        flags = {name: int(getattr(self.score, name)) for name in ("false_empty", "false_positive")}
        return {**rounded, **flags, **cells, "status": "done"}


@dataclass(frozen=True, eq=False)
class Panel:
    """One case of the picture.

    Attributes:
        picture: (H, W, 3) uint8.
        predicted: (H, W) bool.
        truth: (H, W) bool.
        title: what stands above it.
    """

    picture: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    title: str


class EvaluationWriter:
    """Writes ``cases.csv``, ``metrics.json`` and ``cases.png`` into one folder.

    Args:
        output_dir: made where it isn't there.
        overwrite: whether the files of an earlier run may be replaced; they stay until there are new ones.
        include_patient: whether the table has a column ``patient``, behind ``group``.

    Raises:
        OutputError: when the folder can't be written to, or holds such files and ``overwrite`` is off.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], overwrite: bool = False, include_patient: bool = False
    ) -> None:
        self.output_dir, self.include_patient = make_folder(output_dir), include_patient
        for name in (_TABLE, _REPORT, _PICTURE):
            if not overwrite and (self.output_dir / name).exists():
                raise OutputError(
                    f"the folder {os.fspath(output_dir)!r} holds results already ({name}); "
                    "give overwrite, or another output folder"
                )
        self._drawn = False

    def write_rows(self, rows: Sequence[CaseRow]) -> Path:
        """Write ``cases.csv``, a row an object; raises OutputError when that can't be done."""
        target = self.output_dir / _TABLE
        cells = [row.as_cells() for row in rows]
        if not self.include_patient:
            write_table(target, _COLUMNS, cells)
            return target
        place = _COLUMNS.index(Keys.GROUP) + 1
        columns = (*_COLUMNS[:place], Keys.PATIENT.value, *_COLUMNS[place:])
        write_table(target, columns, [{**c, Keys.PATIENT.value: r.patient} for c, r in zip(cells, rows, strict=True)])
        return target

    def write_metrics(self, content: Mapping[str, Any]) -> Path:
        """Write ``metrics.json`` with the versions that made it; raises OutputError when that can't be done."""
        versions = {"monai_sa2va": __version__, **{name: metadata.version(name) for name in _PACKAGES}}
        target = self.output_dir / _REPORT
        text = json.dumps({**content, "versions": versions}, indent=2, ensure_ascii=False, allow_nan=False)
        with atomic_path(target, overwrite=True) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return target

    def write_picture(self, panels: Sequence[Panel]) -> Path:
        """Write ``cases.png``; raises OutputError when that can't be done."""
        target = self.output_dir / _PICTURE
        with atomic_path(target, overwrite=True) as temporary:
            draw_cases(panels).save(temporary)
        self._drawn = True
        return target

    def remove_earlier_picture(self) -> None:
        """Remove a ``cases.png`` that isn't of this run, once its table is there; raises OutputError when it can't."""
        if self._drawn:
            return
        try:
            (self.output_dir / _PICTURE).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{_PICTURE!r} of an earlier run can't be removed: {error.strerror or error}") from error


def draw_cases(panels: Sequence[Panel]) -> Image.Image:
    """Cases below one another: its title, then the picture, the predicted mask on it, and the true one.

    Args:
        panels: at least one.

    Returns:
        RGB.
    """
    rows = []
    for panel in panels:
        plain = enlarge(panel.picture, _SHORT_SIDE, _LONG_SIDE)
        rows.append((panel.title, [plain, *(paint(plain, mask[None]) for mask in (panel.predicted, panel.truth))]))
    width = max(3 * pictures[0].width + 2 * _GAP for _, pictures in rows)
    height = sum(pictures[0].height + 2 * _LINE for _, pictures in rows)
    sheet = Image.new("RGB", (width, height), "black")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    top = 0
    for title, pictures in rows:
        shown = title if len(title) <= _MAX_TEXT else title[: _MAX_TEXT - 3] + "..."
        draw.text((6, top + 2), shown, fill="white", font=font)
        for number, (name, picture) in enumerate(zip(("image", "predicted", "truth"), pictures, strict=True)):
            left = number * (picture.width + _GAP)
            draw.text((left + 6, top + _LINE + 2), name, fill="gray", font=font)
            sheet.paste(picture, (left, top + 2 * _LINE))
        top += pictures[0].height + 2 * _LINE
    return sheet
