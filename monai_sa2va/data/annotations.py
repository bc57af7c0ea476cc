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

"""The reference's ``annotations.json``: phrases with polygons, drawn as masks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_sa2va.data.checks import check_image
from monai_sa2va.data.datalist import check_phrases
from monai_sa2va.data.headers import image_suffix
from monai_sa2va.data.make_datalist import relative_path
from monai_sa2va.data.pairing import LeftOut
from monai_sa2va.data.polygons import draw_polygons
from monai_sa2va.data.splits import group_of
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError, DatalistError, OutputError

__all__ = ["draw_annotations"]

_IMAGES = "images"


def draw_annotations(
    content: Iterable[Any],
    folder: Path,
    masks: Path,
    base_dir: Path,
    group_regex: str | None = None,
) -> tuple[list[tuple[str, dict[str, Any]]], list[LeftOut], list[str]]:
    """Draw the masks of annotations as PNG files, one a phrase and image.

    Phrases are written in small letters and without a full stop, as the reference trains them. Polygons of an object
    that overlap are united, where the reference adds them up; objects of one phrase in an image are one mask, as one
    question asks for them.

    Args:
        content: ``[{"image": name, "mask": [[polygon, ...] of an object, ...], "text": [phrase of an object, ...]}]``,
            polygons in pixels of the image.
        folder: of the JSON; images lie in it, or in its ``images/``.
        masks: folder that the masks are written to; it is made.
        base_dir: folder that the datalist will lie in.
        group_regex: as for :func:`~monai_sa2va.data.make_datalist.make_datalist`.

    Returns:
        Group and entry of each image, what was left out and why, and warnings.

    Raises:
        DatalistError: when an entry has not these fields; naming it.
        OutputError: when a mask can't be written.
    """
    entries: list[tuple[str, dict[str, Any]]] = []
    left_out: list[LeftOut] = []
    united = 0
    for number, item in enumerate(content):
        name, objects, phrases = _checked(item, f"annotations[{number}]")
        image = next((path for path in (folder / name, folder / _IMAGES / name) if path.is_file()), folder / name)
        stem = image.name[: len(image.name) - len(image_suffix(image))]
        group = group_of(Path(name).with_suffix("").as_posix(), group_regex)
        try:
            if group is None:
                raise DataError(f"group regex '{group_regex}' matches nothing in its name")
            width, height = check_image(image).shape[:2]
            drawn: dict[str, np.ndarray] = {}
            for phrase, polygons in zip(phrases, objects, strict=True):
                mask = draw_polygons(polygons, height, width)
                united += phrase in drawn
                drawn[phrase] = drawn[phrase] | mask if phrase in drawn else mask
            empty = [phrase for phrase, mask in drawn.items() if not mask.any()]
            if empty:
                raise DataError(f"the polygons of '{empty[0]}' hold no pixel of the image")
        except DataError as error:
            left_out.append(LeftOut(image, str(error.args[0])))
            continue
        if not drawn:
            left_out.append(LeftOut(image, "has no object"))
            continue
        files = [masks / f"{number:06d}_{stem}_{index}.png" for index in range(1, len(drawn) + 1)]
        for file, mask in zip(files, drawn.values(), strict=True):
            _write(file, mask)
        entry: dict[str, Any] = {
            Keys.IMAGE.value: relative_path(image, base_dir),
            Keys.LABEL.value: [relative_path(file, base_dir) for file in files],
            Keys.PROMPTS.value: {str(index): [phrase] for index, phrase in enumerate(drawn, start=1)},
        }
        entries.append((group, entry if group_regex is None else {**entry, Keys.GROUP.value: group}))
    warnings = [f"{united} object(s) were united with another one of the same phrase and image"] if united else []
    return entries, left_out, warnings


def _checked(item: Any, where: str) -> tuple[str, list[Any], list[str]]:
    if not isinstance(item, dict) or not {"image", "mask", "text"} <= item.keys():
        raise DatalistError(f"{where}: an entry is an object with image, mask and text")
    name, objects, phrases = item["image"], item["mask"], item["text"]
    if not isinstance(name, str) or not name:
        raise DatalistError(f"{where}.image: has to be a file's name")
    if not isinstance(objects, list) or not all(isinstance(polygons, list) for polygons in objects):
        raise DatalistError(f"{where}.mask: has to be a list of polygons for each object")
    if not isinstance(phrases, list) or len(phrases) != len(objects):
        raise DatalistError(f"{where}.text: has to be a list of one phrase for each of {len(objects)} objects")
    checked = [check_phrases(phrase, f"{where}.text[{i}]")[0] for i, phrase in enumerate(phrases)]
    return name, objects, [phrase.lower().rstrip(". ") or phrase for phrase in checked]


def _write(path: Path, mask: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    except OSError as error:
        raise OutputError(f"mask {os.fspath(path)!r} can't be written: {error.strerror or error}") from error
