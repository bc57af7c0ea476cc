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

"""Official checkpoints that can't be used: one line and exit code 2, whatever the command, and nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from monai_sa2va.checkpoints.convert import convert_checkpoint
from monai_sa2va.checkpoints.info import INFO_KEY, ModelInfo
from monai_sa2va.cli.main import app
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA

INDEX = "model.safetensors.index.json"


@pytest.fixture
def official(tmp_path: Path, micro_config: Sa2VAConfig) -> Path:
    """A checkpoint in shards."""
    network = Sa2VA(micro_config, seed=0)
    torch.save({"model": network.state_dict(), INFO_KEY: ModelInfo(micro_config).state_dict()}, tmp_path / "trained.pt")
    convert_checkpoint(tmp_path / "trained.pt", tmp_path / "official", "hf", shard_size=200_000)
    return tmp_path / "official"


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def _truncated(folder: Path) -> None:
    shard = _shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-100])


def _missing_shard(folder: Path) -> None:
    _shards(folder)[1].unlink()


def _wrong_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    places = index["weight_map"]
    first, second = (next(key for key in places if places[key] == shard.name) for shard in _shards(folder)[:2])
    places[first], places[second] = places[second], places[first]
    (folder / INDEX).write_text(json.dumps(index))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights, whose files are gone then."""
    weights = {key: value for shard in _shards(folder) for key, value in load_file(shard).items()}
    for file in (*_shards(folder), folder / INDEX):
        file.unlink()
    return weights


def _pickle(folder: Path) -> None:
    torch.save(_weights(folder), folder / "pytorch_model.bin")


def _no_seg(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("[SEG]", "[SEQ]"))


def _config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        said = {**json.loads((folder / "config.json").read_text()), **changes}
        said = {key: value for key, value in said.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(said))

    return edit


def _sam3(folder: Path) -> None:
    weights = {key.replace(".sam2_model.", ".detector."): value for key, value in _weights(folder).items()}
    save_file(weights, folder / "model.safetensors")


def _lora(folder: Path) -> None:
    layer = "language_model.base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{layer}.lora_{side}.default.weight": torch.zeros(2, 2) for side in "AB"}
    save_file({**_weights(folder), **factors}, folder / "model.safetensors")


_SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated safetensors": (_truncated, r"\[CHECKPOINT\] model-00002-of-\d+\.safetensors can't be read: cut short"),
    "missing shard": (
        _missing_shard,
        r"\[CHECKPOINT\] .*names the shard model-00002-of-\d+\.safetensors, which is m",
    ),
    "wrong index": (_wrong_index, r"\[CHECKPOINT\] model\.safetensors\.index\.json is another checkpoint's: "),
    "pickle": (_pickle, r"\[CHECKPOINT\] .* as pickle only \(pytorch_model\.bin\); .* \(--allow-pickle\)"),
    "no [SEG]": (_no_seg, r"\[CONFIG\] tokenizer '.*' lacks the special token \[SEG\]"),
    "unknown family": (
        _config(llm_config=None, vision_config={}, architectures=["Sa2VAChatModelPhi"]),
        r"\[CHECKPOINT\] config\.json is of no family that this version reads .*Sa2VAChatModelPhi",
    ),
    "another model": (_config(model_type="llava"), r"\[CHECKPOINT\] model_type of config\.json is 'llava'"),
    "SAM3 by config": (_config(auto_map={"AutoModel": "modeling_sa2va_sam3.Sa2VA"}), r"\[CHECKPOINT\] .*with SAM 3"),
    "SAM3 by keys": (_sam3, r"\[CHECKPOINT\] .*another grounding encoder than SAM 2, such as SAM 3"),
    "LoRA without its config": (_lora, r"\[CHECKPOINT\] model\.safetensors holds the LoRA key .*nothing says how"),
}


@pytest.mark.parametrize("command", ["convert", "segment"])
@pytest.mark.parametrize(("spoil", "message"), _SPOILED.values(), ids=_SPOILED.keys())
def test_refused_in_one_line(
    official: Path, tmp_path: Path, command: str, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(official)
    out = tmp_path / "out"
    if command == "convert":
        words = [command, str(official), str(out), "--to", "bundle"]
    else:
        Image.new("L", (16, 12), 40).save(tmp_path / "eye.png")
        words = [command, str(tmp_path / "eye.png"), "-p", "vessels", "-o", str(out), "--checkpoint", str(official)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    lines = result.output.splitlines()
    assert len(lines) == 1, result.output
    assert re.match(f"error: {message}", lines[0]), lines[0]
    # no result, and no folder that a conversion began
    assert not [*out.rglob("*"), *tmp_path.glob(".out*")]


def test_a_pickle_is_read_where_it_is_allowed(official: Path, tmp_path: Path) -> None:
    _pickle(official)
    words = ["convert", str(official), str(tmp_path / "out"), "--to", "bundle", "--allow-pickle"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
