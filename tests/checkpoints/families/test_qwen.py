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
from dataclasses import replace
from typing import Any

import pytest
import torch

from monai_sa2va.checkpoints.families import detect_family
from monai_sa2va.checkpoints.families.key_map import choose_layout
from monai_sa2va.checkpoints.families.qwen import Qwen3Family, Qwen25Family
from monai_sa2va.config import GroundingConfig, Sa2VAConfig
from monai_sa2va.errors import CheckpointError
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA

FAMILIES: dict[str, Any] = {"qwen2_5_vl": Qwen25Family(), "qwen3_vl": Qwen3Family()}


def _official(name: str = "qwen2_5_vl", **changes: Any) -> dict[str, Any]:
    """A config.json as the reference writes it; ``part__key`` changes a part, ``...`` takes a field away."""
    vision: dict[str, Any] = {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "in_channels": 3,
    }  # fmt: skip
    text = {
        "vocab_size": 267, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    if name == "qwen3_vl":
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": 16, "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]}}
    else:
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    whole: dict[str, Any] = {
        "model_type": "sa2va_chat", "template": "qwen_chat", "vision_config": vision, "text_config": text,
        "something_else": 7,
    }  # fmt: skip
    for key, value in changes.items():
        part, _, inner = key.rpartition("__")
        place = whole[part] if part else whole
        if value is ...:
            del place[inner]
        else:
            place[inner] = value
    return whole


def _read(official: dict[str, Any]) -> Sa2VAConfig:
    return detect_family(official).read_config(official, name="mine", tokenizer="bytes", grounding=GroundingConfig())


@pytest.mark.parametrize("name", FAMILIES)
def test_config_there_and_back(name: str, micro_qwens: dict[str, Sa2VAConfig]) -> None:
    official = _official(name)
    config = _read(official)
    assert config.family == name
    assert config.seg_state == ("pre_norm" if name == "qwen3_vl" else "post_norm")
    micro = micro_qwens[name]
    assert config.text == replace(micro.text, initializer_range=0.02)
    assert config.vision == replace(micro.vision, initializer_range=0.02)
    assert FAMILIES[name].write_config(config) == official
    assert Sa2VAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_of_its_own(name: str, micro_qwens: dict[str, Sa2VAConfig]) -> None:
    """Of a network that never had one: it says the same when it is read again."""
    micro = micro_qwens[name]
    written = json.loads(json.dumps(FAMILIES[name].write_config(micro)))
    read = _read(written)
    assert (read.text, read.vision, read.seg_state) == (micro.text, micro.vision, micro.seg_state)
    # the byte-level tokenizer's
    assert (written["image_token_id"], written["vision_start_token_id"], written["vision_end_token_id"]) == (
        261,
        259,
        260,
    )
    assert written["tie_word_embeddings"] is written["text_config"]["tie_word_embeddings"] is False


def test_older_and_newer_spellings_of_a_config() -> None:
    config = _read(_official())
    old = _official()
    old |= old.pop("text_config")
    new = _official()
    rope = {"rope_type": "default", "rope_theta": new["text_config"].pop("rope_theta"), "mrope_section": [2, 1, 1]}
    new["text_config"]["rope_parameters"] = rope
    del new["text_config"]["rope_scaling"]
    for official in (old, new):
        assert _read(official).text == config.text
        assert FAMILIES["qwen2_5_vl"].write_config(_read(official)) == official


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_there_and_back_in_both_spellings(name: str, micro_qwens: dict[str, Sa2VAConfig]) -> None:
    config = micro_qwens[name]
    with torch.device("meta"):
        state = Sa2VA(config).state_dict()
    family = FAMILIES[name]
    nested = family.layouts(config)[0].to_official(state)
    assert nested["model.model.visual.patch_embed.proj.weight"].shape == (32, 3, 2, 4, 4)
    assert nested["model.model.language_model.layers.1.mlp.up_proj.weight"].shape == (48, 32)
    assert "model.lm_head.weight" in nested
    flat = {
        key.replace("model.model.visual.", "model.visual.").replace(
            "model.model.language_model.", "model.model."
        ): value
        for key, value in nested.items()
    }
    assert "model.model.embed_tokens.weight" in flat
    assert "model.visual.merger" in "".join(flat)
    for official, spelling in ((nested, "nested/g_weight"), (flat, "flat/g_weight")):
        layout = choose_layout(family.layouts(config), official)
        assert layout.name == spelling
        native = layout.to_native(official)
        assert {key: value.shape for key, value in native.items()} == {key: v.shape for key, v in state.items()}
        assert set(layout.to_official(native)) == set(official)


@pytest.mark.parametrize("name", ["qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen3_vl_4b"])
def test_official_key_lists(name: str) -> None:
    """At full size: every key has a place, every place a key."""
    config = get_preset(name)
    with torch.device("meta"):
        state = Sa2VA(config).state_dict()
    official = FAMILIES[config.family].layouts(config)[0].to_official(state)
    assert len(official) == len(state) == {"qwen2_5_vl_3b": 1729, "qwen2_5_vl_7b": 1633, "qwen3_vl_4b": 1618}[name]
    starts = {key.split(".")[0] for key in official}
    assert starts == {"model", "grounding_encoder", "text_hidden_fcs"}
    assert len([key for key in official if key.startswith("grounding_encoder.")]) == 900


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config__depth": ...}, r"config\.json has no vision_config\.depth"),
        ({"text_config__vocab_size": ...}, r"config\.json has no text_config\.vocab_size"),
        ({"text_config__rope_scaling": ...}, r"has no text_config\.rope_scaling\.mrope_section"),
        ({"text_config__rope_theta": ...}, r"has no text_config\.rope_theta"),
        (
            {"text_config__rope_scaling": {"type": "yarn"}},
            "rope_type of config.json is 'yarn'; this version reads default",
        ),
        ({"text_config__rope_scaling": {"mrope_section": [1, 1, 1]}}, r"mrope_section \[1, 1, 1\]; .* add up to 4"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings of config.json is True; this version reads False"),
        ({"text_config__hidden_act": "gelu"}, r"text_config\.hidden_act of config\.json is 'gelu'"),
        ({"vision_config__hidden_act": "gelu"}, r"vision_config\.hidden_act .* reads 'silu'"),
        ({"vision_config__out_hidden_size": 64}, r"vision_config\.out_hidden_size of config\.json is 64; .* 32"),
        ({"vision_config__window_size": 20}, r"config\.json: vision\.window_size 20 is no positive multiple of 8"),
        ({"vision_config__fullatt_block_indexes": ...}, "of no family that this version reads"),
        ({"template": "mistral"}, "template of config.json is 'mistral'"),
    ],
)
def test_refusals_name_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        _read(_official(**changes))
    assert "\n" not in str(error.value)


def test_a_network_that_its_config_cannot_tell(micro_qwens: dict[str, Sa2VAConfig]) -> None:
    config = replace(micro_qwens["qwen3_vl"], seg_state="post_norm")
    with pytest.raises(CheckpointError, match=r"config\.json can't say seg_state of this network"):
        FAMILIES["qwen3_vl"].write_config(config)
