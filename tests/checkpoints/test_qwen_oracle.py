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
"""Qwen's families from a picture and a sentence to masks, and read on, against the reference's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

ATOL = 1e-4
PROMPT = "Please segment the liver."


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3vl"])
def folder(request: pytest.FixtureRequest, oracle_dir: Path) -> Path:
    return oracle_dir / str(request.param)


@pytest.fixture(scope="module")
def network(folder: Path, oracle_network: Callable[[Path, torch.dtype], Sa2VA]) -> Sa2VA:
    return oracle_network(folder, torch.float32)


@pytest.fixture(scope="module")
def case(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "image_1seg.safetensors")


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= ATOL)


def test_prepared_as_the_reference_does(network: Sa2VA, case: dict[str, Tensor]) -> None:
    sample = network.processor.prompt(case["image"].numpy(), PROMPT)
    # prompt and answer, up to the token that ends it
    assert torch.equal(sample["input_ids"], case["output_ids"])
    for key in ("pixel_values", "image_grid_thw", "g_pixel_values"):
        assert torch.equal(sample[key], case[f"in.{key}"]), key


@torch.no_grad()
def test_read_in_two_pieces_as_chat_does(network: Sa2VA, case: dict[str, Tensor]) -> None:
    tokens = network.mllm.encode_image(case["in.pixel_values"], case["in.image_grid_thw"])
    prompt = case["in.input_ids"]
    first, cache, position = network.mllm.read(network.mllm.embed(prompt, tokens), None, 0)
    # the last generated token was never an input
    rest = case["output_ids"][None, prompt.shape[1] : -1]
    states, _, _ = network.mllm.read(network.mllm.embed(rest, None), cache, position)
    assert _close(first[0], case["last_hidden_states"][: prompt.shape[1]])
    assert _close(states[0], case["last_hidden_states"][prompt.shape[1] :])


@torch.no_grad()
def test_from_picture_and_sentence_to_masks(network: Sa2VA, case: dict[str, Tensor]) -> None:
    picture = case["image"].numpy()
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255
    logits = network(image, text=PROMPT)
    assert torch.equal(logits > 0, case["masks"])
    # kept in half precision there
    assert torch.allclose(logits, case["mask_logits_final"].float(), atol=0.05, rtol=1e-3)
    result = ImageInferer()(picture, network, PROMPT)
    assert torch.equal(result.masks, case["masks"][0])
    assert result.answers == ["Sure, [SEG]."]


def test_asked_as_users_of_the_reference_do(network: Sa2VA, folder: Path, case: dict[str, Tensor]) -> None:
    with safe_open(folder / "image_1seg.safetensors", "pt") as file:
        said = file.metadata()
    segmenter = Segmenter(network, device="cpu")
    found = segmenter.predict_forward(case["image"].numpy(), text=said["text"], answer="Sure, [SEG].<|im_end|>")
    assert found["prediction"] == said["prediction"]
    assert np.array_equal(np.stack(found["prediction_masks"]), case["masks"].numpy())
    # a video is up to five pictures, and its other frames are drawn from memory
    frames = np.stack([np.roll(case["image"].numpy(), 3 * number, axis=1) for number in range(7)])
    found = segmenter.predict_forward(video=frames, text=said["text"], answer="Sure, [SEG].<|im_end|>")
    assert [mask.shape for mask in found["prediction_masks"]] == [(7, 96, 128)]
    assert found["prediction_masks"][0].any()
