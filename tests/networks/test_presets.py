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

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.networks.grounding import GroundingEncoder
from monai_sa2va.networks.parts import PARTS, part_of
from monai_sa2va.networks.presets import PRESETS, get_preset
from monai_sa2va.networks.sa2va import Sa2VA

OFFICIAL = {
    # name: (millions of parameters as the MLLM's model card rounds them, and SAM2's; hidden size; vocabulary; template)
    "sa2va_1b": (938 + 224.4, 896, 151679, "qwen_chat"),
    "sa2va_4b": (3710 + 224.4, 2048, 151679, "phi3_chat"),
    "sa2va_8b": (8080 + 224.4, 4096, 92558, "internlm2_chat"),
    "sa2va_26b": (25500 + 224.4, 6144, 92558, "internlm2_chat"),
    "internvl3_2b": (2090 + 224.4, 1536, 151679, "qwen_chat"),
    "internvl3_8b": (7940 + 224.4, 3584, 151679, "qwen_chat"),
    "internvl3_14b": (15100 + 224.4, 5120, 151679, "qwen_chat"),
}


QWEN = {
    # name: (millions of parameters on the MLLM's model card, which counts one table of words; its words; our words;
    # hidden size; where [SEG] is read)
    "qwen2_5_vl_3b": (3754.622976, 151936, 151670, 2048, "post_norm"),
    "qwen2_5_vl_7b": (8292.166656, 152064, 151670, 3584, "post_norm"),
    "qwen3_vl_4b": (4437.815808, 151936, 151674, 2560, "pre_norm"),
}


def _meta(name: str) -> Sa2VA:
    with torch.device("meta"):
        return Sa2VA(name)


@pytest.mark.parametrize(("name", "limit", "side"), [("tiny", 6e6, 192), ("small", 30e6, 512)])
def test_small_presets_stay_small(name: str, limit: float, side: int) -> None:
    network = Sa2VA(name, seed=0)
    assert sum(p.numel() for p in network.parameters()) <= limit
    assert network.config.grounding.image_size == side
    # they are what a person trains: answers name their objects, no tokenizer has to be fetched
    assert (network.config.answer_form, network.config.tokenizer) == ("named", "bytes")
    assert network.text_hidden_fcs[0].out_features == 256
    picture = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network.eval()(picture).shape == (1, 1, 40, 60)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_geometry_without_memory(name: str) -> None:
    millions, hidden, vocabulary, template = OFFICIAL[name]
    network = _meta(name)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)
    assert shapes["mllm.model.language_model.embed_tokens.weight"] == (vocabulary, hidden)
    assert shapes["mllm.lm_head.weight"] == (vocabulary, hidden)
    assert shapes["text_hidden_fcs.0.weight"] == (hidden, hidden)
    assert shapes["text_hidden_fcs.0.bias"] == (hidden,)
    assert shapes["text_hidden_fcs.2.weight"] == (256, hidden)
    assert shapes["text_hidden_fcs.2.bias"] == (256,)
    assert network.mllm.lm_head.weight is not network.mllm.model.language_model.embed_tokens.weight
    config = network.config
    assert (config.template, config.answer_form, config.tokens_per_tile) == (template, "plain", 256)
    assert {part_of(key) for key, _ in network.named_parameters()} == set(PARTS)
    # preprocessing works although the weights are nowhere
    sample = network.processor.prompt(torch.zeros(3, 20, 20), "Segment the vessels.")
    assert sample["pixel_values"].shape == (1, 3, 448, 448)
    assert sample["g_pixel_values"].device.type == "cpu"


