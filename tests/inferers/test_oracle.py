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

"""Questions asked as users of the reference ask them, from raw pictures and text, against the reference's numbers."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from monai_sa2va.errors import PromptError
from monai_sa2va.inferers import tracking
from monai_sa2va.inferers.first_frames import FirstFramesInferer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter
from monai_sa2va.transforms.processor import Sa2VAProcessor

# case, type of SAM2's memory, of the network, and how far its mask logits, up to 62 in magnitude, may lie from the
# reference's; by the eighth frame float32 itself is off by 2e-4, of which the case in float64 is free
CASES = [
    ("image_1seg", "bfloat16", torch.float32, 1e-4),
    ("image_visual_prompt", "bfloat16", torch.float32, 1e-4),
    ("video_8f", "bfloat16", torch.float32, 5e-3),
    ("video_8f_mem_fp32", "float32", torch.float32, 3e-4),
    ("video_8f_mem_fp32", None, torch.float64, 1e-4),
]


@dataclass
class Case:
    """A case file of the oracle, and the arguments of ``predict_forward`` that ask the same."""

    tensors: dict[str, Tensor]
    told: dict[str, str]
    arguments: dict[str, Any]


@dataclass
class Seen:
    """What went through the network."""

    ids: list[Tensor] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    embeddings: list[Tensor] = field(default_factory=list)
    low_res: list[Tensor] = field(default_factory=list)
    final: list[Tensor] = field(default_factory=list)


@pytest.fixture(scope="module")
def network(oracle_dir: Path) -> Sa2VA:
    folder = oracle_dir / "internvl_qwen2"
    return Sa2VA.from_pretrained(folder, sam2_config=folder / "sam2_tiny.json")


def _case(oracle_dir: Path, name: str) -> Case:
    folder = oracle_dir / "internvl_qwen2"
    tensors = load_file(folder / f"{name}.safetensors")
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        told = file.metadata()
    arguments: dict[str, Any] = {"text": told["text"]}
    if "image" in tensors:
        arguments["image"] = Image.fromarray(tensors["image"].numpy())
    else:
        # the case of float32 memory is of the same frames
        frames = load_file(folder / "video_8f.safetensors")["frames"]
        arguments["video"] = [Image.fromarray(frame) for frame in frames.numpy()]
    if "mask_prompts" in tensors:
        arguments["mask_prompts"] = [tensors["mask_prompts"].numpy()]
    return Case(tensors, told, arguments)


@contextmanager
def _watched(network: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Note everything on its way, and change nothing."""
    seen = Seen()
    embed, decode = network.mllm.embed, network.grounding_encoder.sam2_model.decode
    upsample = tracking.upsample_mask_logits

    def note_embed(ids: Tensor, features: Any) -> Any:
        seen.ids.append(ids.clone())
        seen.embedded.append(embed(ids, features))
        return seen.embedded[-1]

    def note_decode(*arguments: Any) -> Any:
        found = decode(*arguments)
        seen.low_res.append(found.best()[0])
        return found

    def note_upsample(*arguments: Any) -> Tensor:
        seen.final.append(upsample(*arguments))
        return seen.final[-1]

    def note_projection(_: Any, inputs: Any, output: Tensor) -> None:
        seen.states.append(inputs[0])
        seen.embeddings.append(output)

    with monkeypatch.context() as patch:
        patch.setattr(network.mllm, "embed", note_embed)
        patch.setattr(network.grounding_encoder.sam2_model, "decode", note_decode)
        patch.setattr(tracking, "upsample_mask_logits", note_upsample)
        hook = network.text_hidden_fcs.register_forward_hook(note_projection)
        try:
            yield seen
        finally:
            hook.remove()


@contextmanager
def _speaking(network: Sa2VA, ids: Sequence[int]) -> Iterator[None]:
    """Make these the likeliest tokens, one after another: random weights would never say the oracle's answer."""
    left = list(ids)

    def prefer(_: Any, __: Any, logits: Tensor) -> Tensor:
        chosen = torch.zeros_like(logits)
        chosen[..., left.pop(0)] = 100.0
        return chosen

    hook = network.mllm.lm_head.register_forward_hook(prefer)
    try:
        yield
    finally:
        hook.remove()


