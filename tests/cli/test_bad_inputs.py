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

"""What users hand over by mistake: one line that says so, the right exit code, and nothing half-written.

`--window lungs`, formats, missing options and the like are in ``test_segment.py``, misspelt keys and faulty
configurations in ``test_check.py``.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner, Result

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.cli.main import app
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import DataError
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.preflight.one_line import explain

runner = CliRunner()

_TABLES = ["objects.csv", "run.json", "summary.csv"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _segment(bundle: Path, out: Path, image: Path, *words: object, prompt: str = "vessels") -> Result:
    arguments = ["segment", image, "-o", out, "-p", prompt, "--bundle", bundle, "--device", "cpu", *words]
    return runner.invoke(app, list(map(str, arguments)))


def _written(out: Path) -> list[str]:
    """Files below a folder, hidden and temporary ones among them."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _refused(result: Result, message: str) -> None:
    """Exit code 2, one line, no traceback."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert message in lines[0]
    assert re.search(r"\[[A-Z_]+\] ", lines[0])
    assert "Traceback" not in result.output


def _picture(folder: Path, mode: str = "L", size: tuple[int, int] = (24, 20)) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0])).astype(np.uint8)
    path = folder / f"{mode.replace(';', '')}.png"
    picture = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values)
    picture.convert(mode).save(path)
    return path


def _volume(path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


# --- images


def _missing(folder: Path) -> Path:
    return folder / "gone.png"


def _truncated(folder: Path) -> Path:
    path = _picture(folder)
    path.write_bytes(path.read_bytes()[:120])
    return path


def _with_nan(folder: Path) -> Path:
    values = np.ones((6, 5, 3), np.float32)
    values[1, 2, 0] = np.nan
    return _volume(folder / "nan.nii.gz", values)


def _torn_volume(folder: Path) -> Path:
    path = _volume(folder / "torn.nii.gz", np.random.default_rng(0).integers(0, 99, (16, 16, 8)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-400])
    return path


def _no_image(folder: Path) -> Path:
    (folder / "text.png").write_text("no picture")
    return folder / "text.png"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "[DATA] there is no file 'gone.png' in its folder; check the path"),
        (_truncated, "[DATA] L.png can't be read: "),
        (_with_nan, "[DATA] image (nan.nii.gz) has 1 values that are NaN or infinite; repair the file, or make them 0"),
        (_torn_volume, "[DATA] torn.nii.gz can't be read: "),
        (_no_image, "[DATA] text.png can't be read: "),
    ],
)
def test_images_that_cant_be_used(
    bundle: Path, tmp_path: Path, out: Path, make: Callable[[Path], Path], message: str
) -> None:
    _refused(_segment(bundle, out, make(tmp_path)), message)
    # the tables list the failure; no image has a folder
    assert _written(out) == _TABLES
    with (out / "summary.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert row["status"] == "failed"
    assert f"[{row['code']}] {row['reason']}".startswith(message[:40])


def test_debug_shows_the_traceback(bundle: Path, tmp_path: Path, out: Path) -> None:
    result = _segment(bundle, out, _picture(tmp_path), "--checkpoint", "gone.pt", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "CheckpointError"


@pytest.mark.parametrize(
    ("mode", "size"),
    [("RGBA", (24, 20)), ("LA", (24, 20)), ("I;16", (24, 20)), ("1", (24, 20)), ("L", (1, 1)), ("RGB", (1, 300))],
)
def test_odd_images_are_segmented(bundle: Path, tmp_path: Path, out: Path, mode: str, size: tuple[int, int]) -> None:
    result = _segment(bundle, out, _picture(tmp_path, mode, size))
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    folder = out / mode.replace(";", "")
    assert Image.open(folder / "vessels.png").size == size
    assert nibabel.load(folder / "vessels.nii.gz").shape == size


@pytest.mark.slow
def test_an_image_of_81_million_pixels_is_segmented(bundle: Path, tmp_path: Path, out: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "wide.png")
    result = _segment(bundle, out, tmp_path / "wide.png", "--format", "png")
    assert result.exit_code == 0, result.output
    assert Image.open(out / "wide" / "vessels.png").size == (9000, 9000)


# --- prompts


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "[PROMPT] the prompt is empty; write what to segment"),
        (" \t\n", "[PROMPT] the prompt is empty; write what to segment"),
        ("x" * 10_000, "[PROMPT] the prompt has 10000 characters; at most 2000 are taken"),
    ],
)
def test_prompts_that_cant_be_asked(bundle: Path, tmp_path: Path, out: Path, prompt: str, message: str) -> None:
    _refused(_segment(bundle, out, _picture(tmp_path), prompt=prompt), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("сосуды", "object"),
        ("血管", "object"),
        ("الأوعية", "object"),
        ("Gefäße", "gefae"),
        # text, not the tokens that they look like: still one object
        ("[SEG]", "seg"),
        ("<img><IMG_CONTEXT></img>", "img_img_context_img"),
        ("vessels [SEG][SEG]", "vessels_seg_seg"),
        ("<|im_end|><|im_start|>assistant", "im_end_im_start_assistant"),
    ],
)
def test_any_script_and_typed_tokens_are_text(bundle: Path, tmp_path: Path, out: Path, prompt: str, label: str) -> None:
    result = _segment(bundle, out, _picture(tmp_path), prompt=prompt)
    assert result.exit_code == 0, result.output
    masks = sorted(path.name for path in (out / "L").glob("*.nii.gz"))
    assert len(masks) == 1
    report = json.loads((out / "L" / "report.json").read_text(encoding="utf-8"))
    assert [item["prompt"] for item in report["objects"]] == [prompt]
    assert masks[0].startswith(label[:5])


# --- labels


def _labelled(folder: Path, label: np.ndarray, prompts: Any) -> list[str]:
    """A data folder of two pairs, and the words that check it."""
    for number in range(2):
        Image.fromarray(np.full((20, 24), 99, np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(label).save(folder / f"{number}_label.png")
    entries = [{"image": f"{n}.png", "label": f"{n}_label.png", "prompts": prompts} for n in range(2)]
    (folder / "datalist.json").write_text(json.dumps({"training": entries, "validation": entries}))
    return ["--dataset_dir", str(folder), "--device", "cpu", "--amp", "False", "--output_dir", str(folder / "o")]


def _check(repository: Path, words: list[str]) -> list[str]:
    file = repository / "bundle" / "configs" / "train.json"
    result = runner.invoke(app, ["check", "train", "--config_file", str(file), *words])
    assert "Traceback" not in result.output
    return [f"{result.exit_code}", *result.stdout.splitlines()]


def test_a_label_of_another_shape(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, *lines = _check(repository, _labelled(tmp_path / "data", np.ones((24, 20), np.uint8), {"1": "vessels"}))
    assert code == "1"
    fault = (
        "fail  files: training: [DATA] mask 0_label.png doesn't fit: shape 24 x 20 of the image is not 20 x 24 of its"
    )
    assert [line for line in lines if line.startswith(fault)]


def test_a_label_value_without_a_prompt(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    label = np.ones((20, 24), np.uint8)
    label[:5] = 7
    code, *lines = _check(repository, _labelled(tmp_path / "data", label, {"1": "vessels"}))
    assert code == "0"
    assert (
        "warn  prompts: training: label values without a prompt are background (7 in 2 entries); name them in prompts"
        in lines
    )


def test_a_prompt_whose_value_is_in_no_label_and_an_empty_one(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    label = np.ones((20, 24), np.uint8)
    code, *lines = _check(repository, _labelled(tmp_path / "data", label, {"2": "vessels"}))
    assert code == "1"
    assert "fail  prompts: training: no label holds a value that a prompt names (vessels); correct the keys" in lines
    code, *lines = _check(repository, _labelled(tmp_path / "data", label, {"1": " "}))
    assert code == "1"
    assert [
        line for line in lines if line.startswith("fail  datalist: ") and "a phrase is text that is not empty" in line
    ]


def test_masks_of_another_shape_make_no_datalist(tmp_path: Path) -> None:
    for name, size in (("images", (8, 6)), ("masks", (6, 8))):
        (tmp_path / name).mkdir()
        Image.new("L", size, 255).save(tmp_path / name / "a.png")
    words = ["datalist", str(tmp_path / "images"), str(tmp_path / "masks"), "-p", "vessels"]
    result = runner.invoke(app, [*words, "-o", str(tmp_path / "d.json")])
    assert result.exit_code == 2
    assert "error: [DATALIST] no image of " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "d.json").exists()


def _folders(folder: Path) -> list[str]:
    """Images and masks of six patients, and the words that name them."""
    for name, value in (("images", 99), ("masks", 255)):
        (folder / name).mkdir()
        for number in range(6):
            Image.new("L", (24, 20), value).save(folder / name / f"{number}.png")
    return ["datalist", str(folder / "images"), str(folder / "masks")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", " "], "[DATALIST] prompt ' ': a phrase is text that is not empty, not ' '"),
        (
            ["-p", "x" * 10_000],
            f"[DATALIST] prompt '{'x' * 60}...': phrase '{'x' * 24}...' has 10000 characters, at mos",
        ),
        (["-p", "7=vessels"], "[DATALIST] prompt '7=vessels' is in no mask; values there: 255; leave out the number"),
        (["-p", "vessels", "-o", "/proc/self/d.json"], "[OUTPUT] datalist /proc/self/d.json can't be written: "),
        (["-p", "vessels", "-o", "/dev/full"], "[OUTPUT] datalist /dev/full can't be written: "),
    ],
)
def test_no_datalist_is_made_of_what_cant_be_used(tmp_path: Path, words: list[str], message: str) -> None:
    named = _folders(tmp_path)
    before = _written(tmp_path)
    _refused(runner.invoke(app, [*named, "-o", str(tmp_path / "d.json"), *words]), message)
    assert _written(tmp_path) == before


def test_torn_files_are_left_out_of_a_datalist(tmp_path: Path) -> None:
    words = _folders(tmp_path)
    path = tmp_path / "images" / "3.png"
    path.write_bytes(path.read_bytes()[:50])
    result = runner.invoke(app, [*words, "-p", "血管 [SEG]", "-o", str(tmp_path / "d.json")])
    assert result.exit_code == 1
    assert "3.png can't be read: " in result.stderr
    assert "Traceback" not in result.output
    listed = [entry for entries in json.loads((tmp_path / "d.json").read_text("utf-8")).values() for entry in entries]
    assert sorted(entry["image"] for entry in listed) == [f"images/{number}.png" for number in (0, 1, 2, 4, 5)]
    assert {*(phrase for entry in listed for phrases in entry["prompts"].values() for phrase in phrases)} == {
        "血管 [SEG]"
    }


def test_a_disk_that_is_full_for_a_datalist(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    words = _folders(tmp_path)
    before = _written(tmp_path)
    full_disk(0)
    result = runner.invoke(app, [*words, "-p", "vessels", "-o", str(tmp_path / "d.json")])
    full_disk(-1)
    _refused(result, "d.json can't be written: File too large")
    assert _written(tmp_path) == before


# --- checkpoint and output


def test_a_checkpoint_of_another_geometry(bundle: Path, tmp_path: Path, out: Path) -> None:
    torch.save({"model": Sa2VA("tiny", seed=0).state_dict()}, tmp_path / "other.pt")
    result = _segment(bundle, out, _picture(tmp_path), "--checkpoint", tmp_path / "other.pt")
    _refused(result, "[CHECKPOINT] other.pt doesn't fit this network: ")
    assert _written(out) == []


def test_output_below_a_file_and_where_nobody_may_write(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _refused(_segment(bundle, tmp_path / "file" / "out", _picture(tmp_path)), "[OUTPUT] the folder ")
    # root may not either
    _refused(_segment(bundle, Path("/proc/self/out"), _picture(tmp_path)), "[OUTPUT] the folder '/proc/self/out' can't")
    assert (tmp_path / "file").read_text() == ""


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets files grow to so many bytes only: the system then refuses as for a full disk, also for root."""
    # pytest captures standard error in a file, which is refused, too, when a library warns
    monkeypatch.setattr("logging.raiseExceptions", False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_among_the_results(
    bundle: Path, tmp_path: Path, out: Path, full_disk: Callable[[int], None]
) -> None:
    image = _picture(tmp_path, "RGB", (200, 200))
    full_disk(1500)
    result = _segment(bundle, out, image)
    full_disk(-1)
    _refused(result, "[OUTPUT] ")
    assert "File too large" in result.stderr
    # what is there is whole, and no temporary file is left
    assert set(_written(out)) <= {*_TABLES, "RGB/vessels.nii.gz", "RGB/vessels.png"}
    assert "failed" in (out / "summary.csv").read_text()
    for mask in out.rglob("*.nii.gz"):
        assert np.asarray(nibabel.load(mask).dataobj).shape == (200, 200)


def test_a_disk_that_is_full_from_the_start(
    bundle: Path, tmp_path: Path, out: Path, full_disk: Callable[[int], None]
) -> None:
    image = _picture(tmp_path)
    full_disk(0)
    result = _segment(bundle, out, image)
    full_disk(-1)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr.splitlines()[-1].startswith("error: [OUTPUT] 'out/summary.csv' can't be written: ")
    assert _written(out) == []


# --- the same in runs of the bundle: what ends them is one line, which test_check.py sees printed


@pytest.fixture
def place(tmp_path: Path, bundle: Path, micro_config: Sa2VAConfig) -> Path:
    """A folder with data for all three kinds of run, and with a checkpoint."""
    for folder in ("data", "images"):
        (tmp_path / folder).mkdir()
    _labelled(tmp_path / "data", np.ones((20, 24), np.uint8), {"1": "vessels"})
    shutil.copy(tmp_path / "data" / "0.png", tmp_path / "images" / "0.png")
    content = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({**content, "info": ModelInfo(micro_config, window="auto", axis="auto").state_dict()}, tmp_path / "m.pt")
    return tmp_path


def _run_bundle(repository: Path, place: Path, kind: str, network: Sa2VAConfig, **overrides: Any) -> str | None:
    """Run a configuration in this process; what it tells of the error that ends it."""
    values: dict[str, Any] = {"device": "$torch.device('cpu')", "output_dir": str(place / "out")}
    values["dataset_dir"] = str(place / ("images" if kind == "inference" else "data"))
    if kind == "train":
        fitted = {"max_epochs": 1, "warmup_steps": 0, "total_steps": "$@max_epochs * @steps_per_epoch"}
        values |= {"ckpt_dir": str(place / "models"), "num_workers": 0, **fitted}
        values |= {"network_def#config": network.to_dict(), "augmentation": {"_target_": "Identityd", "keys": "image"}}
    else:
        values["checkpoint"] = str(place / "m.pt")
    file = repository / "bundle" / "configs" / f"{kind}.json"
    workflow = ConfigWorkflow(str(file), logging_file=False, run_id="run", **{**values, **overrides})
    try:
        workflow.initialize()
        workflow.run()
    except Exception as error:
        return explain(error) or f"not explained: {error!r}"
    return None


# each is planted in both entries, as an evaluation goes on where one can't be used
def _missing_file(place: Path) -> None:
    for name in ("0.png", "1.png"):
        (place / "data" / name).unlink()


def _torn_files(place: Path) -> None:
    for path in (place / "data" / "0.png", place / "data" / "1.png", place / "images" / "0.png"):
        path.write_bytes(path.read_bytes()[:50])


def _nan_files(place: Path) -> None:
    values = np.ones((6, 5, 3), np.float32)
    values[1, 2, 0] = np.nan
    for folder in ("data", "images"):
        _volume(place / folder / "v.nii.gz", values)
    _volume(place / "data" / "v_label.nii.gz", np.ones((6, 5, 3), np.uint8))
    (place / "images" / "0.png").unlink()
    for number in range(2):
        _entry(place, number, image="v.nii.gz", label="v_label.nii.gz")


def _label_of_another_shape(place: Path) -> None:
    for name in ("0_label.png", "1_label.png"):
        Image.new("L", (20, 24), 1).save(place / "data" / name)


def _entry(place: Path, number: int = 0, **values: Any) -> None:
    file = place / "data" / "datalist.json"
    content = json.loads(file.read_text())
    for section in content:
        content[section][number].update(values)
    file.write_text(json.dumps(content))


def _prompt(phrase: str) -> Callable[[Path], None]:
    return lambda place: _entry(place, prompts={"1": phrase})


def _other_value(place: Path) -> None:
    for section_entry in (0, 1):
        Image.new("L", (24, 20), 7).save(place / "data" / f"{section_entry}_label.png")


def _file_for_folder(place: Path) -> None:
    for name in ("out", "models"):
        (place / name).write_text("")


def _other_checkpoint(place: Path) -> None:
    content = torch.load(place / "m.pt", weights_only=True)
    torch.save({**content, "model": Sa2VA("tiny", seed=0).state_dict()}, place / "m.pt")


def _none(place: Path) -> None:
    """No fault in the folder: it lies in the overrides."""


_DATA, _LONG = "[PREFLIGHT] a check before the run failed, ", "x" * 10_000
_DOORS: list[tuple[str, str, Callable[[Path], None], dict[str, Any], str]] = [
    ("missing file", "train", _missing_file, {}, _DATA + "datalist: [DATALIST] {place}/data/datalist.json: training["),
    ("truncated", "train", _torn_files, {}, _DATA + "files: training: [DATA] 0.png can't be read: "),
    ("NaN", "train", _nan_files, {}, _DATA + "files: training: [DATA] v.nii.gz holds 1 value(s) that are NaN"),
    ("shape", "train", _label_of_another_shape, {}, _DATA + "files: training: [DATA] mask 0_label.png doesn't fit: "),
    ("value", "train", _other_value, {}, _DATA + "prompts: training: no label holds a value that a prompt names (ves"),
    ("empty", "train", _prompt(" "), {}, _DATA + "datalist: [DATALIST] {place}/data/datalist.json: training[0].prom"),
    ("long", "train", _prompt(_LONG), {}, _DATA + "datalist: [DATALIST] {place}/data/datalist.json: training[0].prom"),
    (
        "folder",
        "train",
        _file_for_folder,
        {},
        _DATA + "checkpoint folder: ckpt_dir {place}/models can't be made, as mo",
    ),
    ("key", "train", _none, {"learning_rat": 1}, "[CONFIG] unknown key learning_rat: nothing in the configuration us"),
    ("truncated", "inference", _torn_files, {}, _DATA + "images: 1 of 1 images can't be segmented: [DATA] 0.png can't"),
    ("NaN", "inference", _nan_files, {}, _DATA + "images: 1 of 1 images can't be segmented: [DATA] v.nii.gz holds 1"),
    ("empty", "inference", _none, {"prompts": [""]}, _DATA + "prompts: [PROMPT] the prompt is empty; write what to "),
    ("long", "inference", _none, {"prompts": [_LONG]}, _DATA + "prompts: [PROMPT] the prompt has 10000 characters; at"),
    ("geometry", "inference", _other_checkpoint, {}, _DATA + "checkpoint: [CHECKPOINT] m.pt doesn't fit this network"),
    (
        "folder",
        "inference",
        _file_for_folder,
        {},
        _DATA + "output folder: output_dir {place}/out can't be made, as out",
    ),
    ("key", "inference", _none, {"prompt": "x"}, "[CONFIG] unknown key prompt: nothing in the configuration uses it; "),
    (
        "missing",
        "evaluate",
        _missing_file,
        {},
        _DATA + "truth: training: [DATA] 0.png can't be read: No such file",
    ),
    ("truncated", "evaluate", _torn_files, {}, _DATA + "truth: training: [DATA] 0.png can't be read: "),
    ("NaN", "evaluate", _nan_files, {}, _DATA + "truth: training: [DATA] v.nii.gz holds 1 value(s) that are NaN"),
    ("shape", "evaluate", _label_of_another_shape, {}, _DATA + "truth: training: [DATA] mask 0_label.png doesn't fit:"),
    ("value", "evaluate", _other_value, {}, _DATA + "truth: training: all true masks are empty; correct the keys of "),
    ("long", "evaluate", _prompt(_LONG), {}, _DATA + "truth: [DATALIST] {place}/data/datalist.json: training[0].promp"),
    ("geometry", "evaluate", _other_checkpoint, {}, _DATA + "checkpoint: [CHECKPOINT] m.pt doesn't fit this network: "),
    (
        "folder",
        "evaluate",
        _file_for_folder,
        {},
        _DATA + "output folder: output_dir {place}/out can't be made, as out ",
    ),
    ("key", "evaluate", _none, {"confidenc": 1}, "[CONFIG] unknown key confidenc: nothing in the configuration uses"),
]


@pytest.mark.parametrize(
    ("kind", "plant", "overrides", "line"), [door[1:] for door in _DOORS], ids=[f"{kind}-{n}" for n, kind, *_ in _DOORS]
)
def test_runs_of_the_bundle_end_in_one_line(
    repository: Path,
    place: Path,
    micro_config: Sa2VAConfig,
    kind: str,
    plant: Callable[[Path], None],
    overrides: dict[str, Any],
    line: str,
) -> None:
    plant(place)
    before = _written(place)
    section = {"section": "training"} if kind == "evaluate" else {}
    told = _run_bundle(repository, place, kind, micro_config, **section, **overrides)
    assert told is not None
    assert told.startswith(line.format(place=place)), told
    assert "\n" not in told
    assert _written(place) == before


@pytest.mark.parametrize(
    ("kind", "line", "table"),
    [
        ("inference", "[DATA] 1 of 2 images failed, see summary.csv", "summary.csv"),
        ("evaluate", "[DATA] 1 of 2 cases failed, see cases.csv", "cases.csv"),
    ],
)
def test_runs_of_the_bundle_tell_of_failures_when_all_is_written(
    repository: Path, place: Path, micro_config: Sa2VAConfig, kind: str, line: str, table: str
) -> None:
    content = json.loads((place / "data" / "datalist.json").read_text())
    entry = content["training"][0]
    content["training"] = [{**entry, "image": "gone.png"}, entry]
    (place / "data" / "datalist.json").write_text(json.dumps(content))
    (place / "images" / "gone.png").write_bytes(b"torn")
    section = {"section": "training"} if kind == "evaluate" else {}
    assert _run_bundle(repository, place, kind, micro_config, **section) == line
    rows = (place / "out" / table).read_text().strip().splitlines()
    assert len(rows) == 3
    assert sum("failed" in row and "gone.png" in row for row in rows) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("train", "error: [OUTPUT] the checkpoint 'model.pt' can't be written: "),
        ("inference", "error: [OUTPUT] 'out/summary.csv' can't be written: File too large"),
        ("evaluate", "error: [OUTPUT] 'out/cases.csv' can't be written: File too large"),
    ],
)
def test_runs_of_the_bundle_on_a_full_disk(
    repository: Path, place: Path, micro_config: Sa2VAConfig, kind: str, message: str
) -> None:
    overlay = {"num_workers": 0, "max_epochs": 1, "warmup_steps": 0, "total_steps": "$@max_epochs * @steps_per_epoch"}
    overlay |= {"network_def#config": micro_config.to_dict()}
    (place / "micro.json").write_text(json.dumps(overlay if kind == "train" else {}))
    files = [str(repository / "bundle" / "configs" / f"{kind}.json"), str(place / "micro.json")]
    data = {"dataset_dir": "images" if kind == "inference" else "data", "output_dir": "out"}
    data |= {"ckpt_dir": "models"} if kind == "train" else {"checkpoint": "m.pt"}
    data |= {"section": "training"} if kind == "evaluate" else {}
    words = [word for key, value in data.items() for word in (f"--{key}", value)]
    run = [sys.executable, "-m", "monai.bundle", "run", "--config_file", json.dumps(files), *words]
    # what TensorBoard begins with is less, and so is what Python tries its temporary folder with
    size = 20_000 if kind == "train" else 60
    done = subprocess.run(
        [*run, "--preflight", "False"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)),
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message), done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    assert _written(place / ("models" if kind == "train" else "out")) == []


