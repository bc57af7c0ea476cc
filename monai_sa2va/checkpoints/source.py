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

"""A checkpoint of whatever form as configuration, spelling of keys, and tensors under the network's own keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.checkpoints.companions import COMPANIONS, EXTRAS_FILE
from monai_sa2va.checkpoints.families import detect_family
from monai_sa2va.checkpoints.families.base import Family, with_layout
from monai_sa2va.checkpoints.families.key_map import KeyRule, Layout, choose_layout
from monai_sa2va.checkpoints.fit import check_fit, listed
from monai_sa2va.checkpoints.hub import find_checkpoint
from monai_sa2va.checkpoints.info import WEIGHT_FILES, checkpoint_file, is_adapter, read_info
from monai_sa2va.checkpoints.lora_keys import RANK_FIELDS, merge_lora, refuse_lora
from monai_sa2va.checkpoints.sam2_config import read_sam2_config
from monai_sa2va.checkpoints.shards import WeightFiles, open_file, open_folder, read_json
from monai_sa2va.config import GroundingConfig, Sa2VAConfig
from monai_sa2va.errors import CheckpointError, ConfigError

__all__ = ["EXTRAS_FILE", "NATIVE", "CheckpointSource", "extras_of", "open_checkpoint"]

NATIVE = Layout("native", (KeyRule("**", ("**",)),))
"""The network's own keys, as a layout."""

_SAM2 = "grounding_encoder.sam2_model."
# what is said otherwise than in EXTRAS_FILE
_SAID = ("name", "family", "template", "tokenizer", "origin")
_PREPROCESSING = ("window", "axis")


@dataclass(frozen=True, eq=False)
class CheckpointSource:
    """An opened checkpoint.

    Attributes:
        name: what messages call it.
        config: of its network.
        layout: in which its keys are spelled.
        weights: its tensors.
        preprocessing: what it says of the images that it was trained on: ``window`` and ``axis``, if anything.
        companions: folder of the files that came with it, such as its tokenizer; ``None`` where there are none.
    """

    name: str
    config: Sa2VAConfig
    layout: Layout
    weights: WeightFiles
    preprocessing: Mapping[str, Any]
    companions: Path | None

    def check(self, state: Mapping[str, torch.Tensor]) -> None:
        """See that the checkpoint holds what a network needs, and no more.

        Args:
            state: of the network, which may be on the meta device.

        Raises:
            CheckpointError: listing the keys that are missing, unexpected or of another shape.
        """
        needed = {
            official: tuple(self.layout.join(official, [_shape_only(state[key]) for key in keys]).shape)
            for official, keys in self.layout.sources(state).items()
        }
        found = self.weights.shapes
        advice = "Give the whole checkpoint"
        odd = [key for key in needed.keys() | found.keys() if needed.get(key) != found.get(key)]
        # the projector ends in SAM2's width
        if any(key.startswith(_SAM2) for key in odd) and all(
            key.startswith((_SAM2, "text_hidden_fcs.")) for key in odd
        ):
            advice = "Say SAM2's geometry with sam2_config (--sam2-config), or give the whole checkpoint"
        check_fit(needed, found, self.name, advice)
        kinds = self.weights.dtypes
        odd = [key for key, keys in self.layout.sources(state).items() if _is_other(state[keys[0]], kinds[key])]
        if odd:
            listing = listed("of another type than the network's", [f"{key} {_name(kinds[key])}" for key in odd])
            raise CheckpointError(f"{self.name} doesn't fit this network: {listing}. Give weights in decimals")

    def tensor(self, native: str) -> torch.Tensor:
        """A tensor under one of the network's keys; it may lie in the file itself: read it, don't write to it."""
        official = self.official(native)
        return self.layout.split(official, self.weights.tensor(official))[native]

    def official(self, native: str) -> str:
        """The checkpoint's key of a network's."""
        key = self.layout.official(native)
        if key is None:
            raise CheckpointError(f"{self.name} has no place for the key {native}")
        return key

    def dtype(self) -> torch.dtype:
        """Type of all floating point tensors.

        Raises:
            CheckpointError: when they have several.
        """
        found = sorted({str(dtype) for dtype in self.weights.dtypes.values() if dtype.is_floating_point})
        if len(found) != 1:
            raise CheckpointError(f"{self.name} holds {' and '.join(found) or 'no weights'}; choose one with dtype")
        return next(dtype for dtype in self.weights.dtypes.values() if dtype.is_floating_point)


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    sam2_config: GroundingConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
) -> CheckpointSource:
    """Open an official checkpoint, or one of this package. Nothing is read yet but its configuration and its keys.

    Args:
        path: folder or hub id of an official checkpoint; folder or file of one of this package.
        sam2_config: SAM2's geometry where it isn't hiera-L, as
            :func:`~monai_sa2va.checkpoints.sam2_config.read_sam2_config` takes it; for official checkpoints only.
        allow_pickle: read an official checkpoint's weights also where they are pickles only. Code is never run.

    Raises:
        CheckpointError: when it is missing, damaged, incomplete, of an unknown family, or has SAM 3.
    """
    place = find_checkpoint(path, allow_pickle)
    own = place.is_file() or any((place / name).exists() for name in WEIGHT_FILES)
    if not own or (place / "config.json").exists():
        return _open_official(place, sam2_config, allow_pickle)
    if sam2_config is not None:
        raise CheckpointError(
            f"{place.name} is read as weights of this package, as there is no config.json, and says SAM2's geometry "
            "itself; leave out sam2_config, or put the official checkpoint's config.json there"
        )
    return _open_own(checkpoint_file(place))


