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

"""nnU-Net's ``dataset.json``, of its first and second version: names of channels and labels, pairs of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai_sa2va.data.headers import image_suffix
from monai_sa2va.data.pairing import LeftOut, Pair
from monai_sa2va.errors import DatalistError

__all__ = ["NnUNetDataset", "read_nnunet"]

_IMAGES, _LABELS = "imagesTr", "labelsTr"
_NOT_NAMED = ("background", "ignore")


class NnUNetDataset(NamedTuple):
    """What a dataset.json says.

    Attributes:
        pairs: of one channel's images with their labels.
        left_out: images without a label, and labels without an image.
        prompts: as :func:`~monai_sa2va.data.make_datalist.parse_prompt_options` takes them, such as ``"1=liver"``.
        channel: name of the channel, ``""`` where it has none.
        warnings: labels that can't be prompts.
    """

    pairs: list[Pair]
    left_out: list[LeftOut]
    prompts: list[str]
    channel: str
    warnings: list[str]


def read_nnunet(content: Mapping[str, Any], folder: Path, channel: str | None = None) -> NnUNetDataset:
    """Find the labelled images of a dataset: those of ``imagesTr``.

    Args:
        content: of dataset.json. Version 1 has ``modality``, ``labels`` by number and a list ``training``; version 2
            ``channel_names``, ``labels`` by name, and files named ``<case>_<channel>`` and ``<case>``.
        folder: that it lies in.
        channel: number or name of the one that is read; ``None`` where there is only one.

    Raises:
        DatalistError: when fields are missing, the channel isn't there or has to be chosen, or nothing is labelled.
    """
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, Mapping) or not isinstance(content.get("labels"), Mapping):
        raise DatalistError("dataset.json: is none of nnU-Net's; it needs labels, and channel_names or modality")
    number = _channel({str(key): str(name) for key, name in channels.items()}, channel)
    prompts, warnings = _prompts(content["labels"])
    pairs, left_out = _listed(content, folder, number) if _has_pairs(content) else _found(folder, number)
    if not pairs:
        raise DatalistError(f"dataset.json: no image of {_IMAGES} and label of {_LABELS} belong together")
    return NnUNetDataset(pairs, left_out, prompts, str(channels[number]), warnings)


def _channel(channels: Mapping[str, str], wanted: str | None) -> str:
    shown = ", ".join(f"{number} ({name})" for number, name in channels.items())
    if wanted is None:
        if len(channels) != 1:
            raise DatalistError(f"dataset.json has the channels {shown}; name one with --channel")
        return next(iter(channels))
    for number, name in channels.items():
        if wanted in (number, name):
            return number
    raise DatalistError(f"--channel {wanted}: dataset.json has the channels {shown}")


def _prompts(labels: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    prompts, warnings = [], []
    for key, value in labels.items():
        # version 1 has the numbers first
        name, number = (str(value), key) if str(key).isdecimal() else (str(key), value)
        if isinstance(number, list):
            warnings.append(
                f"label '{name}' is a region of the values {number}, and a prompt names one value: left out"
            )
        elif name == "ignore":
            warnings.append(f"label 'ignore' ({number}) becomes background, as nothing is left out of a loss here")
        elif not str(number).isdecimal():
            raise DatalistError(f"dataset.json: labels['{name}'] is {number!r}; a whole number is needed")
        elif int(number) > 0 and name not in _NOT_NAMED:
            prompts.append(f"{int(number)}={name.replace('_', ' ').replace('|', ' ')}")
    if not prompts:
        raise DatalistError("dataset.json: labels name nothing but the background")
    return prompts, warnings


def _has_pairs(content: Mapping[str, Any]) -> bool:
    training = content.get("training")
    return isinstance(training, list) and bool(training)


def _listed(content: Mapping[str, Any], folder: Path, number: str) -> tuple[list[Pair], list[LeftOut]]:
    pairs, left_out = [], []
    for index, item in enumerate(content["training"]):
        if not isinstance(item, Mapping) or not isinstance(item.get("image"), str) or not item.get("label"):
            raise DatalistError(f"dataset.json: training[{index}] needs image and label")
        image, label = folder / item["image"], folder / str(item["label"])
        if not image.is_file():
            # the raw data of version 1 ends in the channel, its list leaves that out
            suffix = image_suffix(image)
            image = image.with_name(f"{image.name[: len(image.name) - len(suffix)]}_{int(number):04d}{suffix}")
        missing = next((path for path in (image, label) if not path.is_file()), None)
        if missing is not None:
            left_out.append(LeftOut(missing, "is not there"))
        else:
            pairs.append(Pair(image, label, _stem(label)))
    return pairs, left_out


def _found(folder: Path, number: str) -> tuple[list[Pair], list[LeftOut]]:
    ending = f"_{int(number):04d}"
    images = {
        _stem(path).removesuffix(ending): path
        for path in sorted((folder / _IMAGES).glob("*"))
        if image_suffix(path) and _stem(path).endswith(ending)
    }
    labels = {_stem(path): path for path in sorted((folder / _LABELS).glob("*")) if image_suffix(path)}
    pairs = [Pair(images[case], labels[case], case) for case in sorted(images.keys() & labels.keys())]
    left_out = [LeftOut(images[case], "has no label") for case in sorted(images.keys() - labels.keys())]
    left_out += [LeftOut(labels[case], "has no image") for case in sorted(labels.keys() - images.keys())]
    return pairs, left_out


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(image_suffix(path))]
