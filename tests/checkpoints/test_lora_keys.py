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

"""LoRA that was stored beside the weights: merged where a config says how, else refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from monai_sa2va.checkpoints.convert import convert_checkpoint
from monai_sa2va.checkpoints.source import open_checkpoint
from monai_sa2va.errors import CheckpointError
from monai_sa2va.networks.sa2va import Sa2VA

RANK = 2
QUERIES = "language_model.model.layers.0.self_attn.q_proj"
FUSED = "vision_model.encoder.layers.0.attn.qkv"


def _wrapped(key: str, part: str, targets: tuple[str, ...]) -> str:
    """As ``get_peft_model`` on one part of the reference's network renames a key of its state."""
    if not key.startswith(part):
        return key
    layer, _, name = key.removeprefix(part).rpartition(".")
    base = "base_layer." if layer.endswith(targets) else ""
    return f"{part}base_model.model.{layer}.{base}{name}"


@pytest.fixture
def with_lora(official: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Puts LoRA beside the weights of ``official``, in one file; gives the weights as they are once it is merged."""

    def put(part: str, targets: tuple[str, ...], scale: float = 2.0, **config: Any) -> dict[str, torch.Tensor]:
        shards = sorted(official.glob("*.safetensors"))
        weights = {key: value for file in shards for key, value in load_file(file).items()}
        for file in [*shards, official / "model.safetensors.index.json"]:
            file.unlink()
        merged, stored = dict(weights), {_wrapped(key, part, targets): value for key, value in weights.items()}
        generator = torch.Generator().manual_seed(0)
        for key, value in weights.items():
            layer = key.removesuffix(".weight")
            if key.startswith(part) and layer.endswith(targets) and layer != key:
                a = torch.randn(RANK, value.shape[1], generator=generator)
                b = torch.randn(value.shape[0], RANK, generator=generator)
                name = f"{part}base_model.model.{layer.removeprefix(part)}.lora"
                stored |= {f"{name}_A.default.weight": a, f"{name}_B.default.weight": b}
                merged[key] = value + scale * (b @ a)
        save_file(stored, official / "model.safetensors")
        said = json.loads((official / "config.json").read_text())
        (official / "config.json").write_text(json.dumps({**said, **config}))
        return merged

    return put


def _adapter_config(folder: Path, **values: Any) -> None:
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "use_dora": False, "rank_pattern": {}, **values}
    (folder / "adapter_config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("part", "targets", "field", "key"),
    [
        ("language_model.", ("q_proj", "v_proj", "down_proj"), "use_llm_lora", QUERIES),
        ("vision_model.", ("attn.qkv", "mlp.fc1"), "use_backbone_lora", FUSED),
    ],
)
def test_merged_by_the_config_of_the_checkpoint(
    official: Path,
    with_lora: Callable[..., dict[str, torch.Tensor]],
    tmp_path: Path,
    part: str,
    targets: tuple[str, ...],
    field: str,
    key: str,
) -> None:
    before = open_checkpoint(official).weights.tensor(f"{key}.weight").clone()
    # the reference takes twice the rank as alpha
    expected = with_lora(part, targets, **{field: RANK})
    source = open_checkpoint(official)
    assert set(source.weights) == expected.keys()
    assert not torch.allclose(expected[f"{key}.weight"], before, atol=0.1)
    for name, value in expected.items():
        torch.testing.assert_close(source.weights.tensor(name), value, atol=1e-6, rtol=0)
    native = source.layout.to_native(expected)
    for name, value in Sa2VA.from_pretrained(official).state_dict().items():
        torch.testing.assert_close(value, native[name], atol=1e-6, rtol=0)
    # what is handed on holds no LoRA, nor says so
    done = convert_checkpoint(official, tmp_path / "merged", "hf")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())[field] == 0
    origin = next(tensor for tensor in done.tensors if tensor.key == f"{key}.weight")
    inner = f"{part}base_model.model.{key.removeprefix(part)}"
    assert origin.source_keys == tuple(
        f"{inner}.{name}.weight" for name in ("base_layer", "lora_A.default", "lora_B.default")
    )
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(written[name], source.weights.tensor(name)) for name in expected)


def test_merged_by_the_config_of_peft(
    official: Path, with_lora: Callable[..., dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    expected = with_lora("language_model.", ("q_proj",), scale=1.5)
    _adapter_config(official)
    weights = open_checkpoint(official).weights
    torch.testing.assert_close(weights.tensor(f"{QUERIES}.weight"), expected[f"{QUERIES}.weight"], atol=1e-6, rtol=0)
    assert weights.files[f"{QUERIES}.weight"] == "model.safetensors"
    convert_checkpoint(official, tmp_path / "merged", "hf")
    # transformers would look for the adapter
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_modules_that_peft_trained_whole_replace_their_originals(
    official: Path, with_lora: Callable[..., dict[str, torch.Tensor]]
) -> None:
    with_lora("language_model.", ("q_proj",), use_llm_lora=RANK)
    weights = load_file(official / "model.safetensors")
    head = "language_model.base_model.model.lm_head"
    original = weights.pop(f"{head}.weight")
    weights |= {f"{head}.original_module.weight": original, f"{head}.modules_to_save.default.weight": original + 1}
    save_file(weights, official / "model.safetensors")
    found = open_checkpoint(official).weights
    assert torch.equal(found.tensor("language_model.lm_head.weight"), original + 1)
    assert torch.equal(Sa2VA.from_pretrained(official).mllm.lm_head.weight, original + 1)


def test_bfloat16_is_added_in_float32(official: Path, with_lora: Callable[..., dict[str, torch.Tensor]]) -> None:
    with_lora("language_model.", ("q_proj",), use_llm_lora=RANK)
    halves = {key: value.bfloat16() for key, value in load_file(official / "model.safetensors").items()}
    save_file(halves, official / "model.safetensors")
    inner = "language_model.base_model.model.model.layers.0.self_attn.q_proj"
    names = ("base_layer", "lora_A.default", "lora_B.default")
    base, a, b = (halves[f"{inner}.{name}.weight"].float() for name in names)
    found = open_checkpoint(official).weights.tensor(f"{QUERIES}.weight")
    assert torch.equal(found, (base + 2 * (b @ a)).bfloat16())


def test_these_are_the_names_that_peft_gives() -> None:
    peft = pytest.importorskip("peft")

    def model() -> torch.nn.Module:
        return torch.nn.ModuleDict({"q_proj": torch.nn.Linear(3, 3), "norm": torch.nn.LayerNorm(3)})

    wrapped = peft.get_peft_model(model(), peft.LoraConfig(r=RANK, target_modules=["q_proj"])).state_dict()
    own = {_wrapped(f"p.{key}", "p.", ("q_proj",)) for key in model().state_dict()}
    factors = {f"p.base_model.model.q_proj.lora_{side}.default.weight" for side in "AB"}
    assert {f"p.{key}" for key in wrapped} == own | factors


@pytest.mark.parametrize(
    ("config", "peft", "message"),
    [
        ({}, None, r"model\.safetensors holds the LoRA key language_model\.base_model.*, and nothing says how"),
        ({"use_llm_lora": 0}, None, "and nothing says how it is applied"),
        ({"use_backbone_lora": RANK}, None, "and nothing says how it is applied"),
        ({"use_llm_lora": 3}, None, r"q_proj\.weight isn't of rank 3, as its config says"),
        ({"use_llm_lora": True}, None, r"use_llm_lora of config\.json is no number above 0"),
        ({"use_llm_lora": -1}, None, r"use_llm_lora of config\.json is no number above 0"),
        ({}, {"r": None}, r"r or lora_alpha of adapter_config\.json is no number above 0"),
        ({}, {"lora_alpha": math.inf}, r"r or lora_alpha of adapter_config\.json is no number above 0"),
        ({}, {"lora_alpha": "16"}, r"r or lora_alpha of adapter_config\.json is no number above 0"),
        ({}, {"use_rslora": True}, r"use_rslora of adapter_config\.json is True, which this version can't merge"),
        ({}, {"rank_pattern": {"q_proj": 4}}, r"rank_pattern of adapter_config\.json is \{'q_proj': 4\}"),
        ({}, {"peft_type": "LOHA"}, r"peft_type of adapter_config\.json is 'LOHA'"),
    ],
)
def test_refused_without_a_config_that_fits(
    official: Path,
    with_lora: Callable[..., dict[str, torch.Tensor]],
    config: dict[str, Any],
    peft: dict[str, Any] | None,
    message: str,
) -> None:
    with_lora("language_model.", ("q_proj",), **config)
    if peft is not None:
        _adapter_config(official, **peft)
    with pytest.raises(CheckpointError, match=message) as error:
        Sa2VA.from_pretrained(official)
    assert "\n" not in str(error.value)


_INNER = "language_model.base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{_INNER}.lora_B.default.weight": None}, r"holds no weight, A and B of LoRA for .*q_proj\.weight"),
        ({f"{_INNER}.base_layer.weight": None}, r"holds no weight, A and B of LoRA for .*q_proj\.weight"),
        ({f"{_INNER}.lora_A.other.weight": (RANK, 4)}, r"holds several LoRAs of .*q_proj\.weight"),
        ({f"{_INNER}.lora_A.default.weight": (RANK, 5)}, "isn't of rank 2, as its config says, or of another weight"),
        (
            {f"{_INNER}.lora_magnitude_vector.default.weight": (4,)},
            "lora_magnitude_vector.*, which this version can",
        ),
        ({f"{QUERIES}.weight": (4,)}, "are of one tensor"),
    ],
)
def test_lora_that_is_not_whole(
    official: Path,
    with_lora: Callable[..., dict[str, torch.Tensor]],
    change: dict[str, tuple[int, ...] | None],
    message: str,
) -> None:
    with_lora("language_model.", ("q_proj",), use_llm_lora=RANK)
    weights = load_file(official / "model.safetensors")
    for key, shape in change.items():
        if shape is None:
            del weights[key]
        else:
            weights[key] = torch.zeros(shape)
    save_file(weights, official / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(official)


def test_an_adapter_without_its_base(official: Path) -> None:
    for file in [*official.glob("*.safetensors"), official / "model.safetensors.index.json"]:
        file.unlink()
    save_file({f"{_INNER}.lora_A.weight": torch.zeros(2, 4)}, official / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"the folder 'official' holds a peft adapter, which is no whole checkp"):
        Sa2VA.from_pretrained(official)
