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

"""Checks of a datalist: its form, its files, and whether prompts name what the labels hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_sa2va.data.checks import check_image, check_pair
from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.headers import label_values
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings
from monai_sa2va.transforms.intensity import as_window
from monai_sa2va.transforms.labels import LabelToMasks

__all__ = ["Scan", "check_datalist", "check_files", "check_prompts_occur", "read_section", "scan", "scanned", "summed"]

_SHOWN = 3


@dataclass(eq=False)
class Scan:
    """What reading a section's files has shown.

    Attributes:
        faults: a line for each file that can't be used.
        images: entries whose files can be used.
        asked: name of a structure -> entries whose prompts have it.
        shown: name of a structure -> entries whose labels hold it.
        empty: base names of images whose labels hold none of their prompts' values.
        unnamed: label value -> entries whose labels hold it though no prompt names it.
        pixels: pixels of all images together.
    """

    faults: list[str] = field(default_factory=list)
    images: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    unnamed: Counter[int] = field(default_factory=Counter)
    pixels: int = 0


def check_datalist(settings: Settings) -> Iterator[Remark]:
    """Format of the datalist's sections for training, and whether all files that it names are there."""
    path = _datalist(settings)
    if path is None:
        folder = settings.value("dataset_dir")
        yield Status.WARN, f"dataset_dir {folder} does not exist: training makes phantoms there; nothing to look at yet"
        return
    training = read_section(settings, path, "training")
    validation = read_section(settings, path, "validation", optional=True)
    if not validation:
        yield Status.WARN, "there is no validation section: the last weights are kept, not the best; add one"
    yield Status.PASS, f"{len(training)} entries for training, {len(validation)} for validation"


def check_files(settings: Settings) -> Iterator[Remark]:
    """Whether every image and label opens, and both agree in shape and grid."""
    for section, found in scanned(settings).items():
        if found.faults:
            yield Status.FAIL, f"{section}: {summed(found.faults)}"
        else:
            yield Status.PASS, f"{section}: {found.images} images open and their labels fit"


def check_prompts_occur(settings: Settings) -> Iterator[Remark]:
    """Whether prompts name values that labels hold, and labels hold no value that prompts don't name."""
    sections = scanned(settings)
    for section, found in sections.items():
        missing = [name for name in found.asked if not found.shown[name]]
        if missing and len(missing) == len(found.asked):
            names = ", ".join(missing[:_SHOWN])
            yield Status.FAIL, f"{section}: no label holds a value that a prompt names ({names}); correct the keys"
        elif missing:
            names = ", ".join(missing[:_SHOWN])
            yield Status.WARN, f"{section}: no label holds the value of {names}; correct the keys, or leave them out"
        if found.unnamed:
            listed = ", ".join(f"{value} in {count}" for value, count in sorted(found.unnamed.items())[:_SHOWN])
            yield (
                Status.WARN,
                f"{section}: label values without a prompt are background ({listed} entries); name them in prompts",
            )
        if found.shown:
            names = ", ".join(f"{name} in {count}" for name, count in found.shown.most_common(8))
            yield Status.PASS, f"{section}: {names} of {found.images}"
    if "training" in sections and "validation" in sections:
        new = [name for name in sections["validation"].shown if not sections["training"].shown[name]]
        if new:
            yield Status.WARN, f"validation asks for {', '.join(new[:_SHOWN])}, which training never shows"


def read_section(
    settings: Settings, path: str | Path, section: str, optional: bool = False, must_exist: bool = True
) -> list[dict[str, Any]]:
    """Entries of a section of a datalist; noted, so that later checks look at what this one could read.

    Raises:
        DatalistError: as :func:`~monai_sa2va.data.datalist.load_datalist` does.
    """
    entries = load_datalist(path, section, settings.value("dataset_dir"), optional, must_exist)
    if entries:
        settings.notes.setdefault("sections", {})[section] = entries
    return entries


def scanned(settings: Settings) -> dict[str, Scan]:
    """What reading the files of each section that was read has shown; they are read once."""
    if "scans" not in settings.notes:
        finite = as_window(settings.value("window", "auto")).nonfinite == "error"
        sections: Mapping[str, Any] = settings.notes.get("sections", {})
        settings.notes["scans"] = {name: scan(entries, finite) for name, entries in sections.items()}
    found: dict[str, Scan] = settings.notes["scans"]
    return found


def scan(entries: Sequence[Mapping[str, Any]], finite: bool = True) -> Scan:
    """Read all files of a section.

    Args:
        entries: as :func:`~monai_sa2va.data.datalist.load_datalist` gives them.
        finite: whether NaN and infinite values are faults.
    """
    found = Scan()
    to_masks = LabelToMasks()
    for entry in entries:
        try:
            _scan_entry(entry, finite, to_masks, found)
        except DataError as error:
            # one file's fault, often met again in each of its entries
            found.faults.append(str(error))
    return found


def summed(lines: Sequence[str]) -> str:
    """The first of many lines, and how many there are."""
    distinct = list(dict.fromkeys(lines))
    more = f"; and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return "; ".join(distinct[:_SHOWN]) + more


def _scan_entry(entry: Mapping[str, Any], finite: bool, to_masks: LabelToMasks, found: Scan) -> None:
    image, label, prompts = entry[Keys.IMAGE], entry.get(Keys.LABEL), entry.get(Keys.PROMPTS) or {}
    files = [label] if isinstance(label, str) else list(label or ())
    found.pixels += int(np.prod(check_image(image, finite).shape))
    channels = [check_pair(image, file, finite=False) for file in files]
    if channels and prompts:
        result = to_masks(np.stack(channels).astype(np.int64), prompts, name=f"label ({Path(files[0]).name})")
        found.asked.update(result.names)
        found.shown.update(name for name, there in zip(result.names, result.present, strict=True) if there)
        if not any(result.present):
            found.empty.append(Path(image).name)
        found.unnamed.update(_unnamed(channels, [int(value) for value in prompts]))
    found.images += 1


def _unnamed(channels: Sequence[np.ndarray], wanted: Sequence[int]) -> list[int]:
    if len(channels) > 1:
        return [number for number in range(1, len(channels) + 1) if number not in wanted]
    held = label_values(channels[0])
    # a black and white picture, whose one prompt may be numbered 1
    return [] if held == [255] and list(wanted) == [1] else [value for value in held if value not in wanted]


def _datalist(settings: Settings) -> Any:
    """Path of the datalist; ``None`` where the run would make its data first."""
    if not settings.has("resolved_datalist"):
        return settings.value("datalist")
    ready = settings.make_data or settings.value("datalist") is not None
    if not ready and not Path(settings.value("dataset_dir", ".")).exists():
        return None
    return settings.value("resolved_datalist")
