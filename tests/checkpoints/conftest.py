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

"""Checkpoints of the oracle, each made whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from monai_sa2va.checkpoints.convert import convert_checkpoint
from monai_sa2va.checkpoints.info import INFO_KEY, ModelInfo
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.qwen_config import QwenVisionConfig
from monai_sa2va.transforms.processor import Sa2VAProcessor

_SAM2 = "grounding_encoder."


def _keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


@pytest.fixture(scope="session")
def whole_checkpoint(oracle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Path, Path]]:
    """Folder of the oracle -> folder of a whole checkpoint, and the file of SAM2's geometry.

    Where an oracle's checkpoint leaves out SAM2 or the tokenizer, they are those of one that has them: its weights are
    seeded by their keys, so they are the same.
    """
    donor = next(
        file.parent
        for file in sorted(oracle_dir.rglob("model.safetensors"))
        if any(key.startswith(_SAM2) for key in _keys(file))
    )

    def geometry(folder: Path) -> Path | None:
        return next(iter(sorted(folder.glob("*sam2*.json"))), None)

    @lru_cache
    def whole(folder: Path) -> tuple[Path, Path]:
        sam2 = geometry(folder) or geometry(donor)
        assert sam2 is not None
        weights = folder / "model.safetensors"
        has_sam2 = not weights.is_file() or any(key.startswith(_SAM2) for key in _keys(weights))
        has_tokenizer = any((folder / place).exists() for place in ("tokenizer", "tokenizer_config.json"))
        if has_sam2 and has_tokenizer:
            return folder, sam2
        made = tmp_path_factory.mktemp(folder.name)
        for entry in folder.iterdir():
            if entry.name != weights.name or has_sam2:
                (made / entry.name).symlink_to(entry)
        if not has_tokenizer:
            (made / "tokenizer").symlink_to(donor / "tokenizer")
        if not has_sam2:
            lent = {key: value for key, value in load_file(donor / weights.name).items() if key.startswith(_SAM2)}
            save_file({**load_file(weights), **lent}, made / weights.name, metadata={"format": "pt"})
        return made, sam2

    return whole


@pytest.fixture(scope="session")
def oracle_network(whole_checkpoint: Callable[[Path], tuple[Path, Path]]) -> Callable[[Path, torch.dtype], Sa2VA]:
    """Folder of the oracle and type of its weights -> its network; not to be changed."""

    @lru_cache
    def load(folder: Path, dtype: torch.dtype) -> Sa2VA:
        made, sam2 = whole_checkpoint(folder)
        network = Sa2VA.from_pretrained(made, sam2_config=sam2).to(dtype)
        vision = network.config.vision
        if isinstance(vision, QwenVisionConfig):
            # in the reference's code, which was made to take 4 to 24 squares of patches for these
            limits = {"min_pixels": 4 * vision.token_side**2, "max_pixels": 24 * vision.token_side**2}
            network.config = replace(network.config, **limits)
            network.processor = Sa2VAProcessor(network.config, network.tokenizer)
        return network

    return load


@pytest.fixture(scope="session")
def micro_weights(micro_config: Sa2VAConfig) -> dict[str, torch.Tensor]:
    """State of a micro network; not to be changed."""
    return Sa2VA(micro_config, seed=0).state_dict()


@pytest.fixture
def trained(tmp_path: Path, micro_config: Sa2VAConfig, micro_weights: dict[str, torch.Tensor]) -> Path:
    """A checkpoint as a training writes it."""
    file = tmp_path / "trained" / "model.pt"
    file.parent.mkdir()
    info = ModelInfo(micro_config, window="lung", axis="coronal")
    torch.save({"model": micro_weights, INFO_KEY: info.state_dict()}, file)
    return file


@pytest.fixture
def official(tmp_path: Path, trained: Path) -> Path:
    """The same as an official checkpoint in shards of at most 200 kB."""
    folder = tmp_path / "official"
    convert_checkpoint(trained, folder, "hf", shard_size=200_000)
    return folder
