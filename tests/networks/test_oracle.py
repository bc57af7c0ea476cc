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

"""The whole network against the reference's numbers, with the reference's weights under their new names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from monai_sa2va.config import GroundingConfig, Sa2VAConfig, TextConfig, VisionConfig
from monai_sa2va.networks.grounding import ObjectIndex
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.picture import IMAGENET_MEAN, IMAGENET_STD

ATOL = 1e-4

# in this order; after them the rows of attn.qkv are split, and those of wqkv
RENAMES = [
    (r"^vision_model\.", "mllm.model.vision_tower."),
    (r"encoder\.layers\.", "encoder.layer."),
    (r"class_embedding$", "cls_token"),
    (r"position_embedding$", "position_embeddings"),
    (r"patch_embedding\.", "patch_embeddings.projection."),
    (r"\.ls([12])$", r".lambda_\1"),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.attn\.", ".attention."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^mlp1\.0\.", "mllm.model.multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "mllm.model.multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "mllm.model.multi_modal_projector.linear_2."),
    (r"^language_model\.model\.", "mllm.model.language_model."),
    (r"^language_model\.(lm_head|output)\.", "mllm.lm_head."),
    (r"tok_embeddings", "embed_tokens"),
    (r"\.attention\.wo\.", ".self_attn.o_proj."),
    (r"feed_forward\.w1", "mlp.gate_proj"),
    (r"feed_forward\.w2", "mlp.down_proj"),
    (r"feed_forward\.w3", "mlp.up_proj"),
    (r"attention_norm", "input_layernorm"),
    (r"ffn_norm", "post_attention_layernorm"),
]


def _renamed(weights: dict[str, Tensor], heads: int, kv_heads: int) -> dict[str, Tensor]:
    result = {}
    for key, value in weights.items():
        if key.startswith("grounding_encoder."):
            result[key.replace(".g_weight", ".gamma")] = value
            continue
        for pattern, new in RENAMES:
            key = re.sub(pattern, new, key)
        if ".attention.qkv." in key:
            for name, rows in zip("qkv", value.chunk(3), strict=True):
                result[key.replace(".qkv.", f".{name}_proj.")] = rows
        elif ".attention.wqkv." in key:
            grouped = value.unflatten(0, (kv_heads, heads // kv_heads + 2, -1))
            for name, rows in (("q", grouped[:, :-2]), ("k", grouped[:, -2:-1]), ("v", grouped[:, -1:])):
                result[key.replace("attention.wqkv", f"self_attn.{name}_proj")] = rows.flatten(0, 2)
        else:
            result[key] = value
    return result


def _config(folder: Path, sam2: Path) -> Sa2VAConfig:
    read = json.loads((folder / "config.json").read_text())
    vision, text = read["vision_config"], read["llm_config"]
    rope = text["rope_scaling"]
    geometry = json.loads(sam2.read_text())
    return Sa2VAConfig(
        name="oracle",
        vision=VisionConfig(
            vision["hidden_size"],
            vision["num_hidden_layers"],
            vision["num_attention_heads"],
            vision["intermediate_size"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            norm_type=vision["norm_type"],
            qkv_bias=vision["qkv_bias"],
            qk_norm=vision["qk_normalization"],
            layer_norm_eps=vision["layer_norm_eps"],
        ),
        text=TextConfig(
            "qwen2" if text["architectures"][0] == "Qwen2ForCausalLM" else "llama",
            text["vocab_size"],
            text["hidden_size"],
            text["num_hidden_layers"],
            text["num_attention_heads"],
            text["num_key_value_heads"],
            text["intermediate_size"],
            max_position_embeddings=text["max_position_embeddings"],
            rope_theta=text["rope_theta"],
            rms_norm_eps=text["rms_norm_eps"],
            rope_scaling=rope and {"rope_type": rope["type"], "factor": rope["factor"]},
        ),
        grounding=GroundingConfig(
            image_size=geometry["image_size"],
            hidden_dim=geometry["hidden"],
            mem_dim=geometry["mem"],
            embed_dim=geometry["embed_dim"],
            num_heads=geometry["heads"],
            stages=tuple(geometry["stages"]),
            global_att_blocks=tuple(geometry["glob"]),
            window_spec=tuple(geometry["window_spec"]),
            window_pos_embed_bkg_spatial_size=tuple(geometry["bkg"]),
            feedforward_dim=geometry["dec_mlp"],
            iou_head_hidden_dim=geometry["iou_hidden"],
            memory_layers=geometry["mem_layers"],
            memory_feedforward_dim=geometry["mem_ffn"],
        ),
        template=read["template"],
        tokenizer=str(sam2.parent / "tokenizer"),
    )


def _load(folder: Path, sam2: Path) -> Sa2VA:
    config = _config(folder, sam2)
    weights = load_file(folder / "model.safetensors")
    if not any(key.startswith("grounding_encoder.") for key in weights):
        whole = load_file(sam2.parent / "model.safetensors")
        weights |= {key: value for key, value in whole.items() if key.startswith("grounding_encoder.")}
    network = Sa2VA(config)
    network.load_state_dict(_renamed(weights, config.text.num_attention_heads, config.text.num_key_value_heads))
    return network.eval()


@pytest.fixture(scope="module")
def network(oracle_dir: Path) -> Sa2VA:
    folder = oracle_dir / "internvl_qwen2"
    return _load(folder, folder / "sam2_tiny.json")


@pytest.fixture(scope="module")
def case(oracle_dir: Path) -> dict[str, Tensor]:
    return load_file(oracle_dir / "internvl_qwen2" / "image_1seg.safetensors")


def _teacher_forced(case: dict[str, Tensor]) -> Tensor:
    # the last generated token was never an input
    return torch.cat([case["in.input_ids"][0], case["output_ids"][:-1]])[None]


def _close(found: Tensor, expected: Tensor, atol: float = ATOL) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= atol)


@torch.no_grad()
def test_hidden_states(network: Sa2VA, case: dict[str, Tensor]) -> None:
    prompt = case["in.input_ids"]
    features = network.mllm.encode_image(case["in.pixel_values"])
    assert _close(network.mllm.embed(prompt, features), case["inputs_embeds"])
    ids = _teacher_forced(case)
    states = network.mllm.hidden_states(network.mllm.embed(ids, features), torch.ones_like(ids))
    assert _close(states[0], case["last_hidden_states"])


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
def test_mask_head(network: Sa2VA, case: dict[str, Tensor]) -> None:
    found = network.grounding_encoder(case["in.g_pixel_values"], case["seg_embeds"][None])
    assert _close(found.masks, case["head_low_res"])
    assert _close(found.object_scores, case["head_obj_scores"][:, 0])
    heads: list[Any] = []
    decoder = network.grounding_encoder.sam2_model.sam_mask_decoder
    hook = decoder.register_forward_hook(lambda *args: heads.append(args[2]))
    network.grounding_encoder(case["in.g_pixel_values"], case["seg_embeds"][None])
    hook.remove()
    assert _close(heads[0][1], case["head_ious"])


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


@torch.no_grad()
def test_memory_on_a_video(network: Sa2VA, oracle_dir: Path) -> None:
    """Five frames prompted by language, three drawn from them; memory in float32."""
    folder = oracle_dir / "internvl_qwen2"
    case = load_file(folder / "video_8f_mem_fp32.safetensors")
    pixels = load_file(folder / "video_8f.safetensors")["in.g_uint8"].float() / 255
    # the reference's constants are rounded to bfloat16
    mean, std = (torch.tensor(values).bfloat16().float().view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    sam2 = network.grounding_encoder.sam2_model
    bank = MemoryBank(max_conditioned=None)
    maps = sam2.image_features((pixels - mean) / std)
    for frame in range(8):
        mine = [level[frame : frame + 1] for level in maps]
        if frame < 5:
            found = sam2.decode(sam2.without_memory(mine), GroundingPrompts.of_language(case["seg_embeds"]))
        else:
            conditioned = sam2.attend(mine[-1], bank.entries(frame))
            found = sam2.decode([*mine[:-1], conditioned], GroundingPrompts.empty(1))
        masks, _ = found.best()
        # logits of up to 57 in magnitude
        assert _close(masks[0], case["head_low_res"][frame], 3e-4), frame
        assert _close(found.iou_scores[0], case["head_ious"][frame]), frame
        assert _close(found.object_scores, case["head_obj_scores"][frame]), frame
        assert _close(found.pointers[0], case["head_obj_ptrs"][frame]), frame
        memory = sam2.remember(mine[-1], masks, found.object_scores, found.pointers)
        if frame < 5:
            bank.condition(frame, memory)
        else:
            bank.add(frame, memory)


@torch.no_grad()
def test_internlm2_and_the_rms_norm_vision_tower(oracle_dir: Path) -> None:
    folder = oracle_dir / "internvl_internlm2_vit6b"
    network = _load(folder, oracle_dir / "internvl_qwen2" / "sam2_tiny.json")
    assert network.config.vision.qk_norm
    assert not network.config.vision.qkv_bias
    expected = load_file(folder / "forward.safetensors")
    features = network.mllm.encode_image(expected["pixel_values"])
    assert _close(features, expected["vit_embeds"][0])
    ids = expected["input_ids"]
    states = network.mllm.hidden_states(network.mllm.embed(ids, features), None)
    assert _close(states, expected["last_hidden_states"])
    assert _close(network.mllm.vocabulary_logits(states), expected["logits"])
    seg = states[ids == network.processor.seg_token_id]
    assert _close(seg, expected["seg_hidden_states"])
    assert _close(network.text_hidden_fcs(seg), expected["seg_embeds"])
