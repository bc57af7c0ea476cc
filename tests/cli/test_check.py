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

"""``monai-sa2va check``: it passes on sound data and settings, and catches each planted fault."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.cli.main import app
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.phantoms import write_phantoms
from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.preflight import metrics

runner = CliRunner()

_FITTED = {"max_epochs": 2, "warmup_steps": 1, "total_steps": "$@max_epochs * @steps_per_epoch"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, micro_config: Sa2VAConfig) -> Path:
    """A folder with phantoms and a checkpoint, none with a fault."""
    folder = tmp_path_factory.mktemp("sound")
    # of all looks, so that the training section holds every structure
    write_phantoms(folder / "data", 24, 0, 64, splits={"training": 0.4, "validation": 0.15, "testing": 0.45})
    network = Sa2VA(micro_config, seed=0)
    info = ModelInfo(micro_config, window="auto", axis="auto").state_dict()
    torch.save({"model": network.state_dict(), "info": info}, folder / "model.pt")
    return folder


@pytest.fixture
def work(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _check(repository: Path, kind: str, work: Path, **overrides: Any) -> Result:
    file = repository / "bundle" / "configs" / f"{kind}.json"
    values: dict[str, Any] = {"output_dir": work / "out", "device": "cpu", "amp": False}
    values["dataset_dir"] = work / "data" / "images" if kind == "inference" else work / "data"
    if kind == "train":
        values |= {"ckpt_dir": work / "models", "num_workers": 0, **_FITTED}
    else:
        values["checkpoint"] = work / "model.pt"
    words = [str(word) for key, value in {**values, **overrides}.items() for word in (f"--{key}", value)]
    return runner.invoke(app, ["check", kind, "--config_file", str(file), *words])


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("kind", ["train", "inference", "evaluate"])
def test_what_is_sound_passes_and_nothing_is_written(repository: Path, work: Path, kind: str) -> None:
    before = _files(work)
    result = _check(repository, kind, work)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1] == f"{len(lines) - 1} pass, 0 warn, 0 fail"
    assert all(line.startswith("pass  ") for line in lines[:-1]), result.stdout
    assert result.stderr == ""
    assert _files(work) == before


def test_the_demo_passes(repository: Path, work: Path) -> None:
    """The configurations of `make demo`, on fewer phantoms."""
    configs = repository / "bundle" / "configs"
    arguments = {
        "train": ["train.json", "demo.json", "--ckpt_dir", work / "models", "--warmup_steps", 1],
        "inference": ["inference.json", "demo_inference.json", "--checkpoint", work / "model.pt"],
    }
    for kind, (first, second, *words) in arguments.items():
        files = ["--config_file", configs / first, configs / second]
        places = ["--dataset_dir", work / "data", "--output_dir", work / "out", *words]
        result = runner.invoke(app, ["check", kind, *map(str, [*files, *places])])
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1].endswith(" pass, 0 warn, 0 fail"), result.stdout


def test_what_passed_is_told_in_numbers(repository: Path, work: Path) -> None:
    entries = json.loads((work / "data" / "datalist.json").read_text())
    lines = _check(repository, "train", work).stdout.splitlines()
    training, validation = (len(entries[name]) for name in ("training", "validation"))
    assert f"pass  datalist: {training} entries for training, {validation} for validation" in lines
    assert f"pass  files: training: {training} images open and their labels fit" in lines
    total = sum(p.numel() for p in Sa2VA("tiny").parameters())
    assert f"pass  parameters: {total:,} of {total:,} parameters are trained" in lines
    assert "pass  loss: mask 1, dice 1, lang 0.5" in lines
    # 2 epochs of micro-batches of 4, 2 of them a step
    steps = 2 * math.ceil(math.ceil(training / 4) / 2)
    assert f"pass  schedule: {steps} optimizer steps in 2 epochs, 1 of them warm-up" in lines


# --- faults, each planted in a sound folder


def _datalist(work: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = work / "data" / "datalist.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _each(work: Path, section: str, change: Callable[[dict[str, Any]], Any]) -> None:
    def all_of_them(content: dict[str, Any]) -> None:
        for entry in content[section]:
            change(entry)

    _datalist(work, all_of_them)


def _first(work: Path, key: str, section: str = "training") -> Path:
    content = json.loads((work / "data" / "datalist.json").read_text())
    return work / "data" / content[section][0][key]


def _missing_image(work: Path) -> None:
    _first(work, "image").unlink()


def _truncated(work: Path) -> None:
    path = _first(work, "image")
    path.write_bytes(path.read_bytes()[:200])


def _other_shape(work: Path, section: str = "training") -> None:
    path = _first(work, "label", section)
    Image.open(path).resize((32, 64)).save(path)


def _volumes(work: Path, values: float = 1.0, shift: float = 0.0) -> None:
    label = np.ones((8, 8, 2), np.uint8)
    affine = np.eye(4)
    nibabel.save(nibabel.Nifti1Image(np.full((8, 8, 2), values, np.float32), affine), work / "data" / "v.nii.gz")
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(label, affine), work / "data" / "l.nii.gz")
    entry = {"image": "v.nii.gz", "label": "l.nii.gz", "prompts": {"1": "vessels"}}
    _datalist(work, lambda content: content["training"].append(entry))


def _keys(work: Path, section: str, keep: int = 0) -> None:
    """Prompts whose keys no label holds; of each entry's the first few stay right."""

    def change(entry: dict[str, Any]) -> None:
        items = list(entry["prompts"].items())
        wrong = {str(200 + i): phrases for i, (_, phrases) in enumerate(items[keep:])}
        entry["prompts"] = {**dict(items[:keep]), **(wrong or {"200": "nothing"})}

    _each(work, section, change)


