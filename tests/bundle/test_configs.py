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

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image

from monai_sa2va.checkpoints.info import stored
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.phantoms import write_phantoms
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.metrics import calculate_dice
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

# What MONAI's metadata schema of 2024-07-25 asks for, in our words: the file itself can't be fetched offline.
_TEXT = {"type": "string"}
_TENSOR = {
    "type": "object",
    "properties": {
        "type": _TEXT,
        "format": _TEXT,
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "dtype": _TEXT,
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
_VALUES = {"type": "object", "additionalProperties": {"anyOf": [{"type": ["number", "string", "boolean"]}, _TENSOR]}}
_STRINGS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
SCHEMA = {
    "type": "object",
    "properties": {
        **dict.fromkeys((*_STRINGS, "copyright", "intended_use", "data_source", "data_type"), _TEXT),
        "required_packages_version": {"type": "object"},
        "changelog": {"type": "object"},
        "references": {"type": "array", "items": _TEXT},
        "network_data_format": {
            "type": "object",
            "properties": {"inputs": _VALUES, "outputs": _VALUES},
            "required": ["inputs", "outputs"],
        },
    },
    "required": [*_STRINGS, "copyright", "required_packages_version", "network_data_format"],
}


@pytest.fixture(scope="module")
def configs(repository: Path) -> Path:
    return repository / "bundle" / "configs"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(folder, 10, 0, splits={"training": 0.6, "validation": 0.2, "testing": 0.2})
    return folder


def _run(cwd: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert result.returncode == code, result.stderr[-2000:]
    return result


def test_metadata_keeps_to_the_schema(configs: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(schema))
    broken = json.loads((configs / "metadata.json").read_text())
    del broken["network_data_format"]["inputs"]["image"]["dtype"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="schema"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(schema))


def test_metadata_knows_this_version(configs: Path) -> None:
    metadata = json.loads((configs / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["schema"].endswith("meta_schema_20240725.json")


@pytest.mark.parametrize("config", ["train", "inference", "evaluate"])
def test_network_takes_and_gives_what_metadata_says(configs: Path, config: str) -> None:
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / f"{config}.json"),
        device="cpu",
    )


@pytest.mark.parametrize(("kind", "config"), [("train", "train"), ("infer", "inference"), ("infer", "evaluate")])
def test_properties_are_complete(configs: Path, phantoms: Path, tmp_path: Path, kind: str, config: str) -> None:
    torch.save(Sa2VA("tiny", seed=0).state_dict(), tmp_path / "model.pt")
    overrides: dict[str, Any] = {"output_dir": str(tmp_path / "out"), "device": "$torch.device('cpu')"}
    if kind == "train":
        overrides |= {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "num_workers": 0}
    else:
        overrides |= {"dataset_dir": str(phantoms / "images"), "checkpoint": str(tmp_path / "model.pt")}
        if config == "evaluate":
            overrides["dataset_dir"] = str(phantoms)
    workflow = ConfigWorkflow(
        workflow_type=kind,
        config_file=str(configs / f"{config}.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()


def test_recipe_is_the_published_one(configs: Path) -> None:
    train = json.loads((configs / "train.json").read_text())
    recipe = {
        "learning_rate": 2e-5,
        "adam_betas": [0.9, 0.999],
        "weight_decay": 0.05,
        "warmup_start_lr": 1e-5,
        "warmup_steps": 366,
        "total_steps": 12192,
        "clip_norm": 1.0,
        "batch_size": 4,
        "accumulation_steps": 2,
        "num_workers": 8,
    }
    assert {key: train[key] for key in recipe} == recipe
    assert train["optimizer"]["eps"] == 1e-8
    weights = ("mask_weight", "dice_weight", "language_weight")
    assert [train["criterion"][key] for key in weights] == [1.0, 1.0, 0.5]


def test_whatever_replaces_files_knows_whether_the_run_is_resumed(configs: Path) -> None:
    train = json.loads((configs / "train.json").read_text())
    savers = [
        handler
        for handler in [*train["train"]["handlers"], *train["validate"]["handlers"]]
        if handler["_target_"].startswith("monai_sa2va.engines.resume.")
    ]
    assert [handler["resume"] for handler in savers] == ["@resume"] * 3


def test_losses_of_monai_come_in_from_json(configs: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser["criterion"] = {"_target_": "monai.losses.DiceCELoss", "sigmoid": True}
    network = parser.get_parsed_content("network_def")
    assert isinstance(network.criterion, Sa2VALoss)
    assert type(network.criterion.segmentation_loss).__name__ == "DiceCELoss"


def test_all_build_the_same_network(configs: Path) -> None:
    names = ("train", "inference", "evaluate")
    presets = {json.loads((configs / f"{name}.json").read_text())["preset"] for name in names}
    assert presets == {get_preset("tiny").name}


def test_train_and_inference_share_what_decides_the_grey_values(configs: Path) -> None:
    names = ("train", "inference", "evaluate")
    train, inference, evaluate = (json.loads((configs / f"{name}.json").read_text()) for name in names)
    for key in ("window", "axis", "network_def", "network", "inferer"):
        assert evaluate[key] == inference[key]
    for key in ("window", "axis"):
        assert train[key] == "auto"
        # inference takes what the checkpoint, or its adapter, was trained with
        assert train["info"][key] == f"@{key}"
        assert inference[key] == f"$stored(@adapter or @checkpoint, '{key}', 'auto')"


def _volumes(folder: Path) -> Path:
    """Two volumes of three thick coronal slices, all with two structures, and their datalist."""
    entries = []
    for number in range(2):
        label = np.zeros((24, 3, 20), np.uint8)
        label[4:10], label[14:20] = 1, 2
        for kind, values in (("image", label.astype(np.int16) * 100), ("label", label)):
            nib.save(nib.Nifti1Image(values, np.diag([1.0, 5.0, 1.0, 1.0])), folder / f"{kind}{number}.nii.gz")
        files = {kind: f"{kind}{number}.nii.gz" for kind in ("image", "label")}
        entries.append({**files, "prompts": {"1": ["vessels"], "2": ["liver"]}})
    (folder / "datalist.json").write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    return folder


def test_slices_are_cached_once_for_training_and_for_validation(configs: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser.update({"dataset_dir": str(_volumes(tmp_path)), "window": "percentile", "num_workers": 0})
    train, validate = (parser.get_parsed_content(f"{name}#dataset") for name in ("train", "validate"))
    planes = parser.get_parsed_content("validate#planes")
    assert (len(train), len(planes), len(validate)) == (3, 3, 6)
    for file in tmp_path.glob("*.nii.gz"):
        file.unlink()  # whatever is read again fails
    assert [sample["gt_masks"].shape for sample in validate] == [(1, 128, 128)] * 6
    assert len(train[2]["gt_masks"]) >= 1
    # a plane is what is cached, neither its volume nor what the processor makes of it
    assert {key for key, value in planes[0].items() if isinstance(value, torch.Tensor)} == {"image", "label"}
    assert planes[0]["image"].shape == (3, 20, 24)
    assert planes[0]["image"].untyped_storage().nbytes() == 3 * 20 * 24 * 4
    # structures of one slice share it
    assert validate.data[0]["image"] is validate.data[1]["image"]


def test_training_asks_for_what_is_not_there_and_tunes_the_presence(
    configs: Path, phantoms: Path, tmp_path: Path, micro_config: Sa2VAConfig, caplog: pytest.LogCaptureFixture
) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser.update({"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)})
    parser.update({"network_def#config": micro_config.to_dict(), "criterion#object_weight": 0.1, "mask_size": 32})
    parser.update({"device": "$torch.device('cpu')", "amp": False, "num_workers": 0, "max_epochs": 1})
    parser.update({"absent_prob": 0.5, "foreign_phrases": ["pacemaker"], "total_steps": 2, "warmup_steps": 1})
    # what micro weights score is left to chance: whichever the tuner says, it has to be saved
    parser.update({"validate#handlers#0#min_objects": 3, "max_objects": 2})
    parser.get_parsed_content("imports")
    trainer, validate = parser.get_parsed_content("train#trainer"), parser.get_parsed_content("validate#dataset")
    asked = [sample["names"] for sample in validate]
    empty = [not sample["gt_masks"].any() for sample in validate]
    shown = sum(len(entry["prompts"]) for entry in load_datalist(phantoms / "datalist.json", "validation"))
    # of each of two images one thing that others of its kind show, where there is any, and one that they never do
    assert all(len(names) == 1 for names in asked)
    assert 2 <= sum(empty) <= 4
    assert len(asked) - sum(empty) == shown
    with caplog.at_level("INFO", logger="monai_sa2va"):
        trainer.run()
    assert "a presence of" in caplog.text or "no mask will be emptied" in caplog.text
    saved = Sa2VAConfig.from_dict(stored(tmp_path / "model.pt", "config", None))
    assert saved == parser.get_parsed_content("network").config
    assert ("a presence of" in caplog.text) == (saved.presence_threshold is not None)


def test_without_cache_files_are_read_when_asked_for(configs: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser.update({"dataset_dir": str(_volumes(tmp_path)), "cache_rate": 0.0, "num_workers": 0})
    for name in ("train", "validate"):
        dataset = parser.get_parsed_content(f"{name}#dataset")
        assert len(dataset[1]["gt_masks"]) >= 1


_SHORT = ("--num_workers", "0", "--phantom_count", "10", "--max_epochs", "1", "--total_steps", "2")


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_training_command_runs_from_both_folders(repository: Path, tmp_path: Path, inside: bool) -> None:
    root = tmp_path / "repository"
    (root / "bundle").mkdir(parents=True)
    (root / "bundle" / "configs").symlink_to(repository / "bundle" / "configs")
    cwd, config = (root / "bundle", "configs/train.json") if inside else (root, "bundle/configs/train.json")
    result = _run(cwd, "training", "--config_file", config, *_SHORT, "--warmup_steps", "1")
    # the folder of the data was not there: phantoms were made, and it says so
    assert "phantoms" in result.stdout + result.stderr
    assert (root / "bundle" / "data" / "phantoms" / "datalist.json").is_file()
    assert (root / "bundle" / "models" / "model.pt").is_file()

    config = config.replace("train.json", "inference.json")
    images = root / "bundle" / "data" / "phantoms" / "images"
    _run(cwd, "inference", "--config_file", config, "--dataset_dir", str(images), "--pattern", "*0003.png")
    results = [path for path in (root / "bundle" / "eval" / "masks").iterdir() if path.is_dir()]
    assert len(results) == 1
    assert {"overview.png", "report.json", "vessels.png"} <= {path.name for path in results[0].iterdir()}


def _evaluate(configs: Path, phantoms: Path, folder: Path, **overrides: Any) -> dict[str, Any]:
    torch.save(Sa2VA("tiny", seed=0).state_dict(), folder / "model.pt")
    parser = ConfigParser()
    parser.read_config(str(configs / "evaluate.json"))
    parser.update({"dataset_dir": str(phantoms), "checkpoint": str(folder / "model.pt"), "device": "cpu"})
    parser.update({"output_dir": str(folder / "scores"), "amp": False, **overrides})
    parser.get_parsed_content("imports")
    parser.get_parsed_content("run")
    report: dict[str, Any] = json.loads((folder / "scores" / "metrics.json").read_text())
    return report


def test_evaluation_scores_what_inference_draws(configs: Path, phantoms: Path, tmp_path: Path) -> None:
    report = _evaluate(configs, phantoms, tmp_path, resamples=20, surface_tolerance=3.0, confidence=0.9, seed=4)
    assert report["cases"] == {"total": 2, "scored": 2, "failed": 0}
    settings = report["settings"]
    assert [settings[key] for key in ("resamples", "surface_tolerance", "confidence", "seed")] == [20, 3.0, 0.9, 4]
    assert settings["presence_threshold"] is None
    # the same by the door itself
    entry = load_datalist(phantoms / "datalist.json", "testing")[0]
    label = np.asarray(Image.open(entry["label"]))
    value, phrases = next(iter(entry["prompts"].items()))
    segmenter = Segmenter(Sa2VA("tiny", seed=0), device="cpu")
    mask = segmenter.segment(entry["image"], f"Segment the {phrases[0]}.").masks[0]
    with (tmp_path / "scores" / "cases.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert (row["image"], row["prompt"]) == (Path(entry["image"]).name, phrases[0])
    assert float(row["dice"]) == pytest.approx(calculate_dice(mask, label == int(value)), abs=1e-6)
    assert int(row["truth_voxels"]) == (label == int(value)).sum()


def test_evaluation_empties_what_the_checkpoint_says_or_another_threshold(
    configs: Path, phantoms: Path, tmp_path: Path
) -> None:
    report = _evaluate(configs, phantoms, tmp_path, resamples=5, presence_threshold=1.0)
    assert report["settings"]["presence_threshold"] == 1.0
    assert report["overall"]["false_empty"]["count"] == report["overall"]["false_empty"]["of"] > 0
    assert report["overall"]["false_positive"]["count"] == 0


@pytest.mark.slow
def test_evaluation_command_runs(repository: Path, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    (tmp_path / "bundle" / "configs").symlink_to(repository / "bundle" / "configs")
    torch.save(Sa2VA("tiny", seed=0).state_dict(), tmp_path / "bundle" / "models" / "model.pt")
    content = json.loads((phantoms / "datalist.json").read_text())
    for kind in ("images", "labels"):
        (tmp_path / kind).symlink_to(phantoms / kind)
    (tmp_path / "torn.png").write_bytes(b"torn")
    content["testing"].append({**content["testing"][0], "image": "torn.png"})
    (tmp_path / "own.json").write_text(json.dumps(content))
    config = ("--config_file", "bundle/configs/evaluate.json", "--datalist", "own.json")
    result = _run(tmp_path, "evaluating", *config, "--resamples", "50", code=1)
    assert result.stderr.splitlines()[-1] == "error: [DATA] 1 of 3 cases failed, see cases.csv"
    scores = tmp_path / "bundle" / "eval" / "scores"
    assert sorted(path.name for path in scores.iterdir()) == ["cases.csv", "cases.png", "metrics.json"]
    report = json.loads((scores / "metrics.json").read_text())
    # the one that failed didn't end the run
    assert report["cases"] == {"total": 3, "scored": 2, "failed": 1}
    assert report["settings"]["resamples"] == 50


@pytest.mark.slow
def test_training_on_real_photographs(repository: Path, data_dir: Path, tmp_path: Path) -> None:
    chase = data_dir / "vessels" / "chase_db1"
    if not chase.is_dir():
        pytest.skip("vessels/chase_db1 is not among the data")
    datalist = tmp_path / "datalist.json"
    command = [sys.executable, "-m", "monai_sa2va", "datalist", str(chase / "images"), str(chase / "masks")]
    command += ["--prompt", "vessels", "--group-regex", r"(\d+)[LR]", "--test-groups", "11,12,13,14"]
    subprocess.run([*command, "-o", str(datalist)], check=True, capture_output=True)
    config = repository / "bundle" / "configs"
    where = ["--dataset_dir", str(chase), "--datalist", str(datalist)]
    _run(
        tmp_path,
        *("training", "--config_file", str(config / "train.json"), *where, "--max_epochs", "2", "--num_workers", "0"),
        *("--ckpt_dir", str(tmp_path / "models"), "--output_dir", str(tmp_path / "eval")),
    )
    _run(
        tmp_path,
        *("inference", "--config_file", str(config / "inference.json"), *where),
        *("--checkpoint", str(tmp_path / "models" / "model.pt"), "--output_dir", str(tmp_path / "masks")),
    )
    results = sorted(path.name for path in (tmp_path / "masks").iterdir() if path.is_dir())
    assert results == [f"Image_{child}{side}" for child in (11, 12, 13, 14) for side in ("L", "R")]
    for name in results:
        assert {"vessels.png", "vessels.nii.gz", "overview.png"} <= {
            p.name for p in (tmp_path / "masks" / name).iterdir()
        }
