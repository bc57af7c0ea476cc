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

"""Adapters: whole, bound to their base, merged exactly; two trainings of one base give two models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from monai_sa2va.checkpoints.adapters import apply_adapter, merge_files, read_adapter
from monai_sa2va.checkpoints.convert import convert_checkpoint
from monai_sa2va.checkpoints.info import ModelInfo, read_info
from monai_sa2va.checkpoints.load import load_weights, read_weights
from monai_sa2va.checkpoints.peft_folder import OTHER_PARTS, write_peft_folder
from monai_sa2va.checkpoints.save import save_checkpoint
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.engines.fine_tuning import FineTuning
from monai_sa2va.errors import CheckpointError, OutputError
from monai_sa2va.networks.lora import LoRA
from monai_sa2va.networks.parts import PARTS, freeze
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

pytest.importorskip("peft", reason="peft is not installed")

FROZEN = [part for part in PARTS if part not in ("text_hidden_fcs", "grounding_encoder.mask_decoder")]
TEXT = "Segment the vessels."


@pytest.fixture
def base(micro_config: Sa2VAConfig, tmp_path: Path) -> Path:
    network = Sa2VA(micro_config, seed=0)
    info = ModelInfo(micro_config, window="abdomen", axis="axial")
    save_checkpoint({"model": network.state_dict(), "info": info.state_dict()}, tmp_path / "base.pt")
    return tmp_path / "base.pt"


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def _tune(base: Path, config: Sa2VAConfig, batch: dict[str, Any], path: Path, presence: float | None = None) -> Sa2VA:
    """Two steps of a fine-tuning, and the adapter that it writes."""
    network = load_weights(Sa2VA(config), base)
    tuning = FineTuning(freeze(network, FROZEN), LoRA(rank=8, alpha=16, dropout=0.0))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=5e-3)
    network.train()
    for _ in range(2):
        network(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    info = ModelInfo(config, window="abdomen", axis="axial", **tuning.about)
    if presence is not None:
        info.set_presence(presence, 2.0, -1.0)
    save_checkpoint({"model": tuning.state_dict(), "info": info.state_dict()}, path)
    return network.eval()


@pytest.fixture
def trained(
    base: Path, micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]], tmp_path: Path
) -> tuple[Sa2VA, Path]:
    path = tmp_path / "adapter.safetensors"
    return _tune(base, micro_config, sa2va_collate(micro_samples[:2]), path, presence=0.25), path


def _logits(network: Sa2VA, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = network.eval()(image, text=TEXT)
    return logits


def test_merged_and_unmerged_draw_the_same(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig, image: torch.Tensor, tmp_path: Path
) -> None:
    network, adapter = trained
    unmerged, untuned = _logits(network, image), _logits(load_weights(Sa2VA(micro_config), base), image)
    assert (unmerged - untuned).abs().max() > 0.01
    merged = apply_adapter(load_weights(Sa2VA(micro_config), base), adapter)
    assert (_logits(merged, image) - unmerged).abs().max() <= 1e-4
    counts = merge_files(base, adapter, tmp_path / "merged.safetensors")
    whole = load_weights(Sa2VA(micro_config), tmp_path / "merged.safetensors")
    assert torch.equal(_logits(whole, image), _logits(merged, image))
    # 7 linear layers in each of 2 layers; what trained whole
    assert counts.lora == 14
    assert counts.replaced == len(load_file(adapter)) - 2 * 14
    assert sum(counts) == len(whole.state_dict())


def test_an_adapter_goes_on_the_folder_of_its_base(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig, tmp_path: Path
) -> None:
    picture = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(5)) * 255).to(torch.uint8).numpy()
    own = Segmenter.from_bundle(checkpoint=base, adapter=trained[1], device="cpu").segment(picture, TEXT)
    plain = Segmenter.from_pretrained(base, device="cpu").segment(picture, TEXT)
    assert abs(plain.scores - own.scores).max() > 1e-3
    convert_checkpoint(base, tmp_path / "again", "bundle")
    built = Segmenter.from_bundle(checkpoint=tmp_path / "again", adapter=trained[1], device="cpu")
    assert abs(built.segment(picture, TEXT).scores - own.scores).max() <= 1e-4
    assert (built.network.config.presence_threshold, built.stack.axis) == (0.25, "axial")
    other = {"model": Sa2VA(micro_config, seed=1).state_dict(), "info": read_info(base)}
    save_checkpoint(other, tmp_path / "other" / "model.pt")
    with pytest.raises(CheckpointError, match="was trained on another base"):
        Segmenter.from_bundle(checkpoint=tmp_path / "other", adapter=trained[1], device="cpu")


def test_a_merged_file_is_a_checkpoint_like_any_other(trained: tuple[Sa2VA, Path], base: Path, tmp_path: Path) -> None:
    merge_files(base, trained[1], tmp_path / "merged.pt")
    info = read_info(tmp_path / "merged.pt")
    assert sorted(info) == ["axis", "config", "window"]
    assert (info["window"], info["axis"]) == ("abdomen", "axial")
    # of the adapter's training, not of the base
    assert [info["config"][f"presence_{key}"] for key in ("threshold", "scale", "bias")] == [0.25, 2.0, -1.0]


def test_only_what_trained_is_saved(trained: tuple[Sa2VA, Path], base: Path) -> None:
    path = trained[1]
    with safe_open(path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    parts = [name for name in names if ".lora_" not in name]
    assert all(
        name.startswith(("text_hidden_fcs.", "grounding_encoder.sam2_model.sam_mask_decoder."))
        or name in ("mllm.lm_head.weight", "mllm.model.language_model.embed_tokens.weight")
        for name in parts
    )
    assert "mllm.model.language_model.layers.0.self_attn.q_proj.lora_A.weight" in names
    info = json.loads(metadata["info"])
    assert info["trained"] == sorted(names)
    assert info["lora"]["rank"] == 8
    assert sorted(info["base"]) == ["bfloat16", "float32"]
    assert path.stat().st_size < base.stat().st_size / 2
    assert oct(path.stat().st_mode & 0o777) == "0o644"


def test_presence_comes_with_the_adapter(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig, tmp_path: Path
) -> None:
    network = load_weights(Sa2VA(micro_config), base)
    assert network.config.presence_threshold is None
    assert apply_adapter(network, trained[1]) is network
    assert (network.config.presence_threshold, network.config.presence_scale) == (0.25, 2.0)
    assert apply_adapter(network, None) is network


def test_two_trainings_of_one_base_give_two_models(
    base: Path, micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]], image: torch.Tensor, tmp_path: Path
) -> None:
    batches = [sa2va_collate(micro_samples[:2]), sa2va_collate(micro_samples[3:6])]
    own, merged = [], []
    for number, batch in enumerate(batches):
        adapter = tmp_path / f"adapter{number}.safetensors"
        own.append(_tune(base, micro_config, batch, adapter))
        merge_files(base, adapter, tmp_path / f"merged{number}.safetensors")
        merged.append(read_weights(tmp_path / f"merged{number}.safetensors"))
    before = read_weights(base)
    trained = {
        name.replace(".lora_A", "")
        for name in read_adapter(tmp_path / "adapter0.safetensors").tensors
        if ".lora_B" not in name
    }
    assert before.keys() == merged[0].keys() == merged[1].keys()
    alike = {name for name in before if torch.equal(merged[0][name], merged[1][name])}
    unchanged = {name for name in before if torch.equal(merged[0][name], before[name])}
    # tensor by tensor: what trained differs from the other and from the base, all else is the base's
    assert before.keys() - trained <= alike & unchanged
    stuck = trained & (alike | unchanged)
    # parts of SAM2's decoder that a mask's loss doesn't reach
    assert all(name.startswith("grounding_encoder.sam2_model.sam_mask_decoder.") for name in stuck)
    assert len(stuck) < len(trained) / 5
    # mask by mask: each is that of its own training
    logits = []
    for number in (0, 1):
        whole = load_weights(Sa2VA(micro_config), tmp_path / f"merged{number}.safetensors")
        logits.append(_logits(whole, image))
        assert (logits[number] - _logits(own[number], image)).abs().max() <= 1e-4
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_another_base_is_refused_and_left_alone(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig, tmp_path: Path
) -> None:
    other = load_weights(Sa2VA(micro_config), base)
    with torch.no_grad():
        other.mllm.model.vision_tower.embeddings.cls_token.view(-1)[0] += 1e-6
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors was trained on another base \(hash \w{12}, this"):
        apply_adapter(other, trained[1])
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    # nor onto itself: a merged network is no base any more
    merged = apply_adapter(load_weights(Sa2VA(micro_config), base), trained[1])
    with pytest.raises(CheckpointError, match="was trained on another base"):
        apply_adapter(merged, trained[1])
    save_checkpoint({"model": before}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="was trained on another base"):
        merge_files(tmp_path / "other.pt", trained[1], tmp_path / "new")
    with pytest.raises(CheckpointError, match="was trained on another base"):
        write_peft_folder(trained[1], tmp_path / "other.pt", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_base_of_another_geometry_or_preprocessing_is_refused(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig
) -> None:
    network = load_weights(Sa2VA(replace(micro_config, max_tiles=1)), base)
    with pytest.raises(CheckpointError, match="was trained with another max_tiles than this network has"):
        apply_adapter(network, trained[1])


def test_a_base_in_bfloat16_is_known_by_its_rounded_hash(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig, image: torch.Tensor
) -> None:
    half = load_weights(Sa2VA(micro_config), base).to(torch.bfloat16)
    apply_adapter(half, trained[1])
    exact = apply_adapter(load_weights(Sa2VA(micro_config), base), trained[1])
    for name, value in half.state_dict().items():
        torch.testing.assert_close(value.float(), exact.state_dict()[name].float(), atol=0.01, rtol=0.01)


def _resaved(path: Path, name: str, info: dict[str, Any] | None, drop: str = "") -> Path:
    tensors = {key: value for key, value in load_file(path).items() if key != drop}
    target = path.with_name(name)
    save_file(tensors, target, metadata=None if info is None else {"info": json.dumps(info)})
    return target


def test_lora_without_its_configuration_is_refused_in_one_line(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig
) -> None:
    info = read_info(trained[1])
    naked = _resaved(trained[1], "naked.safetensors", None)
    halfway = _resaved(trained[1], "half.safetensors", {**info, "lora": None})
    for path in (naked, halfway):
        with pytest.raises(CheckpointError, match=r"holds LoRA weights \(mllm\..*\) without their configuration") as e:
            read_adapter(path)
        assert "\n" not in str(e.value)
    with pytest.raises(CheckpointError, match=r"naked.safetensors holds LoRA weights .* without their configuration"):
        load_weights(Sa2VA(micro_config), naked)


def test_an_adapter_is_no_checkpoint_and_a_checkpoint_no_adapter(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig
) -> None:
    with pytest.raises(CheckpointError, match="is an adapter, which holds only what was trained; give it as adapter"):
        load_weights(Sa2VA(micro_config), trained[1])
    with pytest.raises(CheckpointError, match=r"base\.pt is no adapter: it names no base"):
        read_adapter(base)


def test_an_adapter_that_lacks_a_tensor_is_refused(trained: tuple[Sa2VA, Path], base: Path, tmp_path: Path) -> None:
    info = read_info(trained[1])
    gone = "mllm.model.language_model.layers.1.mlp.up_proj.lora_B.weight"
    torn = _resaved(trained[1], "torn.safetensors", info, drop=gone)
    with pytest.raises(CheckpointError, match=rf"torn.safetensors isn't whole: 1 keys missing \({gone}\)"):
        read_adapter(torn)
    info["trained"].remove(gone)
    with pytest.raises(CheckpointError, match=r"holds no A and B of rank 8 for .*up_proj"):
        merge_files(base, _resaved(trained[1], "pair.safetensors", info, drop=gone), tmp_path / "m.pt")
    content = trained[1].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors can't be read"):
        read_adapter(tmp_path / "cut.safetensors")


def test_what_is_merged_is_never_overwritten(trained: tuple[Sa2VA, Path], base: Path, tmp_path: Path) -> None:
    adapter = trained[1]
    before = [file.read_bytes() for file in (base, adapter)]
    (tmp_path / "link.pt").symlink_to(base)
    for output in (base, adapter, tmp_path / "link.pt"):
        with pytest.raises(OutputError, match="which is merged and would be lost; name another file"):
            merge_files(base, adapter, output)
    assert [file.read_bytes() for file in (base, adapter)] == before


def test_an_adapter_is_no_source_of_a_conversion(trained: tuple[Sa2VA, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is an adapter, .* merge it into its base first: monai-sa2va merge"):
        convert_checkpoint(trained[1], tmp_path / "hf", "hf")


def test_types_of_a_merged_file(trained: tuple[Sa2VA, Path], base: Path, tmp_path: Path) -> None:
    weights = {key: value.to(torch.bfloat16) for key, value in read_weights(base).items()}
    save_checkpoint({"model": weights}, tmp_path / "half.safetensors")
    # the base as bfloat16 rounds it: what was trained in float32 is added to that, exactly
    merge_files(tmp_path / "half.safetensors", trained[1], tmp_path / "exact.safetensors")
    exact = load_file(tmp_path / "exact.safetensors")
    changed = "mllm.model.language_model.layers.0.self_attn.q_proj.weight"
    assert (exact[changed].dtype, exact["mllm.model.vision_tower.embeddings.cls_token"].dtype) == (
        torch.float32,
        torch.bfloat16,
    )
    merge_files(base, trained[1], tmp_path / "short.safetensors", torch.float16)
    assert {value.dtype for value in load_file(tmp_path / "short.safetensors").values()} == {torch.float16}


def test_peft_reads_its_folder(
    trained: tuple[Sa2VA, Path], base: Path, micro_config: Sa2VAConfig, tmp_path: Path
) -> None:
    from peft import PeftModel

    counts = write_peft_folder(trained[1], base, tmp_path / "peft")
    assert counts.language_model == 2 * 14 + 2
    network = apply_adapter(load_weights(Sa2VA(micro_config), base), trained[1])
    plain = load_weights(Sa2VA(micro_config), base)
    wrapped = PeftModel.from_pretrained(plain.mllm, str(tmp_path / "peft")).base_model.model
    ids = torch.randint(5, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = []
    with torch.no_grad():
        for mllm in (network.mllm.eval(), wrapped.eval()):
            logits.append(mllm.vocabulary_logits(mllm.hidden_states(mllm.embed(ids, None), None)))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)
    others = load_file(tmp_path / "peft" / OTHER_PARTS)
    assert len(others) == counts.others
    torch.testing.assert_close(others["text_hidden_fcs.0.weight"], network.text_hidden_fcs[0].weight.detach())
    with pytest.raises(OutputError, match="holds an adapter already; name a new folder"):
        write_peft_folder(trained[1], base, tmp_path / "peft")