def _one_more_name(work: Path) -> None:
    _each(work, "training", lambda entry: entry["prompts"].update({"99": "spaceship"}))


def _less_prompts(work: Path) -> None:
    _each(work, "training", lambda entry: entry.update(prompts=dict(list(entry["prompts"].items())[:1])))


def _bad_key(work: Path) -> None:
    _each(work, "training", lambda entry: entry.update(prompts={"zero": "vessels"}))


def _no_validation(work: Path) -> None:
    _datalist(work, lambda content: content.pop("validation"))


def _file_in_the_way(work: Path) -> None:
    (work / "models").write_text("")
    (work / "out").write_text("")


_TRAINING_FAULTS: list[tuple[str, Callable[[Path], None] | None, dict[str, Any], str]] = [
    ("missing image", _missing_image, {}, "fail  datalist: [DATALIST] {work}/data/datalist.json: training[0].image: "),
    ("truncated image", _truncated, {}, "fail  files: training: [DATA] {image} can't be read: "),
    ("other shape", _other_shape, {}, "fail  files: training: [DATA] mask {label} doesn't fit: shape 64 x 64 "),
    (
        "other place",
        lambda work: _volumes(work, shift=5.0),
        {},
        "lie up to 5.0 mm apart|fail  files: training: [DATA] mask l.nii.gz",
    ),
    (
        "NaN",
        lambda work: _volumes(work, values=np.nan),
        {},
        "fail  files: training: [DATA] v.nii.gz holds 128 value(s)",
    ),
    ("wrong keys", lambda work: _keys(work, "training"), {}, "fail  prompts: training: no label holds a value that a"),
    ("a name in no label", _one_more_name, {}, "warn  prompts: training: no label holds the value of spaceship; "),
    ("value without prompt", _less_prompts, {}, "warn  prompts: training: label values without a prompt are backgr"),
    ("annotation format", _bad_key, {}, "fail  datalist: [DATALIST] {work}/data/datalist.json: training[0].prompts"),
    ("no validation", _no_validation, {}, "warn  datalist: there is no validation section"),
    ("nothing trained", None, {"freeze": "['']"}, "fail  parameters: [CONFIG] freeze: [''] leaves nothing to train"),
    ("projector frozen", None, {"freeze": "['text_hidden_fcs']"}, "warn  parameters: text_hidden_fcs, which turns"),
    (
        "optimizer forgets",
        None,
        {"optimizer#params": "$list(@network.text_hidden_fcs.parameters())"},
        "fail  parameters: the optimizer lacks ",
    ),
    ("learning rate", None, {"learning_rate": 3.0}, "fail  learning rate: learning_rate is 3.0; give a number above 0"),
    ("learning rate as text", None, {"learning_rate": "fast"}, "fail  learning rate: learning_rate is 'fast'; give"),
    (
        "rate of the optimizer",
        None,
        {"optimizer#lr": 5},
        "fail  learning rate: lr of the optimizer's group 0 is 5; give a number above 0",
    ),
    ("no micro-batch", None, {"batch_size": 0}, "fail  settings: batch_size is 0; give a whole number of at least 1"),
    ("workers", None, {"num_workers": "-2"}, "fail  settings: num_workers is -2; give a whole number of at least 0"),
    ("cache rate", None, {"cache_rate": 7}, "fail  settings: cache_rate is 7; give a number of 0 to 1"),
    ("no switch", None, {"amp": "maybe"}, "fail  settings: amp is 'maybe'; give true or false, behind"),
    (
        "argument of a handler",
        None,
        {"train#handlers#1#keep": 0},
        "fail  trainer: [CONFIG] keep of the resumable checkpoints is 0; give a whole number of at least 1",
    ),
    ("empty weights", None, {"weights": ""}, "fail  parameters: [CHECKPOINT] there is no checkpoint "),
    ("a text for none", None, {"clip_norm": "null"}, "fail  settings: clip_norm is 'null'; give a number above 0, or "),
    ("high rate", None, {"learning_rate": 0.005}, "warn  learning rate: learning_rate is 0.005, high for AdamW"),
    (
        "warm-up beyond the schedule",
        None,
        {"warmup_steps": 9, "total_steps": 9},
        "fail  schedule: [CONFIG] warmup_steps is 9, total_steps 9; ",
    ),
    ("run ends early", None, {"total_steps": 900}, "warn  schedule: the run makes "),
    (
        "run ends in warm-up",
        None,
        {"total_steps": 900, "warmup_steps": 400},
        "end within the warm-up of 400|warn  sche",
    ),
    ("run goes on at 0", None, {"max_epochs": 50, "total_steps": 2}, "of them at a rate of 0|warn  schedule: the run"),
    (
        "weights of masks",
        None,
        {"criterion#mask_weight": 0, "criterion#dice_weight": 0},
        "fail  loss: mask_weight and dice_weight are 0, so no mask is learned (lang 0.5)",
    ),
    ("negative weight", None, {"criterion#mask_weight": -1}, "fail  loss: [CONFIG] mask_weight is -1; give a finite"),
    ("uneven weights", None, {"criterion#mask_weight": 1000}, "warn  loss: weights differ more than 100-fold"),
    ("memory", None, {"batch_size": 10**7}, "fail  memory: memory: about "),
    ("folder", _file_in_the_way, {}, "fail  checkpoint folder: ckpt_dir {work}/models can't be made, as models is a"),
    ("device", None, {"device": "cuda:99"}, "fail  device: [CONFIG] device is 'cuda:99', but "),
]


