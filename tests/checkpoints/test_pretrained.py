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

"""Loading of checkpoints: streamed, strict, and refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError, ConfigError, Sa2VAError
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

INDEX = "model.safetensors.index.json"


def _tensors(network: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All that a network computes with: weights, buffers, and tensors that are plain attributes."""
    found = [*network.named_parameters(), *network.named_buffers()]
    for name, module in network.named_modules():
        found += [(f"{name}.{key}", value) for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
    return found


def test_an_official_folder_in_shards(
    official: Path, micro_config: Sa2VAConfig, micro_weights: dict[str, torch.Tensor]
) -> None:
    assert len(list(official.glob("model-*-of-*.safetensors"))) > 3
    network = Sa2VA.from_pretrained(official)
    assert not network.training
    assert all(torch.equal(value, micro_weights[key]) for key, value in network.state_dict().items())
    assert not [name for name, tensor in _tensors(network) if tensor.is_meta]
    assert all(parameter.requires_grad for parameter in network.parameters())
    # everything but where it came from
    told = {**network.config.to_dict(), "origin": None, "tokenizer": "bytes", "name": "micro"}
    assert told == micro_config.to_dict()
    # and it computes what the network does that was never on the meta device
    other = Sa2VA(micro_config, seed=0).eval()
    picture = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(picture), other(picture))


def test_dtype(official: Path, micro_weights: dict[str, torch.Tensor]) -> None:
    network = Sa2VA.from_pretrained(official, dtype="bfloat16")
    for key, value in network.state_dict().items():
        assert torch.equal(value, micro_weights[key].bfloat16()), key
    # positions stay precise
    assert network.language_model.rotary_emb.inv_freq.dtype == torch.float32
    segmenter = Segmenter.from_pretrained(official, dtype=torch.bfloat16, device="cpu")
    assert segmenter.segment(np.zeros((40, 60), np.uint8), "Segment the vessels.").masks.shape == (1, 40, 60)
    with pytest.raises(CheckpointError, match="dtype is 'int8'; give float32, bfloat16, float16"):
        Sa2VA.from_pretrained(official, dtype="int8")


def test_several_types_need_a_choice(official: Path) -> None:
    shard = next(iter(sorted(official.glob("*.safetensors"))))
    save_file({key: value.bfloat16() for key, value in load_file(shard).items()}, shard)
    with pytest.raises(CheckpointError, match=r"holds torch.bfloat16 and torch.float32; choose one with dtype"):
        Sa2VA.from_pretrained(official)
    assert Sa2VA.from_pretrained(official, dtype="float32").dtype == torch.float32


def test_a_checkpoint_brings_its_window_and_axis(official: Path, trained: Path) -> None:
    for path in (official, trained, trained.parent):
        segmenter = Segmenter.from_pretrained(path, device="cpu")
        assert segmenter.stack.axis == "coronal"
        # the lung window is -1350 to 150 HU
        assert segmenter.window(torch.tensor([[[-1350.0, 150.0]]])).tolist() == [[[0.0, 255.0]]]
    assert Segmenter.from_pretrained(official, device="cpu", axis="axial", window="auto").stack.axis == "axial"
    # the door of the command line
    assert Segmenter.from_bundle(checkpoint=official, device="cpu").stack.axis == "coronal"
    with pytest.raises(ConfigError, match="checkpoint is a folder, which says its network itself; leave out preset"):
        Segmenter.from_bundle(checkpoint=official, device="cpu", preset="tiny")


def _cut(folder: Path) -> None:
    shard = folder / "model-00002-of-00099.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def _edit_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    for key in [key for key in changes if changes[key] is None]:
        del index["weight_map"][key.replace("__", ".")]
    index["weight_map"].update({key: value for key, value in changes.items() if value is not None})
    (folder / INDEX).write_text(json.dumps(index))