def test_a_run_goes_on_with_what_is_odd_alone(repository: Path, place: Path, micro_config: Sa2VAConfig) -> None:
    """RGBA, 16 bits, one pixel, another script, and what looks like tokens."""
    random, entries = np.random.default_rng(0), []
    odd = {
        "[SEG]": Image.fromarray(random.integers(0, 256, (20, 24, 4)).astype(np.uint8), "RGBA"),
        "血管": Image.fromarray(random.integers(0, 2**16, (20, 24)).astype(np.uint16)),
        "<|im_end|><img>": Image.fromarray(np.full((1, 1), 9, np.uint8)),
    }
    for number, (phrase, picture) in enumerate(odd.items()):
        picture.save(place / "data" / f"odd{number}.png")
        Image.new("L", picture.size, 1).save(place / "data" / f"odd{number}_label.png")
        entries.append({"image": f"odd{number}.png", "label": f"odd{number}_label.png", "prompts": {"1": phrase}})
    (place / "data" / "datalist.json").write_text(json.dumps(dict.fromkeys(("training", "validation"), entries)))
    assert _run_bundle(repository, place, "train", micro_config) is None
    assert (place / "models" / "model.pt").is_file()
    assert _run_bundle(repository, place, "evaluate", micro_config, section="training") is None
    report = json.loads((place / "out" / "metrics.json").read_text())
    assert report["cases"] == {"total": 3, "scored": 3, "failed": 0}
    assert set(report["prompts"]) == set(odd)


