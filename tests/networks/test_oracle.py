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

"""The network's own doors against the reference's numbers; tests/checkpoints runs every case part by part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from monai_sa2va.networks.grounding import ObjectIndex
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.picture import IMAGENET_MEAN, IMAGENET_STD

ATOL = 1e-4


@pytest.fixture(scope="module")
def network(oracle_dir: Path) -> Sa2VA:
    folder = oracle_dir / "internvl_qwen2"
    return Sa2VA.from_pretrained(folder, sam2_config=folder / "sam2_tiny.json")


@pytest.fixture(scope="module")
def case(oracle_dir: Path) -> dict[str, Tensor]:
    return load_file(oracle_dir / "internvl_qwen2" / "image_1seg.safetensors")


def _teacher_forced(case: dict[str, Tensor]) -> Tensor:
    # the last generated token was never an input
    return torch.cat([case["in.input_ids"][0], case["output_ids"][:-1]])[None]


def _close(found: Tensor, expected: Tensor, atol: float = ATOL) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= atol)


@torch.no_grad()
def test_from_tokens_to_masks(network: Sa2VA, case: dict[str, Tensor]) -> None:
    ids = _teacher_forced(case)
    output = network(
        {
            "pixel_values": case["in.pixel_values"],
            "g_pixel_values": case["in.g_pixel_values"],
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "frames_per_batch": [1],
        }
    )
    assert _close(output["seg_states"], case["seg_hidden_states"])
    assert _close(network.text_hidden_fcs(output["seg_states"]), case["seg_embeds"])
    assert _close(output["pred_masks"], case["low_res_logits_cond"])
    assert output["object_scores"].item() == pytest.approx(case["head_obj_scores"].item(), abs=ATOL)
    assert output["iou_scores"].item() == pytest.approx(case["head_ious"].max().item(), abs=ATOL)
    large = F.interpolate(output["pred_masks"], size=(256, 256), mode="bilinear", align_corners=False)
    assert _close(large, case["mask_logits_sam_size"])
    final = F.interpolate(large, size=case["image"].shape[:2], mode="bilinear", align_corners=False)
    assert torch.equal(final > 0, case["masks"])


@torch.no_grad()
def test_from_picture_and_sentence_to_masks(network: Sa2VA, case: dict[str, Tensor]) -> None:
    picture = case["image"].numpy()
    sample = network.processor.prompt(picture, "Please segment the liver.")
    # the answer of an official checkpoint, up to the token that ends it
    assert torch.equal(sample["input_ids"], torch.cat([case["in.input_ids"][0], case["output_ids"]]))
    assert torch.equal(sample["pixel_values"], case["in.pixel_values"])
    assert torch.equal(sample["g_pixel_values"], case["in.g_pixel_values"])
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255
    logits = network(image, text="Please segment the liver.")
    assert torch.equal(logits > 0, case["masks"])


@torch.no_grad()
def test_training_path_of_several_frames_and_objects(network: Sa2VA, oracle_dir: Path) -> None:
    numbers = load_file(oracle_dir / "losses" / "losses.safetensors")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = (numbers["train_u8"].float() / 255 - mean) / std
    tokens = numbers["train_lang"][:, 0]
    # two frames of two objects each, with a token for each object of each frame
    index = ObjectIndex(*(torch.tensor(column) for column in ([0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 2, 3])))
    encoder = network.grounding_encoder
    found = encoder.decode(encoder.encode(images), tokens, index)
    assert _close(found.masks.unflatten(0, (2, 2)), numbers["train_low_res"])
