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
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from monai_sa2va.config import GroundingConfig, Sa2VAConfig, TextConfig, VisionConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.qwen_config import Qwen3VisionConfig, Qwen25VisionConfig


def _values(**changes: Any) -> dict[str, Any]:
    """Of the smallest whole configuration; ``part__key`` changes a part."""
    values: dict[str, Any] = {
        "name": "mine",
        "vision": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
        "text": {
            "model_type": "qwen2", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64,
        },
    }  # fmt: skip
    for key, value in changes.items():
        part, _, inner = key.rpartition("__")
        (values.setdefault(part, {}) if part else values)[inner] = value
    return values


def test_defaults_are_the_official_ones() -> None:
    config = Sa2VAConfig.from_dict(_values())
    assert config.vision == VisionConfig(32, 1, 2, 64)
    assert config.text == TextConfig("qwen2", 300, 32, 1, 2, 1, 64)
    assert config.grounding == GroundingConfig()
    assert (config.grounding.image_size, config.grounding.mask_size) == (1024, 256)
    assert (config.template, config.answer_form, config.seg_state) == ("qwen_chat", "plain", "post_norm")
    assert (config.min_tiles, config.max_tiles, config.use_thumbnail) == (1, 12, True)
    # 448 / 14 = 32 patches a side, half of it after pixel shuffling
    assert config.tokens_per_tile == 256


def test_json_there_and_back(micro_config: Sa2VAConfig) -> None:
    assert Sa2VAConfig.from_dict(json.loads(json.dumps(micro_config.to_dict()))) == micro_config
    scaled = replace(micro_config.text, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    config = replace(micro_config, text=scaled, presence_threshold=0.5, presence_scale=2.0, presence_bias=-1.0)
    assert Sa2VAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_parts_may_be_objects(micro_config: Sa2VAConfig) -> None:
    values = {"name": "mine", "vision": micro_config.vision, "text": micro_config.text}
    assert Sa2VAConfig.from_dict(values).vision is micro_config.vision
    assert set(values) == {"name", "vision", "text"}


def test_frozen(micro_config: Sa2VAConfig) -> None:
    with pytest.raises(FrozenInstanceError):
        micro_config.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown configuration key colour; known: answer_form"),
        ({"text__colour": 1}, r"unknown configuration key text\.colour; known: head_dim"),
        ({"grounding__depth": 1}, r"unknown configuration key grounding\.depth"),
        ({"vision": {}}, "incomplete configuration vision: .*hidden_size"),
        ({"vision": None}, "vision is a NoneType; give a VisionConfig"),
        ({"grounding": [1]}, "grounding is a tuple; give a GroundingConfig"),
        ({"vision__hidden_size": "32"}, r"vision\.hidden_size is '32'; give int"),
        ({"vision__hidden_size": True}, r"vision\.hidden_size is True; give int"),
        ({"text__rms_norm_eps": "tiny"}, r"text\.rms_norm_eps is 'tiny'; give float"),
        ({"use_thumbnail": 1}, "use_thumbnail is 1; give bool"),
        ({"template": 3}, "template is 3; give str"),
        ({"vision__image_size": 450}, r"vision\.image_size 450 is no positive multiple of 14"),
        ({"vision__image_size": 42}, "vision.image_size / patch_size 3 is no positive multiple of 2"),
        ({"downsample_ratio": 0.0}, "vision.image_size / patch_size 32 is no positive multiple of 0"),
        ({"vision__hidden_size": 33}, r"vision\.hidden_size 33 is no positive multiple of 2"),
        ({"text__hidden_size": 0}, r"text\.hidden_size 0 is no positive multiple"),
        ({"text__num_key_value_heads": 3}, r"text\.num_attention_heads 2 is no positive multiple of 3"),
        ({"grounding__image_size": 1000}, r"grounding\.image_size 1000 is no positive multiple of 32"),
        ({"grounding__hidden_dim": 100}, r"grounding\.hidden_dim 100 is no positive multiple of 8"),
        ({"grounding__stages": [1, 2, 3]}, r"grounding\.stages and grounding\.window_spec need four numbers"),
        ({"grounding__global_att_blocks": [8]}, r"global_att_blocks has 8; .*none that opens a stage \(0, 2, 8, 44\)"),
        ({"grounding__global_att_blocks": [48]}, "has 48; it must be one of 48 blocks"),
        ({"grounding__stages": 4}, r"grounding\.stages is 4; give whole numbers from 1 on"),
        ({"grounding__stages": [1, 2, 0, 1]}, r"grounding\.stages is \(1, 2, 0, 1\)"),
        ({"grounding__global_att_blocks": None}, r"grounding\.global_att_blocks is None; give whole numbers from 0 on"),
        ({"grounding__window_spec": [8, "4", 16, 8]}, r"grounding\.window_spec is \(8, '4', 16, 8\)"),
        ({"grounding__window_pos_embed_bkg_spatial_size": [7]}, "bkg_spatial_size needs two numbers, rows and columns"),
        ({"grounding__num_heads": 0}, r"grounding\.num_heads is 0; give a whole number from 1 to 65536"),
        ({"grounding__num_heads": 10**9}, r"grounding\.num_heads is 1000000000"),
        ({"grounding__num_heads": 10}, r"grounding\.embed_dim 144 is no multiple of grounding\.num_heads, 10"),
        ({"grounding__embed_dim": -1}, r"grounding\.embed_dim is -1"),
        ({"grounding__mem_dim": 3}, r"grounding\.mem_dim 3 is no positive multiple of 4"),
        ({"grounding__mem_dim": 60}, r"grounding\.hidden_dim 256 is no multiple of grounding\.mem_dim, 60"),
        ({"grounding__memory_layers": 10**6}, r"grounding\.memory_layers is 1000000"),
        ({"vision__norm_type": "batch_norm"}, r"vision\.norm_type is 'batch_norm'; allowed: layer_norm, rms_norm"),
        ({"family": "llava"}, "family is 'llava'; allowed: internvl, qwen2_5_vl, qwen3_vl"),
        ({"answer_form": "long"}, "answer_form is 'long'; allowed: named, plain"),
        ({"seg_state": "first"}, "seg_state is 'first'; allowed: post_norm, pre_norm"),
        ({"grounding__click_mark": -1.0}, r"grounding\.click_mark is -1\.0; give 0 for none, or a number from 0"),
        ({"grounding__click_mark": float("nan")}, r"grounding\.click_mark is nan"),
        ({"grounding__click_mark": 1e-30}, r"grounding\.click_mark is 1e-30"),
        ({"presence_threshold": 2.0}, "presence_threshold is 2.0; give 0 to 1"),
        (
            {"presence_scale": 0.0},
            "presence_scale is 0.0 and presence_bias 0.0; give finite numbers, the scale above 0",
        ),
        ({"presence_bias": float("nan")}, "presence_bias nan"),
    ],
)
def test_refusals_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Sa2VAConfig.from_dict(_values(**changes))
    assert str(error.value).startswith("[CONFIG] ")
    assert "\n" not in str(error.value)