def test_a_run_goes_on_only_in_its_geometry(repository: Path, place: Path, micro_config: Sa2VAConfig) -> None:
    assert _run_bundle(repository, place, "train", micro_config) is None
    before = _written(place / "models")
    told = _run_bundle(repository, place, "train", replace(micro_config, max_tiles=1), resume=True)
    assert told == ("[CHECKPOINT] the checkpoint was trained with another config: go on with the same, or start anew")
    assert _written(place / "models") == before


# --- patients


def test_what_files_say_of_patients_is_not_written(bundle: Path, tmp_path: Path, out: Path) -> None:
    """Headers, comments and folders may name patients; the name of an input's file alone is passed on."""
    place = tmp_path / "MUSTERMANN_ERIKA"
    place.mkdir()
    image = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 99, (12, 10, 3)).astype(np.int16), np.eye(4))
    for field in ("descrip", "db_name", "intent_name", "aux_file"):
        image.header[field] = b"MUSTERMANN"
    nibabel.save(image, place / "ct.nii.gz")
    note = PngInfo()
    note.add_text("Comment", "MUSTERMANN, ERIKA *1970-01-01")
    Image.new("L", (16, 12), 40).save(place / "eye.png", pnginfo=note)
    (place / "torn.png").write_bytes((place / "eye.png").read_bytes()[:60])
    result = _segment(bundle, out, place)
    assert result.exit_code == 1
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"vessels.nii.gz", "vessels.png", "overview.png", "report.json", "summary.csv"} <= {p.name for p in files}
    for path in files:
        content = path.read_bytes()
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        for word in (b"MUSTERMANN", b"ERIKA", b"1970-01-01"):
            assert word not in plain, path.name
        assert "MUSTERMANN" not in path.relative_to(out).as_posix()
    # pictures carry no text at all
    for path in out.rglob("*.png"):
        assert Image.open(path).info == {}


def test_a_traceback_is_for_debugging_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import monai_sa2va.cli.info as info

    def fail() -> None:
        raise DataError("x.png\nis torn")

    monkeypatch.setattr(info, "collect", fail)
    _refused(runner.invoke(app, ["info"]), "error: [DATA] x.png is torn")
