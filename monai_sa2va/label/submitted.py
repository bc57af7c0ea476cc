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

"""Submitted labels as a datalist: what each value is called, and what each image was seen to lack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai_sa2va.data.datalist import DATALIST_NAME
from monai_sa2va.data.headers import label_values, read_grid, read_label, same_grid
from monai_sa2va.errors import DatalistError, Sa2VAError

__all__ = ["Submitted", "collect", "names_of", "write_datalist"]

_GENERIC = "object"


class Submitted(NamedTuple):
    """Labels that can be learnt from.

    Attributes:
        entries: of a datalist.
        hashes: SHA-256 of each label file, in the order of ``entries``.
        left_out: reasons of labels that can't be used, without names of images.
    """

    entries: list[dict[str, Any]]
    hashes: list[str]
    left_out: list[str]


def names_of(info: Mapping[str, Any], labels: Sequence[str]) -> dict[int, str]:
    """What the values of a submitted label are called.

    Args:
        info: of the label. 3D Slicer sends ``label_info``, a list of ``{"name", "idx"}``; labels that the server drew
            have ``params`` with ``label_names``.
        labels: the server's, by place; the generic ones name nothing.

    Returns:
        Value -> name.
    """
    names = {place: name for place, name in enumerate(labels, start=1) if name.partition(" ")[0] != _GENERIC}
    drawn = info.get("params")
    if isinstance(drawn, Mapping) and isinstance(drawn.get("label_names"), Mapping):
        names |= {value: str(name) for name, value in drawn["label_names"].items() if isinstance(value, int) and value}
    told = info.get("label_info")
    for place, item in enumerate(told if isinstance(told, list) else [], start=1):
        if isinstance(item, Mapping) and str(item.get("name", "")).strip():
            value = item.get("idx", place)
            names[int(value) if str(value).isdecimal() else place] = str(item["name"]).strip()
    return names


def collect(datastore: Any, labels: Sequence[str], tag: str = "final") -> Submitted:
    """What was submitted.

    A name that a label has among its values and that its image doesn't show is absent there; slices of a volume without
    an object are found while training.

    Args:
        datastore: of MONAI Label.
        labels: the server's, by place.
        tag: of the labels.

    Raises:
        DatalistError: when no label can be used.
    """
    entries: list[dict[str, Any]] = []
    hashes: list[str] = []
    left_out: list[str] = []
    for image in sorted(datastore.get_labeled_images()):
        file = Path(datastore.get_image_uri(image))
        try:
            label = Path(datastore.get_label_uri(datastore.get_label_by_image_id(image, tag) or image, tag))
            values, grid = read_label(label)
            odd = same_grid(read_grid(file), grid)
            if odd is not None:
                raise DatalistError(odd)
        except Sa2VAError as error:
            # the message begins with the name of a file
            left_out.append(f"a label can't be used ({error.code})")
            continue
        named, found = names_of(datastore.get_label_info(image, tag), labels), label_values(values)
        prompts = {str(value): [named[value]] for value in found if value in named}
        if not prompts:
            left_out.append("a label has no value whose name is known")
            continue
        shown = {phrases[0] for phrases in prompts.values()}
        # 3D Slicer makes an empty segment of each of the server's labels, the generic ones too
        lacked = {name for value, name in named.items() if value not in found}
        absent = sorted(name for name in lacked - shown if name.partition(" ")[0] != _GENERIC)
        entries.append({"image": str(file), "label": str(label), "prompts": prompts, "absent": absent})
        hashes.append(hashlib.sha256(label.read_bytes()).hexdigest())
    if not entries:
        raise DatalistError(
            "no submitted label can be learnt from; submit one whose segments have names"
            + (f" ({left_out[0]})" if left_out else "")
        )
    return Submitted(entries, hashes, left_out)


def write_datalist(submitted: Submitted, folder: Path) -> Path:
    """Write ``datalist.json``: of every five entries one validates; of less than five the last one also trains.

    Args:
        submitted: the labels.
        folder: is there.
    """
    entries = submitted.entries
    validation = entries[4::5] or entries[-1:]
    training = [entry for entry in entries if entry not in validation] if len(entries) >= 5 else entries
    path = folder / DATALIST_NAME
    path.write_text(json.dumps({"training": training, "validation": validation}, indent=1), encoding="utf-8")
    return path