def _qwen(name: str, **changes: Any) -> dict[str, Any]:
    own = (
        {"window_size": 112, "full_attention_layers": [0]}
        if name == "qwen2_5_vl"
        else {"num_position_embeddings": 16, "deepstack_layers": [0]}
    )
    values = _values(family=name, text__rope_scaling={"mrope_section": [4, 2, 2]}, vision__hidden_size=32)
    values["vision"].update(own)
    for key, value in changes.items():
        part, _, inner = key.rpartition("__")
        (values[part] if part else values)[inner] = value
    return values


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_qwens_families(name: str) -> None:
    config = Sa2VAConfig.from_dict(_qwen(name))
    assert isinstance(config.vision, Qwen25VisionConfig if name == "qwen2_5_vl" else Qwen3VisionConfig)
    side = 14 if name == "qwen2_5_vl" else 16
    assert (config.vision.patch_size, config.vision.token_side) == (side, 2 * side)
    assert (config.min_pixels, config.max_pixels) == (401408, 1605632)
    # four patches make a token, and each token counts as a tile
    assert (config.tokens_per_tile, config.rows_per_tile) == (1, 4)
    assert Sa2VAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen2_5_vl", {"vision__image_size": 448}, r"unknown configuration key vision\.image_size"),
        ("qwen2_5_vl", {"vision": VisionConfig(32, 1, 2, 64)}, "vision is a VisionConfig; give a Qwen25VisionConfig"),
        ("qwen3_vl", {"vision__hidden_size": 36}, r"vision\.hidden_size 36 is no positive multiple of 8"),
        ("qwen3_vl", {"vision__merge_size": 0}, r"vision\.merge_size 0 is no positive multiple of 1"),
        ("qwen3_vl", {"vision__num_position_embeddings": 8}, "num_position_embeddings is 8; give a square number"),
        ("qwen3_vl", {"vision__deepstack_layers": [1]}, "deepstack_layers has 1; there are 1 layers, counted from 0"),
        ("qwen2_5_vl", {"vision__full_attention_layers": [-1]}, "full_attention_layers has -1"),
        ("qwen2_5_vl", {"vision__window_size": 100}, r"vision\.window_size 100 is no positive multiple of 28"),
        ("qwen2_5_vl", {"min_pixels": 783}, "min_pixels is 783 and max_pixels 1605632; give 784 or more"),
        ("qwen3_vl", {"max_pixels": 401407}, "min_pixels is 401408 and max_pixels 401407"),
        ("qwen3_vl", {"text__rope_scaling": None}, r"has the mrope_section \[\]; give three numbers that add up to 8"),
        ("qwen3_vl", {"text__head_dim": 32}, r"mrope_section \[4, 2, 2\]; .* add up to 16"),
        ("qwen2_5_vl", {"text__head_dim": 16}, r"text\.head_dim is 16, which qwen2_5_vl doesn't have"),
    ],
)
def test_refusals_of_qwens_families(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Sa2VAConfig.from_dict(_qwen(name, **changes))
    assert "\n" not in str(error.value)


def test_incomplete() -> None:
    with pytest.raises(ConfigError, match=r"incomplete configuration Sa2VAConfig: .*text"):
        Sa2VAConfig.from_dict({"name": "mine", "vision": _values()["vision"]})


def test_free_of_torch() -> None:
    code = "import sys, monai_sa2va.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", ["2", None, True, [2.0]])
def test_a_mark_that_is_no_number_is_refused(micro_config: Sa2VAConfig, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"grounding\.click_mark is .*; give 0 for none, or a number"):
        replace(micro_config, grounding=replace(micro_config.grounding, click_mark=value))
