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

"""Key maps: both directions, fused rows, and official geometries at full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_sa2va.checkpoints.families import FAMILIES, detect_family, family_of
from monai_sa2va.checkpoints.families.key_map import FusedRows, KeyRule, Layout, choose_layout
from monai_sa2va.checkpoints.pretrained import build_without_memory
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError
from monai_sa2va.networks.presets import PRESETS, get_preset
from monai_sa2va.networks.sa2va import Sa2VA

QKV = Layout("qkv", [KeyRule("a.*.qkv.*", ("b.*.q.*", "b.*.k.*", "b.*.v.*"), FusedRows(1, (1, 1, 1)))])
OFFICIAL = [name for name in PRESETS if name not in ("tiny", "small") and PRESETS[name].family == "internvl"]


def test_fused_rows_are_shared_out_group_by_group() -> None:
    # two key-value heads with two queries each, one row a head
    rows = torch.arange(8.0).view(8, 1).expand(8, 3)
    queries, keys, values = FusedRows(2, (2, 1, 1)).split(rows)
    assert [part[:, 0].tolist() for part in (queries, keys, values)] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    assert torch.equal(FusedRows(2, (2, 1, 1)).join([queries, keys, values]), rows)
    with pytest.raises(CheckpointError, match=r"shape \(7,\) can't be shared out to 2 groups of 4"):
        FusedRows(2, (2, 1, 1)).split(torch.zeros(7))


def test_rules_both_ways() -> None:
    assert QKV.native("a.3.qkv.bias") == ("b.3.q.bias", "b.3.k.bias", "b.3.v.bias")
    assert QKV.official("b.3.v.bias") == "a.3.qkv.bias"
    assert QKV.native("a.3.4.qkv.bias") == ()  # * is one part between dots
    assert QKV.official("c.3.v.bias") is None
    fused = {"a.0.qkv.weight": torch.arange(12.0).view(6, 2)}
    native = QKV.to_native(fused)
    assert native["b.0.k.weight"].tolist() == [[4, 5], [6, 7]]
    assert torch.equal(QKV.to_official(native)["a.0.qkv.weight"], fused["a.0.qkv.weight"])
    with pytest.raises(CheckpointError, match="key a has no place in the layout 'qkv'"):
        QKV.split("a", torch.zeros(1))


def test_the_layout_is_found_by_its_keys() -> None:
    config = get_preset("sa2va_1b")
    layouts = FAMILIES["internvl"].layouts(config)
    fuser = "grounding_encoder.sam2_model.memory_encoder.fuser.layers.0."
    native = f"{fuser}gamma"
    for name, key in (("qwen2/g_weight", f"{fuser}g_weight"), ("qwen2/gamma", native)):
        found = choose_layout(layouts, [key, "mlp1.0.weight"])
        assert (found.name, found.native(key), found.official(native)) == (name, (native,), key)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_keys_of_every_geometry(name: str) -> None:
    config = get_preset(name)
    state = build_without_memory(Sa2VA, config).state_dict()
    layout = family_of(config).layout(config)
    official = layout.to_official(state)
    assert {key: value.shape for key, value in layout.to_native(official).items()} == {
        key: value.shape for key, value in state.items()
    }
    # a vision layer: 2 scales, and weights of qkv, proj, 2 norms and 2 of the MLP with their biases; of InternViT-6B
    # qkv and the norms have none, and queries and keys have a norm each
    vision = 13 if config.vision.qk_norm else 14
    text = 7 if config.text.model_type == "llama" else 12
    head = "language_model.output.weight" if config.text.model_type == "llama" else "language_model.lm_head.weight"
    for prefix, number in (
        ("vision_model.encoder.", vision * config.vision.num_hidden_layers),
        ("language_model.model.layers.", text * config.text.num_hidden_layers),
        ("mlp1.", 6),
        ("text_hidden_fcs.", 4),
        (head, 1),
    ):
        assert sum(key.startswith(prefix) for key in official) == number, prefix
    assert len([key for key in official if key.startswith("grounding_encoder.sam2_model.")]) == 900


def test_all_sam2_keys_at_full_size(oracle_dir: Path) -> None:
    lines = (oracle_dir / "keys_sam2_hiera_l_full.txt").read_text().splitlines()
    config = get_preset("sa2va_1b")
    official = family_of(config).layout(config).to_official(build_without_memory(Sa2VA, config).state_dict())
    prefix = "grounding_encoder.sam2_model."
    found = {
        (key.removeprefix(prefix), str(tuple(value.shape))) for key, value in official.items() if key.startswith(prefix)
    }
    assert len(lines) == 900
    assert found == {tuple(line.split("\t")) for line in lines}


@pytest.mark.parametrize("name", OFFICIAL)
def test_configuration_both_ways(name: str) -> None:
    config = get_preset(name)
    family = family_of(config)
    official = family.write_config(config)
    assert detect_family(official) is family
    told = family.read_config(official, name=name, tokenizer="bytes", grounding=config.grounding)
    assert told.origin == {"config": official}
    assert {**told.to_dict(), "origin": None} == config.to_dict()
    # a config.json that came with the weights is given back as it is, odd fields and all
    odd = {**official, "use_cache": True, "transformers_version": "4.57.0"}
    told = family.read_config(odd, name=name, tokenizer="bytes", grounding=config.grounding)
    assert family.write_config(told) == odd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "internvl_chat"}, "model_type of config.json is 'internvl_chat'; expected 'sa2va_chat'"),
        ({"llm_config": None, "drop": "llm_config"}, r"of no family that this version reads \(internvl"),
        ({"grounding_encoder": "sam3"}, "SAM 3"),
        ({"architectures": ["Sa2VASAM3Model"]}, "SAM 3"),
        ({"template": "vicuna"}, "template of config.json is 'vicuna'; known: qwen_chat, internlm2_chat, phi3_chat"),
        ({"select_layer": -4}, "select_layer of config.json is -4; this version reads -1"),
        ({"force_image_size": 224}, "force_image_size of config.json is 224, vision_config.image_size 448"),
        ({"drop": "downsample_ratio"}, "config.json has no downsample_ratio"),
        ({"llm_config": {"architectures": ["Phi3ForCausalLM"]}}, "llm_config.architectures of config.json is 'Phi3"),
        ({"vision_config": {"image_size": 448}}, "config.json has no vision_config.hidden_size"),
    ],
)
def test_a_config_json_that_cant_be_used(change: dict[str, Any], message: str) -> None:
    official = {**FAMILIES["internvl"].write_config(get_preset("sa2va_1b")), **change}
    official.pop(official.pop("drop", ""), None)
    with pytest.raises(CheckpointError, match=message):
        _read(official)


def _read(official: dict[str, Any]) -> Sa2VAConfig:
    grounding = get_preset("sa2va_1b").grounding
    return detect_family(official).read_config(official, name="x", tokenizer="bytes", grounding=grounding)