def _expect(result: Result, work: Path, expected: str, code: int | None = None) -> None:
    image, label = (Path(_first(work, key)).name for key in ("image", "label"))
    *inside, start = expected.split("|")
    start = start.format(work=work, image=image, label=label)
    lines = [line for line in result.stdout.splitlines() if line.startswith(start)]
    assert lines, f"{start!r} is not in\n{result.output}"
    assert all(text in lines[0] for text in inside)
    assert result.exit_code == (int(start.startswith("fail")) if code is None else code)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("plant", "overrides", "expected"), [f[1:] for f in _TRAINING_FAULTS], ids=[f[0] for f in _TRAINING_FAULTS]
)
def test_faults_before_training_are_caught(
    repository: Path, work: Path, plant: Any, overrides: dict[str, Any], expected: str
) -> None:
    if plant is not None:
        plant(work)
    _expect(_check(repository, "train", work, **overrides), work, expected)


def test_a_none_that_the_run_would_not_get_is_refused(repository: Path, work: Path) -> None:
    result = _check(repository, "train", work, clip_norm="None")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: [CONFIG] --clip_norm None changes nothing, as MONAI leaves it out; write ")


def test_a_full_disk_is_caught(repository: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**6, 10**6))
    # three resumable checkpoints of 12 bytes a parameter, and model.pt twice
    needed = 44 * sum(p.numel() for p in Sa2VA("tiny").parameters()) / 2**30
    start = "fail  checkpoint folder: ckpt_dir {work}"
    _expect(_check(repository, "train", work), work, f"needs {needed:.1f} GiB, 0.0 GiB free; |{start}")