@pytest.mark.parametrize("name", QWEN)
def test_official_qwen_geometry_without_memory(name: str) -> None:
    millions, words, vocabulary, hidden, seg_state = QWEN[name]
    network = _meta(name)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    # the 7B's card counts a head of its own, too
    heads = 1 if name == "qwen2_5_vl_7b" else 0
    counted = sum(p.numel() for p in network.mllm.parameters()) - 2 * vocabulary * hidden + (1 + heads) * words * hidden
    assert counted == round(millions * 1e6)
    assert shapes["mllm.model.language_model.embed_tokens.weight"] == (vocabulary, hidden)
    assert shapes["mllm.lm_head.weight"] == (vocabulary, hidden)
    assert shapes["text_hidden_fcs.0.weight"] == (hidden, hidden)
    assert len([key for key in shapes if key.startswith("grounding_encoder.")]) == 900
    config = network.config
    assert (config.seg_state, config.template, config.answer_form) == (seg_state, "qwen_chat", "plain")
    assert (config.min_pixels, config.max_pixels) == (401408, 1605632)
    assert {part_of(key) for key, _ in network.named_parameters()} == set(PARTS)
    # 512 x 512 lies between 512 and 2048 squares of 28 only after it has grown
    sample = network.processor.prompt(torch.zeros(3, 512, 512), "Segment the vessels.")
    side = 46 if config.family == "qwen2_5_vl" else 40
    assert sample["image_grid_thw"].tolist() == [[1, side, side]]
    assert sample["pixel_values"].shape == (side * side, 1176 if config.family == "qwen2_5_vl" else 1536)
    assert sample["pixel_values"].device.type == "cpu"


def test_projector_meets_the_mllm_and_sam2() -> None:
    for preset in PRESETS.values():
        network = _meta(preset.name)
        first, last = network.text_hidden_fcs[0], network.text_hidden_fcs[2]
        assert first.in_features == preset.text.hidden_size
        assert last.out_features == preset.grounding.hidden_dim
        vision = network.vision_tower.config
        assert vision.hidden_size == preset.vision.hidden_size
        if preset.family == "internvl":
            projector = network.mllm.model.multi_modal_projector
            assert projector.layer_norm.normalized_shape == (4 * vision.hidden_size,)
        else:
            assert vision.out_hidden_size == preset.text.hidden_size


def test_internvit_6b() -> None:
    shapes = {key: tuple(value.shape) for key, value in _meta("sa2va_26b").state_dict().items()}
    layer = "mllm.model.vision_tower.encoder.layer.44."
    assert shapes[f"{layer}attention.q_proj.weight"] == (3200, 3200)
    assert f"{layer}attention.q_proj.bias" not in shapes
    assert shapes[f"{layer}attention.q_norm.weight"] == (3200,)
    assert shapes[f"{layer}attention.k_norm.weight"] == (3200,)
    assert shapes[f"{layer}layernorm_before.weight"] == (3200,)
    assert f"{layer}layernorm_before.bias" not in shapes
    assert shapes[f"{layer}mlp.fc1.weight"] == (12800, 3200)
    assert "mllm.model.vision_tower.encoder.layer.45.mlp.fc1.weight" not in shapes

    small = {key: tuple(value.shape) for key, value in _meta("sa2va_8b").state_dict().items()}
    layer = "mllm.model.vision_tower.encoder.layer.23."
    assert small[f"{layer}attention.q_proj.bias"] == (1024,)
    assert small[f"{layer}layernorm_before.bias"] == (1024,)
    assert f"{layer}attention.q_norm.weight" not in small


def test_sam2_keys_are_the_official_ones(oracle_dir: Path) -> None:
    lines = (oracle_dir / "keys_sam2_hiera_l_full.txt").read_text().splitlines()
    expected = {
        key: tuple(json.loads(f"[{shape.strip('(),')}]")) for key, shape in (line.split("\t") for line in lines)
    }
    expected = {key.replace(".g_weight", ".gamma"): shape for key, shape in expected.items()}
    assert len(expected) == 900
    state = _meta("sa2va_1b").grounding_encoder.sam2_model.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def test_building_hiera_leaves_the_random_weights_alone() -> None:
    # linspace is kept off the meta device by a torch function mode, which must not touch anything else
    first, second, other = (Sa2VA("tiny", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    key = "grounding_encoder.sam2_model.image_encoder.trunk.blocks.0.attn.qkv.weight"
    assert not torch.equal(first[key], other[key])


def test_presets_survive_json() -> None:
    for preset in PRESETS.values():
        assert Sa2VAConfig.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'huge'; presets: tiny, small, sa2va_1b"):
        get_preset("huge")


def test_geometry_without_memory_where_cuda_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # sam2 moves a table to the first CUDA device while it is built
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch.device("meta"):
        network = GroundingEncoder(get_preset("tiny").grounding)
    assert all(parameter.is_meta for parameter in network.parameters())
