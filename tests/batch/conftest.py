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

"""Networks and DICOM trees for batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter


@pytest.fixture(scope="package")
def segmenter(micro_config: Sa2VAConfig) -> Segmenter:
    return Segmenter(Sa2VA(micro_config, seed=0), device="cpu")


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, str]]]:
    import csv

    def read(path: Path) -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    return read


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (10 + number, 12)).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder
