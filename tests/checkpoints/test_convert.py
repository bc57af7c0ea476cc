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

"""Conversion both ways: bit by bit, whole or not at all, and every tensor with where it came from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from monai_sa2va.checkpoints.convert import convert_checkpoint
from monai_sa2va.checkpoints.info import stored
from monai_sa2va.errors import CheckpointError, ConfigError, OutputError
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter


def _all(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.glob("model*.safetensors") for key, value in load_file(file).items()}


def _bits(value: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return value.dtype, tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(_bits(first[key]) == _bits(second[key]) for key in first)


def test_there_and_back_of_every_oracle(
    checkpoint_folder: Path, whole_checkpoint: Callable[[Path], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Official -> bundle -> official: the same keys and bits, the same config.json, the same other files."""
    source, sam2 = whole_checkpoint(checkpoint_folder)
    bundle, back = tmp_path / "bundle", tmp_path / "back"
    convert_checkpoint(source, bundle, "bundle", sam2_config=sam2)
    convert_checkpoint(bundle, back, "hf", shard_size=1_000_000)
    assert len(list(back.glob("model-*.safetensors"))) > 1
    assert _equal(_all(back), _all(source))
    for name in ("config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        assert json.loads((back / name).read_text()) == json.loads((source / name).read_text())


def test_the_folder_may_be_moved_and_asked(official: Path, tmp_path: Path) -> None:
    convert_checkpoint(official, tmp_path / "bundle", "bundle")
    moved = tmp_path / "elsewhere" / "vessels"
    moved.parent.mkdir()
    (tmp_path / "bundle").rename(moved)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = Segmenter.from_pretrained(official, device="cpu").segment(picture, "Segment the vessels.")
    shutil.rmtree(official)
    assert sorted(path.name for path in moved.iterdir()) == ["model.safetensors", "official"]
    for built in (
        Segmenter.from_bundle(checkpoint=moved, device="cpu"),
        Segmenter.from_bundle(checkpoint=moved / "model.safetensors", device="cpu"),
        Segmenter.from_pretrained(moved / "model.safetensors", device="cpu"),
    ):
        found = built.segment(picture, "Segment the vessels.")
        np.testing.assert_array_equal(found.masks, expected.masks)
        np.testing.assert_array_equal(found.scores, expected.scores)
    # what the bundle's configs read
    assert stored(moved, "config", None)["tokenizer"] == str(moved / "official")
    assert stored(moved, "axis", None) == "coronal"


def test_where_tensors_came_from(official: Path, tmp_path: Path) -> None:
    done = convert_checkpoint(official, tmp_path / "bundle", "bundle")
    weights = load_file(tmp_path / "bundle" / "model.safetensors")
    assert {tensor.key: tensor.shape for tensor in done.tensors} == {k: tuple(v.shape) for k, v in weights.items()}
    origins = {tensor.key: tensor for tensor in done.tensors}
    key = "mllm.model.vision_tower.encoder.layer.0.attention.k_proj.bias"
    assert origins[key].source_keys == ("vision_model.encoder.layers.0.attn.qkv.bias",)
    index = json.loads((official / "model.safetensors.index.json").read_text())["weight_map"]
    assert origins[key].source_files == (index["vision_model.encoder.layers.0.attn.qkv.bias"],)
    assert str(origins[key]).startswith(f"{key} (32,) float32 <- vision_model.encoder.layers.0.attn.qkv.bias of model-")
    assert sum(number for _, number, _ in done.by_part()) == len(weights)
    back = convert_checkpoint(tmp_path / "bundle", tmp_path / "back", "hf")
    fused = next(tensor for tensor in back.tensors if tensor.key.endswith("layers.0.attn.qkv.bias"))
    assert [key.split(".")[-2] for key in fused.source_keys] == ["q_proj", "k_proj", "v_proj"]
    # what a config.json can't say goes beside it, and is said
    told = json.loads((tmp_path / "back" / "monai_sa2va.json").read_text())
    assert told.keys() == {"grounding", "projector_hidden", "answer_form", "max_tiles", "window", "axis"}
    assert back.remarks[0].startswith("monai_sa2va.json says grounding, projector_hidden")


def test_two_trainings_of_one_base_stay_two(
    official: Path, tmp_path: Path, micro_weights: dict[str, torch.Tensor]
) -> None:
    """No tensor of a conversion comes from anywhere but its source."""
    base = tmp_path / "base"
    convert_checkpoint(official, base, "bundle")
    trained = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        content = {
            key: value + torch.randn(value.shape, generator=generator) * 0.1 if value.ndim > 1 else value
            for key, value in micro_weights.items()
        }
        file = tmp_path / f"run{seed}.pt"
        config = Sa2VA.from_pretrained(base).config
        torch.save({"model": content, "info": {"config": config.to_dict()}}, file)
        folder = tmp_path / f"given{seed}"
        convert_checkpoint(file, folder, "hf")
        assert all(torch.equal(v, content[k]) for k, v in Sa2VA.from_pretrained(folder).state_dict().items())
        # the config.json of the base is theirs, too
        assert json.loads((folder / "config.json").read_text()) == json.loads((official / "config.json").read_text())
        trained.append(folder)
    first, second = (_all(folder) for folder in trained)
    differ = [key for key in first if not torch.equal(first[key], second[key])]
    assert set(differ) == {key for key, value in first.items() if value.ndim > 1}
    picture = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.equal(*(Sa2VA.from_pretrained(folder)(picture) for folder in trained))


def test_dtype(official: Path, tmp_path: Path) -> None:
    convert_checkpoint(official, tmp_path / "half", "hf", dtype="bfloat16")
    expected = {key: value.bfloat16() for key, value in _all(official).items()}
    assert _equal(_all(tmp_path / "half"), expected)


def test_other_layouts_are_given_back_as_they_came(official: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    convert_checkpoint(official, tmp_path / "one", "hf")
    shutil.copytree(tmp_path / "one", old)
    renamed = {key.replace(".g_weight", ".gamma"): value for key, value in _all(old).items()}
    save_file(renamed, old / "model.safetensors")
    assert Sa2VA.from_pretrained(old).config.origin["layout"] == "qwen2/gamma"  # type: ignore[index]
    convert_checkpoint(old, tmp_path / "bundle", "bundle")
    convert_checkpoint(tmp_path / "bundle", tmp_path / "back", "hf")
    assert _equal(_all(tmp_path / "back"), renamed)


def test_refusals(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="to is 'onnx'; give bundle or hf"):
        convert_checkpoint(official, tmp_path / "x", "onnx")
    with pytest.raises(OutputError, match="'official' is there already; name another folder, or remove it"):
        convert_checkpoint(official, official, "bundle")
    with pytest.raises(CheckpointError, match="and says SAM2's geometry itself; leave out sam2_config"):
        convert_checkpoint(tmp_path / "trained" / "model.pt", tmp_path / "x", "hf", sam2_config={})

    def full(*args: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr("monai_sa2va.checkpoints.forms.write_safetensors", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="the disk is full"):
        convert_checkpoint(official, tmp_path / "x", "bundle")
    # nothing is left of it
    assert sorted(tmp_path.iterdir()) == before


def test_an_official_folder_is_no_file_of_weights(official: Path) -> None:
    with pytest.raises(CheckpointError, match="monai-sa2va convert SRC DST --to bundle"):
        stored(official, "config", None)
