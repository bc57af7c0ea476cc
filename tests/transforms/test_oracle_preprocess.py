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

"""The reference's tile grids and fingerprints of its preprocessing, one for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_sa2va.transforms.grounding_image import GroundingImage
from monai_sa2va.transforms.tiles import TileImage, find_tile_grid


@pytest.fixture(scope="module")
def preprocess(oracle_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((oracle_dir / "preprocess" / "preprocess.json").read_text())
    return content


def test_all_grids(preprocess: dict[str, Any]) -> None:
    grids = preprocess["grids_w_h_i_j"]
    assert len(grids) == 219
    assert [[w, h, *find_tile_grid(w, h)] for w, h, _, _ in grids] == grids


def test_all_fingerprints(preprocess: dict[str, Any], oracle_dir: Path) -> None:
    assert len(preprocess["fingerprints"]) == 4
    for expected in preprocess["fingerprints"]:
        image = np.load(oracle_dir / "preprocess" / f"img_{expected['seed']}.npy")
        assert image.shape == (expected["h"], expected["w"], 3)
        assert int(image.sum(dtype=np.int64)) == expected["image_sum"]
        tiles = TileImage().tiles(image)
        assert len(tiles) == expected["n"]
        assert tiles.sum(axis=(1, 2, 3), dtype=np.int64).tolist() == expected["tile_sums"]
        assert tiles[:, 13, 200].tolist() == expected["tile_px"]
        square = GroundingImage().resize(image)
        assert int(square.sum(dtype=np.int64)) == expected["g1024_sum"]
        assert square[::256, ::256].reshape(-1, 3).tolist() == expected["g1024_px"]


def test_normalised_inputs_of_a_case(oracle_dir: Path) -> None:
    from safetensors.numpy import load_file

    case = load_file(oracle_dir / "internvl_qwen2" / "image_1seg.safetensors")
    np.testing.assert_allclose(TileImage(tile_size=56)(case["image"]), case["in.pixel_values"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(GroundingImage(256)(case["image"]), case["in.g_pixel_values"][0], rtol=0, atol=1e-6)