def test_a_disk_that_takes_nothing_is_caught(repository: Path, work: Path) -> None:
    # nobody, root included, may make files there
    result = _check(repository, "train", work, ckpt_dir="/proc/self/models")
    _expect(result, work, "fail  checkpoint folder: ckpt_dir /proc/self/models can't be written to: ")


def test_data_that_are_still_to_be_made_are_not_made(repository: Path, work: Path) -> None:
    result = _check(repository, "train", work, dataset_dir=work / "none")
    _expect(result, work, "warn  datalist: dataset_dir {work}/none does not exist: training makes phantoms there")
    assert not (work / "none").exists()


# --- inference


def _weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def plant(work: Path) -> None:
        content = torch.load(work / "model.pt", weights_only=True)
        change(content)
        torch.save(content, work / "model.pt")

    return plant


def _cut(work: Path) -> None:
    path = work / "model.pt"
    path.write_bytes(path.read_bytes()[:5000])


def _nan(content: dict[str, Any]) -> None:
    next(iter(content["model"].values())).flatten()[0] = float("nan")


def _no_seg(work: Path) -> None:
    """A tokenizer to which [SEG] is text like any other."""
    byte_tokenizer().save_pretrained(work / "words")
    for file in (work / "words").glob("*.json"):
        file.write_text(file.read_text().replace("[SEG]", "[GES]"))
    _weights(lambda content: content["info"]["config"].update(tokenizer=str(work / "words")))(work)


def _all_torn(work: Path) -> None:
    for path in (work / "data" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])


def _earlier(work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "summary.csv").write_text("")


_INFERENCE_FAULTS: list[tuple[str, Callable[[Path], None] | None, dict[str, Any], str]] = [
    (
        "no checkpoint",
        lambda work: (work / "model.pt").unlink(),
        {},
        "fail  checkpoint: [CHECKPOINT] there is no check",
    ),
    ("truncated checkpoint", _cut, {}, "fail  checkpoint: [CHECKPOINT] model.pt can't be read as a checkpoint: "),
    (
        "incomplete checkpoint",
        _weights(lambda content: content["model"].pop("text_hidden_fcs.0.weight")),
        {},
        "1 keys missing (text_hidden_fcs.0.weight)|fail  checkpoint: [CHECKPOINT] model.pt doesn't fit this network: ",
    ),
    (
        "a weight left out by a conversion",
        _weights(lambda content: content["model"]["text_hidden_fcs.0.weight"].zero_()),
        {},
        "fail  checkpoint: [CHECKPOINT] model.pt holds nothing but 0 in text_hidden_fcs.0.weight: a conversion left it",
    ),
    (
        "a weight left as it was stored",
        _weights(
            lambda content: content["model"].update(
                {"text_hidden_fcs.0.bias": content["model"]["text_hidden_fcs.0.bias"].to(torch.int8)}
            )
        ),
        {},
        "fail  checkpoint: [CHECKPOINT] model.pt holds text_hidden_fcs.0.bias as int8, not as decimals; convert it",
    ),
    ("NaN weights", _weights(_nan), {}, "fail  checkpoint: [CHECKPOINT] model.pt holds NaN or infinite weights in "),
    (
        "other geometry",
        None,
        {"network_def#config": "tiny"},
        "grounding, |fail  checkpoint: [CHECKPOINT] model.pt was trained with another ",
    ),
    (
        "says nothing",
        _weights(lambda content: content.pop("info") and content),
        {"network_def#config": "$__import__('json').loads(open('{work}/config.json').read())"},
        "warn  checkpoint: model.pt doesn't say its geometry",
    ),
    ("tokenizer", _no_seg, {}, "lacks the special token [SEG]|fail  tokenizer: [CONFIG] tokenizer "),
    ("window", None, {"window": "lung"}, "fail  preprocessing: window is 'lung', training had 'auto'; "),
    ("axis", None, {"axis": "coronal"}, "fail  preprocessing: axis is 'coronal', training had 'auto'; "),
    ("unknown window", None, {"window": "lungs"}, "fail  preprocessing: [CONFIG] window is 'lungs'; allowed: "),
    ("empty prompt", None, {"prompts": "[' ']"}, "fail  prompts: [PROMPT] the prompt is empty; "),
    ("one torn image", _truncated, {}, "warn  images: 1 of 24 images can't be segmented: [DATA] {image} can't be read"),
    (
        "one image of a datalist missing",
        lambda work: _first(work, "image", "testing").unlink(),
        {"datalist": "{work}/data/datalist.json", "dataset_dir": "{work}/data"},
        "warn  images: 1 of 11 images can't be segmented: [DATA] ",
    ),
    ("all images torn", _all_torn, {}, "fail  images: 24 of 24 images can't be segmented: "),
    ("no images", None, {"dataset_dir": "nowhere"}, "fail  images: 1 of 1 images can't be segmented: [DATA] nowhere"),
    (
        "replaced results",
        _earlier,
        {"overwrite": True},
        "warn  results: {work}/out holds results of an earlier run, which are replaced",
    ),
    ("shard", None, {"shard": "'3/2'"}, "fail  results: [CONFIG] shard is '3/2'; give i/n, such as 1/8"),
    (
        "where",
        None,
        {"where": "Modalty=CT"},
        "fail  images: [CONFIG] where has 'Modalty', which is no keyword of DICOM",
    ),
    ("rules", None, {"rules": "{work}/gone.json"}, "fail  images: [CONFIG] rules gone.json is no file that is there"),
    (
        "output inside input",
        None,
        {"output_dir": "{work}/data/images/out"},
        "fail  images: [OUTPUT] the output folder '{work}/data/images/out' lies in the input folder ",
    ),
    (
        "a switch as text",
        None,
        {"include_patient": "false"},
        "fail  settings: include_patient is 'false'; give true or false, behind the command True or False",
    ),
    ("format", None, {"formats": "['dicom']"}, "fail  results: [CONFIG] format has 'dicom'; allowed: "),
    ("output", _file_in_the_way, {}, "fail  output folder: output_dir {work}/out can't be made, as out is a file"),
]