def extras_of(config: Sa2VAConfig, family: Family, official: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json can't say of a network, where it isn't as in every official checkpoint."""
    said = {*_SAID, *family.geometry(official)}
    plain = config.to_dict()
    usual = Sa2VAConfig(name="", vision=config.vision, text=config.text, family=config.family).to_dict()
    return {key: value for key, value in plain.items() if key not in said and value != usual[key]}


def _open_official(place: Path, sam2_config: Any, allow_pickle: bool) -> CheckpointSource:
    official = read_json(place / "config.json")
    family = detect_family(official)
    stored = open_folder(place, allow_pickle)
    weights = merge_lora(stored, official, place)
    if weights is not stored:
        # once merged, LoRA is no part of the network that the reference would build by it
        official |= {field: 0 for field in RANK_FIELDS.values() if official.get(field)}
    extras = read_json(place / EXTRAS_FILE) if (place / EXTRAS_FILE).exists() else {}
    grounding = extras.pop("grounding", None)
    if sam2_config is not None:
        grounding = sam2_config
    preprocessing = {key: extras.pop(key) for key in _PREPROCESSING if key in extras}
    nested = place / "tokenizer"
    tokenizer = nested if nested.is_dir() and not (place / "tokenizer_config.json").exists() else place
    config = family.read_config(
        official, name=place.resolve().name, tokenizer=os.path.abspath(tokenizer), grounding=read_sam2_config(grounding)
    )
    unknown = sorted(extras.keys() - {field.name for field in fields(Sa2VAConfig)})
    if unknown:
        raise CheckpointError(f"{EXTRAS_FILE} has the unknown key {unknown[0]}; remove it")
    try:
        config = Sa2VAConfig.from_dict({**config.to_dict(), **extras})
    except ConfigError as error:
        raise CheckpointError(f"{EXTRAS_FILE}: {error.args[0]}") from error
    grounding_keys = [key for key in weights if key.startswith("grounding_encoder.")]
    if grounding_keys and not any(key.startswith(_SAM2) for key in grounding_keys):
        raise CheckpointError(
            f"{place.name} has another grounding encoder than SAM 2, such as SAM 3 ({grounding_keys[0]}); "
            "this version reads those with SAM 2"
        )
    layout = choose_layout(family.layouts(config), weights)
    return CheckpointSource(place.name, with_layout(config, layout), layout, weights, preprocessing, place)


def _open_own(file: Path) -> CheckpointSource:
    info = read_info(file)
    if is_adapter(info):
        raise CheckpointError(
            f"{file.name} is an adapter, which holds only what was trained; merge it into its base first: "
            "monai-sa2va merge ADAPTER --base BASE -o FILE"
        )
    if not isinstance(info.get("config"), Mapping):
        raise CheckpointError(
            f"{file.name} doesn't say which network its weights are of; give a checkpoint that a training wrote, "
            "or the folder of an official one"
        )
    config = Sa2VAConfig.from_dict(dict(info["config"]))
    preprocessing = {key: info[key] for key in _PREPROCESSING if key in info}
    companions = None if config.tokenizer == "bytes" else Path(config.tokenizer)
    # a converted checkpoint keeps the files that came with it in one folder, a tokenizer's own among them
    kept = file.parent / COMPANIONS
    if companions is not None and kept.is_dir() and companions.is_relative_to(os.path.abspath(kept)):
        companions = kept
    return CheckpointSource(file.name, config, NATIVE, refuse_lora(open_file(file)), preprocessing, companions)


def _is_other(tensor: torch.Tensor, kind: torch.dtype) -> bool:
    """Whether one is of decimals and the other isn't: only types of decimals can stand for each other."""
    return kind != tensor.dtype and not (kind.is_floating_point and tensor.is_floating_point())


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _shape_only(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, device="meta")