def _rewrite(folder: Path, key: str, value: torch.Tensor | None) -> None:
    """Change, add or drop a tensor, and the index with it."""
    index = json.loads((folder / INDEX).read_text())
    shard = folder / index["weight_map"].pop(key, "model-00001-of-00099.safetensors")
    weights = {name: tensor for name, tensor in load_file(shard).items() if name != key}
    save_file(weights if value is None else {**weights, key: value}, shard)
    if value is not None:
        index["weight_map"][key] = shard.name
    (folder / INDEX).write_text(json.dumps(index))


def _edit_config(folder: Path, **changes: Any) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def _edit_part(folder: Path, part: str, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    _edit_config(folder, **{part: {**config[part], **changes}})


def _without_seg(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        file.write_text(file.read_text().replace("[SEG]", "[SEQ]"))


def _as_pickle(folder: Path) -> None:
    weights = {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _other_sam(folder: Path) -> None:
    _as_pickle(folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    renamed = {key.replace(".sam2_model.", ".detector."): value for key, value in weights.items()}
    save_file(renamed, folder / "model.safetensors")


LORA = "language_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, r"model-00002-of-\d+\.safetensors can't be read: cut short"),
        (
            lambda f: sorted(f.glob("*.safetensors"))[1].unlink(),
            r"index\.json names the shard model-00002-of-\d+\.safetensors, which is missing",
        ),
        (lambda f: _edit_index(f, **{"mlp1__0__weight": None}), r"is another checkpoint's: .*mlp1\.0\.weight"),
        (lambda f: _edit_index(f, extra="model-00001-of-00099.safetensors"), r"another checkpoint's: .*extra"),
        (lambda f: _edit_index(f, extra="../elsewhere.safetensors"), r"names '\.\./elsewhere\.safetensors'"),
        (lambda f: (f / INDEX).unlink(), f"but no {INDEX}"),
        (lambda f: (f / INDEX).write_text("{"), "can't be read as JSON"),
        (lambda f: shutil.copy(sorted(f.glob("*.safetensors"))[0], f / "model.safetensors"), "remove the one that"),
        (_as_pickle, r"as pickle only \(pytorch_model\.bin\); allow it with allow_pickle \(--allow-pickle\)"),
        (_without_seg, r"lacks the special token \[SEG\]"),
        (lambda f: _edit_config(f, model_type="internvl_chat"), "model_type of config.json is 'internvl_chat'"),
        (
            lambda f: _edit_config(f, llm_config=None, architectures=["Sa2VAChatModelPhi"]),
            r"config\.json is of no family that this version reads \(internvl, .*Sa2VAChatModelPhi",
        ),
        (lambda f: _edit_config(f, grounding_encoder="sam3"), "SAM 3"),
        (_other_sam, r"another grounding encoder than SAM 2, such as SAM 3 \(grounding_encoder\.detector\."),
        (lambda f: _rewrite(f, LORA, torch.zeros(2, 2)), "holds the LoRA key language_model.base_model"),
        (lambda f: _rewrite(f, "odd", torch.zeros(2)), r"1 keys unexpected \(odd\). Give the whole checkpoint"),
        (lambda f: _rewrite(f, "text_hidden_fcs.0.bias", None), r"1 keys missing \(text_hidden_fcs\.0\.bias\)"),
        (
            lambda f: _rewrite(f, "text_hidden_fcs.0.bias", torch.zeros(5)),
            r"text_hidden_fcs\.0\.bias \(5,\) instead of \(32,\)",
        ),
        (
            lambda f: _rewrite(f, "text_hidden_fcs.0.bias", torch.zeros(32, dtype=torch.int8)),
            r"1 keys of another type than the network's \(text_hidden_fcs\.0\.bias int8\)\. Give weights in decimals",
        ),
        (lambda f: (f / "tokenizer.json").write_text("[]"), "tokenizer .* can't be read"),
        (lambda f: (f / "config.json").unlink(), "there is no config.json"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json can't be read as JSON"),
        (lambda f: _edit_config(f, llm_config="x"), "llm_config of config.json is a str; an object is expected"),
        (lambda f: _edit_part(f, "llm_config", architectures=[["Qwen2ForCausalLM"]]), r"architectures .* is \['Qwen2"),
        (lambda f: _edit_part(f, "llm_config", hidden_size="32"), "config.json: text.hidden_size is '32'; give int"),
        (lambda f: _edit_part(f, "llm_config", rope_theta="far"), "config.json has a value of the wrong kind .*'far'"),
        (lambda f: _edit_part(f, "vision_config", patch_size=0), "config.json has a value of the wrong kind .*zero"),
        (lambda f: _edit_config(f, template=["qwen_chat"]), r"template of config.json is \['qwen_chat'\]"),
        (lambda f: (f / "monai_sa2va.json").write_text('{"presense": 1}'), "unknown key presense"),
    ],
)
def test_refused_in_one_line(official: Path, spoil: Any, message: str) -> None:
    # the number of shards is no matter here
    number = len(list(official.glob("*.safetensors")))
    for file in official.glob("*.safetensors"):
        file.rename(official / file.name.replace(f"of-{number:05d}", "of-00099"))
    (official / INDEX).write_text((official / INDEX).read_text().replace(f"of-{number:05d}", "of-00099"))
    spoil(official)
    with pytest.raises(Sa2VAError, match=message) as error:
        Sa2VA.from_pretrained(official)
    assert "\n" not in str(error.value)


def test_a_pickle_with_the_flag(official: Path, micro_weights: dict[str, torch.Tensor]) -> None:
    _as_pickle(official)
    network = Sa2VA.from_pretrained(official, allow_pickle=True)
    assert all(torch.equal(value, micro_weights[key]) for key, value in network.state_dict().items())
    key = "text_hidden_fcs.0.weight"
    weights = torch.load(official / "pytorch_model.bin", weights_only=True)
    for odd in (weights[key].to_sparse(), weights[key].to(torch.complex64), weights[key].to("meta")):
        torch.save({**weights, key: odd}, official / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=f"holds {key} as .*; give plain weights of a type among"):
            Sa2VA.from_pretrained(official, allow_pickle=True)
    torch.save({"model": torch.nn.Linear(1, 1)}, official / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors, of which no code is ever run"):
        Sa2VA.from_pretrained(official, allow_pickle=True)


def test_another_sam2(official: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Say SAM2's geometry with sam2_config \(--sam2-config\)"):
        Sa2VA.from_pretrained(official, sam2_config={})
    with pytest.raises(CheckpointError, match="sam2_config: unknown configuration key hiddden"):
        Sa2VA.from_pretrained(official, sam2_config={"hiddden": 1})


def test_what_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint '.*nothing'; give a folder"):
        Sa2VA.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="the checkpoint's path is empty; give a folder"):
        Sa2VA.from_pretrained("")
    with pytest.raises(CheckpointError, match=r"'a{40}'\.\.\. can't be looked for: "):
        Sa2VA.from_pretrained("a" * 5000)
    monkeypatch.chdir(tmp_path)

    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError

    monkeypatch.setattr("monai_sa2va.checkpoints.hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match=r"no folder 'owner/name' here, .*the hub \(ConnectionError\)"):
        Sa2VA.from_pretrained("owner/name")


def test_a_hub_id(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, "*.bin" in allow_patterns))
        return str(official)

    monkeypatch.setattr("monai_sa2va.checkpoints.hub.snapshot_download", snapshot)
    assert Sa2VA.from_pretrained("owner/name").config.tokenizer == str(official)
    # pickles are not even fetched
    assert asked == [("owner/name", False)]


def test_no_end_of_sequence(official: Path) -> None:
    file = official / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["eos_token"] = None
    file.write_text(json.dumps(settings))
    # what ends an answer in qwen_chat
    assert Sa2VA.from_pretrained(official).tokenizer.eos_token == "<|im_end|>"
    _edit_config(official, template="phi3_chat")
    with pytest.raises(ConfigError, match=r"has no end of sequence; set eos_token in its tokenizer_config\.json"):
        Sa2VA.from_pretrained(official)