@pytest.mark.parametrize(
    ("plant", "overrides", "expected"), [f[1:] for f in _INFERENCE_FAULTS], ids=[f[0] for f in _INFERENCE_FAULTS]
)
def test_faults_before_inference_are_caught(
    repository: Path,
    work: Path,
    micro_config: Sa2VAConfig,
    plant: Any,
    overrides: dict[str, Any],
    expected: str,
) -> None:
    (work / "config.json").write_text(json.dumps(micro_config.to_dict()))
    if plant is not None:
        plant(work)
    overrides = {key: str(value).replace("{work}", str(work)) for key, value in overrides.items()}
    _expect(_check(repository, "inference", work, **overrides), work, expected)


# --- evaluation


def _no_truth(work: Path) -> None:
    _each(work, "testing", lambda entry: entry.pop("label"))


def _some_truth(work: Path) -> None:
    _datalist(work, lambda content: content["testing"][0].pop("label"))


def _few(work: Path) -> None:
    _datalist(work, lambda content: content.update(testing=content["testing"][:3]))


def _one_patient(work: Path) -> None:
    _each(work, "testing", lambda entry: entry.update(patient="P1"))


def _empty_patient(work: Path) -> None:
    _datalist(work, lambda content: content["testing"][0].update(patient=" "))


def _earlier_scores(work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "metrics.json").write_text("{}")