def _far(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@pytest.mark.filterwarnings("ignore:region .* falls between")
@pytest.mark.parametrize(("name", "memory", "dtype", "atol"), CASES)
def test_the_references_numbers_from_raw_pictures_and_text(
    network: Sa2VA,
    oracle_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    memory: str | None,
    dtype: torch.dtype,
    atol: float,
) -> None:
    network = network if dtype == torch.float32 else copy.deepcopy(network).to(dtype)
    case = _case(oracle_dir, name)
    expected = case.tensors
    segmenter = Segmenter(network, "cpu", first_frames_inferer=FirstFramesInferer(memory_dtype=memory))
    with _watched(network, monkeypatch) as seen, _speaking(network, [*expected["output_ids"].tolist(), 1, 1]):
        found = segmenter.predict_forward(**case.arguments)
    assert found["prediction"] == case.told["prediction"]

    # the question was read at once, its answer token by token, up to the one that ends it
    if "in.input_ids" in expected:
        assert torch.equal(seen.ids[0], expected["in.input_ids"])
    assert torch.equal(torch.cat(seen.ids[1:], dim=1)[0], expected["output_ids"][:-1])
    assert _far(seen.embedded[0], expected["inputs_embeds"]) <= 1e-4
    assert _far(seen.states[0], expected["seg_hidden_states"]) <= 1e-4
    assert _far(seen.embeddings[0], expected["seg_embeds"]) <= 1e-4

    n_seg, frames = expected["masks"].shape[:2]
    low_res = torch.stack(seen.low_res, dim=1)
    context = min(frames, 5)
    assert _far(low_res[:, :context], expected["low_res_logits_cond"]) <= 1e-4
    assert _far(low_res.flatten(0, 1), expected["head_low_res"]) <= atol
    final = torch.cat(seen.final).unflatten(0, (frames, n_seg)).transpose(0, 1)
    # stored in float16, whose steps are 2^-10 of a number
    rounded = expected["mask_logits_final"].float()
    assert bool(((final - rounded).abs() <= atol + rounded.abs() * 2**-10).all())
    assert len(found["prediction_masks"]) == n_seg
    for mask, truth in zip(found["prediction_masks"], expected["masks"], strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, truth.numpy())


def test_an_answer_that_is_known_gives_the_same(network: Sa2VA, oracle_dir: Path) -> None:
    case = _case(oracle_dir, "video_8f")
    found = Segmenter(network, "cpu").predict_forward(**case.arguments, answer="Sure, it is [SEG].")
    assert found["prediction"] == case.told["prediction"]
    np.testing.assert_array_equal(found["prediction_masks"][0], case.tensors["masks"][0].numpy())


def test_a_list_of_images_is_asked_one_by_one(network: Sa2VA, oracle_dir: Path) -> None:
    case = _case(oracle_dir, "image_1seg")
    image = case.arguments["image"]
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found = Segmenter(network, "cpu").predict_forward([image, flipped], text=case.told["text"], answer="Sure, [SEG].")
    np.testing.assert_array_equal(found[0]["prediction_masks"][0], case.tensors["masks"][0].numpy())
    assert (found[1]["prediction_masks"][0] != found[0]["prediction_masks"][0]).any()


@torch.no_grad()
def test_generation_says_what_transformers_own_says(network: Sa2VA, oracle_dir: Path) -> None:
    case = _case(oracle_dir, "image_1seg")
    end = network.tokenizer.eos_token_id
    embedded = case.tensors["inputs_embeds"]
    expected = network.mllm.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    inferer = FirstFramesInferer(max_new_tokens=24)
    found = inferer.predict([case.arguments["image"]], network, case.told["text"])
    assert len(found.ids) == 24
    assert len(set(found.ids)) > 1
    assert list(found.ids) == expected[0].tolist()


def test_a_cine_in_the_known_answers_form(network: Sa2VA, oracle_dir: Path) -> None:
    """``context="first5"`` is the same way: its answer is the official one, of which the masks are equal."""
    case = _case(oracle_dir, "video_8f")
    segmenter = Segmenter(network, "cpu")
    found = segmenter.first_frames_inferer(case.arguments["video"], network, "Please segment the heart.")
    expected = segmenter.predict_forward(**case.arguments, answer="Sure, [SEG].")
    masks = torch.stack([result.masks[0] for result in found])
    assert masks.any()
    np.testing.assert_array_equal(masks.numpy(), expected["prediction_masks"][0])


def _whole(oracle_dir: Path, family: str, folder: Path) -> Sa2VA:
    """A network of which the oracle stores SAM2's weights, and maybe the tokenizer, beside another only."""
    own, other = oracle_dir / family, oracle_dir / "internvl_qwen2"
    if not own.is_dir():
        pytest.skip(f"the oracle has no {family}")
    shared = load_file(other / "model.safetensors")
    grounding = {key: value for key, value in shared.items() if key.startswith("grounding_encoder.")}
    save_file(load_file(own / "model.safetensors") | grounding, folder / "model.safetensors")
    tokenizer = own if (own / "tokenizer").is_dir() else other
    shutil.copytree(tokenizer / "tokenizer", folder / "tokenizer")
    shutil.copy(own / "config.json", folder)
    return Sa2VA.from_pretrained(folder, sam2_config=other / "sam2_tiny.json")


@torch.no_grad()
def test_a_question_to_internlm2(oracle_dir: Path, tmp_path: Path) -> None:
    """Its [SEG] state where the answer to a question in the reference's markup is known."""
    network = _whole(oracle_dir, "internvl_internlm2_vit6b", tmp_path)
    expected = load_file(oracle_dir / "internvl_internlm2_vit6b" / "forward.safetensors")
    asked = network.processor.question("<image>\nPlease segment the liver.", tiles=[1])
    ids = expected["input_ids"]
    assert torch.equal(ids[0, : len(asked)], asked)
    tokens = network.mllm.encode_image(expected["pixel_values"])
    language = network.language_embeddings(tokens, ids, torch.ones_like(ids))
    assert _far(language, expected["seg_embeds"]) <= 1e-4


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3vl"])
def test_a_picture_asked_of_qwen(
    oracle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    network = _whole(oracle_dir, family, tmp_path)
    # the oracle's pictures are 4 to 24 tokens
    config = replace(network.config, min_pixels=4 * 28 * 28, max_pixels=24 * 28 * 28)
    network.processor = Sa2VAProcessor(config, network.tokenizer)
    case = load_file(oracle_dir / family / "image_1seg.safetensors")
    with safe_open(oracle_dir / family / "image_1seg.safetensors", "pt") as file:
        told = file.metadata()
    image = Image.fromarray(case["image"].numpy())
    answer = case["output_ids"][case["in.input_ids"].shape[1] :]
    segmenter = Segmenter(network, "cpu")
    with _watched(network, monkeypatch) as seen, _speaking(network, answer.tolist()):
        found = segmenter.predict_forward(image=image, text=told["text"])
    assert found["prediction"] == told["prediction"]
    assert torch.equal(seen.ids[0], case["in.input_ids"])
    assert _far(seen.states[0], case["seg_hidden_states"]) <= 1e-4
    assert _far(seen.embeddings[0], case["seg_embeds"]) <= 1e-4
    assert _far(torch.stack(seen.low_res, dim=1), case["low_res_logits_cond"]) <= 1e-4
    np.testing.assert_array_equal(found["prediction_masks"][0], case["masks"][0].numpy())
    # as in the reference of these families a [SEG] of the question is drawn, too, and regions are not known
    twice = segmenter.predict_forward(image=image, text=told["text"] + " [SEG]", answer=told["answer"])
    assert len(twice["prediction_masks"]) == 2
    with pytest.raises(PromptError, match="mask_prompts are regions that InternVL's checkpoints know"):
        segmenter.predict_forward(image=image, text=told["text"], mask_prompts=[np.ones((1, *case["image"].shape[:2]))])
    cine = segmenter.predict_forward(video=[image] * 6, text=told["text"], answer=told["answer"])
    assert cine["prediction_masks"][0].shape == (6, *case["image"].shape[:2])
