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

"""``monai-sa2va segment``."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from monai_sa2va.cli.main import app
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.networks.chat import Reply
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmentation, Segmenter

runner = CliRunner()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text("{}")
    inference = {
        "bundle_root": ".",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "network_def": {"_target_": "monai_sa2va.networks.sa2va.Sa2VA", "config": "tiny", "seed": 1},
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    torch.save({"model": Sa2VA("tiny", seed=0).state_dict()}, folder / "models" / "model.pt")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)).save(folder / "eye.png")
    volume = rng.integers(0, 500, (5, 4, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 2.0, -3.0, 1.0])), folder / "ct.nii.gz")
    return folder


def _run(*arguments: object) -> Result:
    return runner.invoke(app, ["segment", *map(str, arguments), "--device", "cpu"])


def test_a_folder_is_segmented(bundle: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _run(images, "-p", "Segment the vessels.", "--prompt", "optic disc", "-o", out, "--bundle", bundle)
    assert result.exit_code == 0, result.output
    assert f"segmented 2 of 2 images; results are in {out}" in result.stdout
    expected = Segmenter(Sa2VA("tiny", seed=0), device="cpu")
    for name, folder in (("eye.png", "eye"), ("ct.nii.gz", "ct")):
        found = expected.segment(images / name, ["Segment the vessels.", "optic disc"]).on_source_grid()
        for number, label in enumerate(("vessels", "optic_disc")):
            written = np.asarray(nib.load(out / folder / f"{label}.nii.gz").dataobj)
            np.testing.assert_array_equal(written, found[number].astype(np.uint8))
    assert (out / "eye" / "vessels.png").is_file()
    assert not (out / "ct" / "vessels.png").exists()
    with (out / "summary.csv").open() as stream:
        assert [row["image"] for row in csv.DictReader(stream)] == ["ct.nii.gz", "eye.png"]


def test_volumes_are_sliced_as_asked(bundle: Path, images: Path, tmp_path: Path) -> None:
    arguments = (images / "ct.nii.gz", "-p", "vessels", "--bundle", bundle, "--window", '{"kind": "percentile"}')
    assert _run(*arguments, "--axis", "coronal", "-o", tmp_path / "out").exit_code == 0
    network = Sa2VA("tiny", seed=0)
    expected, other = (
        Segmenter(network, device="cpu", axis=axis).segment(images / "ct.nii.gz", "vessels").on_source_grid()[0]
        for axis in ("coronal", "auto")
    )
    written = np.asarray(nib.load(tmp_path / "out" / "ct" / "vessels.nii.gz").dataobj)
    np.testing.assert_array_equal(written, expected)
    assert (written != other).any()


def test_window_and_axis_are_the_checkpoints_unless_given(bundle: Path, images: Path, tmp_path: Path) -> None:
    weights = {"model": Sa2VA("tiny", seed=0).state_dict(), "info": {"axis": "coronal"}}
    torch.save(weights, tmp_path / "coronal.pt")
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    config["imports"] = ["$from monai_sa2va.checkpoints.info import stored"]
    config["axis"] = "$stored(@checkpoint, 'axis', 'auto')"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    arguments = (images / "ct.nii.gz", "-p", "vessels", "--bundle", tmp_path, "--checkpoint", tmp_path / "coronal.pt")
    masks = {}
    for name, more in (("own", ()), ("same", ("--axis", "coronal")), ("other", ("--axis", "sagittal"))):
        assert _run(*arguments, *more, "-o", tmp_path / name).exit_code == 0
        masks[name] = np.asarray(nib.load(tmp_path / name / "ct" / "vessels.nii.gz").dataobj)
    np.testing.assert_array_equal(masks["own"], masks["same"])
    assert (masks["own"] != masks["other"]).any()


def test_a_cine_is_seen_by_its_first_frames(bundle: Path, images: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cine = rng.integers(0, 500, (12, 10, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(cine, np.diag([-1.0, -1.0, 4.0, 1.0])), tmp_path / "cine.nii.gz")
    arguments = (tmp_path / "cine.nii.gz", "-p", "Segment the vessels.", "--bundle", bundle)
    assert _run(*arguments, "--context", "first5", "-o", tmp_path / "out").exit_code == 0
    segmenter = Segmenter(Sa2VA("tiny", seed=0), device="cpu")
    expected, other = (
        segmenter.segment(tmp_path / "cine.nii.gz", "Segment the vessels.", context=context).on_source_grid()[0]
        for context in ("first5", None)
    )
    written = np.asarray(nib.load(tmp_path / "out" / "cine" / "vessels.nii.gz").dataobj)
    np.testing.assert_array_equal(written, expected)
    assert (written != other).any()


def test_a_chat_may_answer_in_words_alone(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def reply(network: Sa2VA, tokens: torch.Tensor, text: str, limit: int) -> Reply:
        told.append(text)
        return Reply((72, 105), "There is no cyst.", ())

    monkeypatch.setattr("monai_sa2va.inferers.image.generate_reply", reply)
    arguments = (images / "ct.nii.gz", "-p", "Is there a cyst?", "--bundle", bundle, "--mode", "chat")
    assert _run(*arguments, "-o", tmp_path / "out").exit_code == 0
    assert told == ["Is there a cyst?"]
    report = json.loads((tmp_path / "out" / "ct" / "report.json").read_text())
    assert (report["text"], report["objects"]) == ("There is no cyst.", [])
    assert _run(*arguments[:-1], "talk", "-o", tmp_path / "other").exit_code == 2


def test_one_bad_input_doesnt_stop_the_rest(bundle: Path, images: Path, tmp_path: Path) -> None:
    torn = images / "torn.png"
    torn.write_bytes((images / "eye.png").read_bytes()[:80])
    arguments = (images / "missing.png", torn, images / "eye.png", "-p", "vessels", "--bundle", bundle)
    result = _run(*arguments, "-o", tmp_path / "out", "--format", "png")
    assert result.exit_code == 1
    assert "segmented 1 of 3 images; 2 failed" in result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2
    assert lines[0] == "missing.png: [DATA] there is no file 'missing.png' in its folder; check the path"
    assert lines[1].startswith("torn.png: [DATA] torn.png can't be read: ")
    assert (tmp_path / "out" / "eye" / "vessels.png").is_file()
    assert not (tmp_path / "out" / "eye" / "vessels.nii.gz").exists()


def test_nothing_usable_exits_2(bundle: Path, images: Path, tmp_path: Path) -> None:
    result = _run(images / "missing.png", "-p", "vessels", "-o", tmp_path / "out", "--bundle", bundle)
    assert result.exit_code == 2
    assert "segmented 0 of 1 images" in result.stdout


def test_results_are_replaced_only_when_asked(bundle: Path, images: Path, tmp_path: Path) -> None:
    arguments = (images / "eye.png", "-p", "vessels", "-o", tmp_path / "out", "--bundle", bundle)
    assert _run(*arguments).exit_code == 0
    report, run = tmp_path / "out" / "eye" / "report.json", tmp_path / "out" / "run.json"
    before = report.read_bytes()
    assert json.loads(run.read_text())["computed"] == ["eye.png"]
    again = _run(*arguments)
    assert (again.exit_code, again.stdout.split(";")[0]) == (0, "segmented 1 of 1 images, 1 of them by an earlier run")
    assert (report.read_bytes(), json.loads(run.read_text())["computed"]) == (before, [])
    changes: tuple[tuple[object, ...], ...] = (("--overwrite",), ("-p", "optic disc"), ("--window", "dtype"))
    for more in (*changes, ("--format", "nifti")):
        assert _run(*arguments, *more).exit_code == 0
        assert json.loads(run.read_text())["computed"] == ["eye.png"], more
    # another image of that name is not taken for this one
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(images / "eye.png")
    assert _run(*arguments).exit_code == 0
    assert json.loads(run.read_text())["computed"] == ["eye.png"]


def test_an_interrupted_run_leaves_its_tables(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segmenter.segment

    def interrupted(self: Segmenter, image: SourceImage, *arguments: Any, **options: Any) -> Segmentation:
        if image.name == "eye.png":
            raise KeyboardInterrupt
        return segment(self, image, *arguments, **options)

    monkeypatch.setattr(Segmenter, "segment", interrupted)
    result = _run(images, "-p", "vessels", "-o", tmp_path / "out", "--bundle", bundle)
    assert result.exit_code == 130
    for table in ("summary.csv", "objects.csv"):
        with (tmp_path / "out" / table).open() as stream:
            assert [row["image"] for row in csv.DictReader(stream)] == ["ct.nii.gz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", " "], "[PROMPT] the prompt is empty"),
        (["-p", "x" * 10_000], "[PROMPT] the prompt has 10000 characters"),
        (
            ["-p", "vessels", "--format", "dicom"],
            "[CONFIG] format has 'dicom'; allowed: nifti, png, nrrd, dicom-seg, rtstruct",
        ),
        (["-p", "vessels", "--window", "lungs"], "[CONFIG] window is 'lungs'; allowed: auto"),
        (["-p", "vessels", "--window", "{'a'"], "[CONFIG] window is \"{'a'\", which is no JSON"),
        (["-p", "vessels", "--axis", "oblique"], "Invalid value for '--axis'"),
        (["-p", "vessels", "--checkpoint", "gone.pt"], "[CHECKPOINT] there is no checkpoint 'gone.pt'"),
        (["-p", "vessels", "--bundle", "nowhere"], "[CONFIG] the bundle folder 'nowhere' has no configs"),
        (["-p", "vessels", "--device", "tpu"], "Invalid value for '--device'"),
        ([], "[PROMPT] there is no prompt; write what to segment, or give rules"),
        (
            ["-p", "vessels", "--where", "Modalty=CT"],
            "[CONFIG] where has 'Modalty', which is no keyword of DICOM; did you",
        ),
        (["-p", "vessels", "--where", "CT"], "[CONFIG] where has 'CT'; give KEYWORD=VALUE, such as Modality=CT"),
        (["--rules", "gone.json"], "[CONFIG] rules gone.json is no file that is there; check the path"),
        (["-p", "vessels", "--shard", "3/2"], "[CONFIG] shard is '3/2'; give i/n, such as 1/8 for the first of eight"),
    ],
)
def test_wrong_usage_exits_2_in_one_line(
    bundle: Path, images: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = runner.invoke(
        app, ["segment", str(images), "-o", str(tmp_path / "out"), "--bundle", str(bundle), *arguments]
    )
    assert result.exit_code == 2
    assert message in result.stderr
    if message.startswith("["):
        assert len(result.stderr.strip().splitlines()) == 1


def test_output_that_cant_be_written_and_empty_folder(bundle: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _run(images, "-p", "vessels", "-o", tmp_path / "file" / "out", "--bundle", bundle)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: [OUTPUT] the folder ")
    (tmp_path / "empty").mkdir()
    result = _run(tmp_path / "empty", "-p", "vessels", "-o", tmp_path / "out", "--bundle", bundle)
    assert result.exit_code == 2
    assert "has no image: no DICOM at any depth, and directly in it none of .png, " in result.stderr
    result = _run(images, "-p", "vessels", "-o", images / "out", "--bundle", bundle)
    assert result.exit_code == 2
    assert "out' lies in the input folder " in result.stderr
    assert not (images / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(bundle: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    result = _run(images, "-p", "vessels", "-o", tmp_path / "locked", "--bundle", bundle)
    assert result.exit_code == 2
    assert "can't be written to" in result.stderr