_EVALUATION_FAULTS: list[tuple[str, Callable[[Path], None] | None, dict[str, Any], str]] = [
    ("overwrite as text", None, {"overwrite": "false"}, "fail  settings: overwrite is 'false'; give true or false, "),
    ("seed", None, {"seed": -1}, "fail  settings: seed is -1; give a whole number of 0 to 4294967295"),
    ("no truth", _no_truth, {}, "fail  truth: testing: no entry has a label and prompts; "),
    ("some truth", _some_truth, {}, "will not be scored|warn  truth: testing: 1 of 11 entries have no truth ("),
    ("empty truth", lambda work: _keys(work, "testing"), {}, "fail  truth: testing: all true masks are empty; "),
    (
        "no section",
        None,
        {"section": "elsewhere"},
        "fail  truth: [DATALIST] {work}/data/datalist.json: there is no sec",
    ),
    ("truth of another shape", lambda work: _other_shape(work, "testing"), {}, "warn  truth: testing: [DATA] mask "),
    (
        "question",
        None,
        {"question": "vessels"},
        "fail  prompts: question is 'vessels'; give a sentence with one",
    ),
    ("long question", None, {"question": "{}" + "x" * 3000}, "fail  prompts: [PROMPT] the prompt has 30"),
    ("confidence", None, {"confidence": 95}, "fail  thresholds: confidence is 95; give a share between 0 and 1"),
    ("tolerance", None, {"surface_tolerance": -1}, "fail  thresholds: surface_tolerance is -1; give 0 or more, in mm"),
    ("resamples", None, {"resamples": 0.5}, "fail  thresholds: resamples is 0.5; give a whole number of at least 1"),
    ("summary", None, {"summary#confidence": 1.5}, "fail  thresholds: [CONFIG] confidence is 1.5; give a share"),
    (
        "presence threshold",
        _weights(lambda content: content["info"]["config"].update(presence_threshold=2.0)),
        {},
        "fail  thresholds: [CONFIG] presence_threshold is 2.0; give 0 to 1",
    ),
    ("few samples", _few, {}, "warn  samples: 3 images of 3 patients or groups; intervals of fewer than 10 say little"),
    ("few patients", _one_patient, {}, "warn  samples: 11 images of 1 patients or groups; intervals of fewer than 10"),
    ("a patient's empty name", _empty_patient, {}, "fail  samples: [DATALIST] entry 0.patient: give text or a whole "),
    ("no checkpoint", lambda work: (work / "model.pt").unlink(), {}, "fail  checkpoint: [CHECKPOINT] there is no che"),
    ("earlier scores", _earlier_scores, {"overwrite": False}, "fail  results: {work}/out holds results already; "),
    ("output", _file_in_the_way, {}, "fail  output folder: output_dir {work}/out can't be made, as out is a file"),
]


@pytest.mark.parametrize(
    ("plant", "overrides", "expected"), [f[1:] for f in _EVALUATION_FAULTS], ids=[f[0] for f in _EVALUATION_FAULTS]
)
def test_faults_before_evaluation_are_caught(
    repository: Path, work: Path, plant: Any, overrides: dict[str, Any], expected: str
) -> None:
    if plant is not None:
        plant(work)
    _expect(_check(repository, "evaluate", work, **overrides), work, expected)


def test_a_metric_that_hides_an_empty_mask_is_caught(
    repository: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # agreement where only the prediction is empty
    right = metrics.calculate_dice
    monkeypatch.setattr(metrics, "calculate_dice", lambda pred, gt: right(pred, gt) if np.any(pred) else 1.0)
    result = _check(repository, "evaluate", work)
    _expect(result, work, "fail  metrics: Dice of case 7 is 1, not 0; reinstall monai-sa2va")


# --- usage, and the run itself


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--learning_rat", "3e-4"],
            "unknown key learning_rat: nothing in the configuration uses it; did you mean lear",
        ),
        (
            ["--train#trainr", "True"],
            "unknown key train#trainr: nothing in the configuration uses it; did you mean",
        ),
        (
            ["--criterion#mask_weigth", "1"],
            "unknown key criterion#mask_weigth: Sa2VALoss takes no argument of that name; did you mean criterion",
        ),
        (["--train#trainr#amp", "True"], "unknown key train#trainr#amp: there is nothing that it could be a part of; "),
        (["nowhere.json"], "--config_file nowhere.json does not exist"),
        (["--", "-"], "'-' is no key of a configuration; give --key value"),
    ],
)
def test_wrong_usage_exits_2_in_one_line(repository: Path, words: list[str], message: str) -> None:
    file = str(repository / "bundle" / "configs" / "train.json")
    result = runner.invoke(app, ["check", "train", "--config_file", file, *words])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: [CONFIG] {message}")
    assert len(result.stderr.splitlines()) == 1


