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

"""Training and inference see the same grey values of the same slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from PIL import Image

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.slices import expand_slices
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter
from monai_sa2va.transforms.geometry import PlaneGeometry


class _Record(ImageInferer):
    """Keeps the pictures that the network would see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def __call__(self, inputs: Any, *_: Any) -> ImageResult:
        self.seen.append(inputs)
        masks, one = torch.zeros(1, *inputs.shape[1:], dtype=torch.bool), torch.ones(1)
        return ImageResult(masks, ["vessels"], [0], one, one, ["Sure."], [["vessels"]])


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


def _ct(path: Path, rng: np.random.Generator) -> None:
    """Slices of very different content, of which the first is air alone; thick ones, stored left to right."""
    values = rng.normal(40, 100, (9, 8, 4))
    values[..., 0] = rng.normal(-1000, 20, (9, 8))
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([0.8, 0.8, -5.0, 1.0])), path)


def _sagittal(path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 900, (3, 8, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([-4.0, 1.0, 1.0, 1.0])), path)


def _xray(path: Path, rng: np.random.Generator) -> None:
    """As dcm2niix writes it: a single coronal slice."""
    affine = np.array([[-0.2, 0, 0, 0], [0, 0, 1, 0], [0, 0.2, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(rng.integers(0, 4096, (7, 6, 1)).astype(np.int16), affine), path)


def _bytes(path: Path, rng: np.random.Generator) -> None:
    nib.save(nib.Nifti1Image(rng.integers(20, 120, (7, 6)).astype(np.uint8), np.eye(4)), path)


def _bytes_nrrd(path: Path, rng: np.random.Generator) -> None:
    header = {"space": "left-anterior-superior", "space directions": np.eye(3), "space origin": [0, 0, 0]}
    nrrd.write(str(path), rng.integers(20, 120, (7, 6, 3)).astype(np.uint8), header)


def _deep(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 4096, (7, 6)).astype(np.uint16)).save(path)


def _opacity(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 200, (7, 6, 4)).astype(np.uint8), "RGBA").save(path)


@pytest.mark.parametrize(
    ("name", "write", "window", "depth"),
    [
        ("ct.nii.gz", _ct, "auto", 4),
        ("ct.nii.gz", _ct, "soft_tissue", 4),
        ("mr.nii.gz", _sagittal, "auto", 3),
        ("xray.nii.gz", _xray, "auto", 1),
        ("bytes.nii", _bytes, "auto", 1),
        ("bytes.nrrd", _bytes_nrrd, "auto", 3),
        ("deep.png", _deep, "auto", 1),
        ("opacity.png", _opacity, "percentile", 1),
    ],
)
def test_train_json_and_segmenter_agree(
    repository: Path,
    network: Sa2VA,
    tmp_path: Path,
    rng: np.random.Generator,
    name: str,
    write: Callable[[Path, np.random.Generator], None],
    window: str,
    depth: int,
) -> None:
    path = tmp_path / name
    write(path, rng)
    record = _Record()
    segmenter = Segmenter(network, device="cpu", window=window, inferer=record)
    found = segmenter.segment(path, "vessels")
    order = [depth // 2, *(index for index in range(depth) if index != depth // 2)]
    inferred = dict(zip(order, record.seen, strict=True))

    parser = ConfigParser()
    parser.read_config(str(repository / "bundle" / "configs" / "train.json"))
    parser.update({"window": window, "image_loader#keys": "image"})
    for transform in parser.get("train")["deterministic_transforms"]:
        if isinstance(transform, dict):
            transform["keys"] = "image"
    transforms = Compose(parser.get_parsed_content("train#deterministic_transforms"))
    entries = expand_slices([{"image": str(path), "prompts": {"1": ["vessels"]}}], parser["axis"], keep="all")
    assert len(entries) == depth
    for entry in entries:
        trained = transforms(entry)
        number = entry.get("slice", 0)
        if found.source_grid.affine is not None and depth > 1:
            lps = PlaneGeometry.of_volume(found.source_grid.shape, found.source_grid.affine)
            number = lps.source_index(number)
        assert torch.equal(trained["image"].as_tensor(), inferred[number])