def test_a_broken_configuration_exits_2(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    result = runner.invoke(app, ["check", "train", "--config_file", str(tmp_path / "c.json")])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: [CONFIG] --config_file {tmp_path / 'c.json'} can't be read: ")
    assert runner.invoke(app, ["check", "dream", "--config_file", "x"]).exit_code == 2
    assert runner.invoke(app, ["check", "train"]).exit_code == 2


def test_arguments_of_the_run_itself_are_no_keys(repository: Path, work: Path) -> None:
    (work / "args.json").write_text('{"run_id": "training", "learning_rate": 0.5, "max_epochs": 3}')
    words = {"tracking": "mlflow", "run_name": "first", "logging_file": "none.conf", "meta_file": "none.json"}
    words |= {"run_id": "training", "init_id": "initialize", "final_id": "finalize", "workflow_type": "train"}
    result = _check(repository, "train", work, **words, args_file=work / "args.json")
    assert "fail  learning rate: learning_rate is 0.5; " in result.stdout
    # 2 epochs, as behind the command
    assert " optimizer steps in 2 epochs, " in result.stdout
    result = _check(repository, "train", work, args_file=work / "none.json")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: [CONFIG] --args_file {work / 'none.json'} can't be read: ")


def test_later_files_replace_keys(repository: Path, work: Path) -> None:
    (work / "mine.json").write_text('{"learning_rate": 0.5}')
    first = repository / "bundle" / "configs" / "train.json"
    arguments = ["check", "train", "--config_file", str(first), str(work / "mine.json"), "--dataset_dir", str(work)]
    assert "fail  learning rate: learning_rate is 0.5; " in runner.invoke(app, arguments).stdout


def _run(repository: Path, work: Path, run_id: str, *words: str) -> subprocess.CompletedProcess[str]:
    name = {"training": "train", "inference": "inference", "evaluating": "evaluate"}[run_id]
    file = repository / "bundle" / "configs" / f"{name}.json"
    values: dict[str, Any] = {"output_dir": work / "out"}
    values["dataset_dir"] = work / "data" / "images" if run_id == "inference" else work / "data"
    values |= {"ckpt_dir": work / "models", "num_workers": 0} if run_id == "training" else {"checkpoint": "model.pt"}
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(file)]
    command += [str(word) for key, value in values.items() for word in (f"--{key}", value)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *words], env=environment, cwd=work, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("run_id", "plant", "words", "message"),
    [
        (
            "training",
            None,
            ["--learning_rat", "3e-4"],
            "[CONFIG] unknown key learning_rat: nothing in the configuration uses it; did you mean learning_rate?",
        ),
        (
            "training",
            lambda work: (_truncated(work), _no_validation(work)),
            ["--max_epochs", "1"],
            "[PREFLIGHT] a check before the run failed, files: training: [DATA] {image} can't be read: image file is "
            "truncated (--preflight False runs without checks)",
        ),
        (
            "inference",
            None,
            ["--prompts", "['']"],
            "[PREFLIGHT] a check before the run failed, prompts: [PROMPT] the prompt is empty; write what to segment, "
            "e.g. 'Segment the vessels.' (--preflight False runs without checks)",
        ),
        (
            "evaluating",
            lambda work: _keys(work, "testing"),
            [],
            "[PREFLIGHT] a check before the run failed, truth: testing: all true masks are empty; correct the keys of "
            "the prompts (--preflight False runs without checks)",
        ),
        # found while it runs
        ("evaluating", None, ["--preflight", "False", "--section", "x"], "[DATALIST] {work}/data/datalist.json: there"),
    ],
)
def test_a_run_with_a_fault_ends_in_one_line(
    repository: Path, work: Path, run_id: str, plant: Any, words: list[str], message: str
) -> None:
    if plant is not None:
        plant(work)
    before = _files(work)
    done = _run(repository, work, run_id, *words)
    assert done.returncode == 1
    expected = message.format(work=work, image=_first(work, "image").name)
    assert done.stderr.splitlines()[-1].startswith(f"error: {expected}")
    assert "Traceback" not in done.stdout + done.stderr
    if run_id == "training":
        # what is only warned of is logged
        assert ("there is no validation section" in done.stdout) == (plant is not None)
    assert _files(work) == before


@pytest.mark.slow
def test_debug_shows_the_traceback_of_a_run(repository: Path, work: Path) -> None:
    done = _run(repository, work, "inference", "--prompts", "['']", "--debug", "True")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_checks_can_be_switched_off(repository: Path, work: Path) -> None:
    # warned of, but no reason to end
    words = ["--max_epochs", "1", "--total_steps", "400"]
    done = _run(repository, work, "training", *words, "--preflight", "False")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the run makes" not in done.stdout + done.stderr
    assert (work / "models" / "model.pt").is_file()
