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

"""A batch as the command line asks for it, from plan to tables."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
from trees import small, tree
from typer.testing import CliRunner, Result

from monai_sa2va.cli.main import app
from monai_sa2va.predictor import Segmenter

runner = CliRunner()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    made.write(folder / "ct", small(0))
    made.write(folder / "mr", small(3, slices=4))
    made.write(folder / "scout", small(8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    return folder


def _run(bundle: Path, *words: object) -> Result:
    return runner.invoke(app, ["segment", *map(str, words), "--bundle", str(bundle), "--device", "cpu"])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _uid(number: int) -> str:
    return made.uid("series", f"series {number}")


def test_a_tree_is_segmented_and_not_twice(bundle: Path, data: Path, tmp_path: Path) -> None:
    arguments = (data, "-p", "Segment the liver.", "-o", tmp_path / "out")
    result = _run(bundle, *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("segmented 2 of 3 images; 1 skipped; results are in ")
    table = {
        row["image"]: (row["status"], row["slices"], row["code"]) for row in _rows(tmp_path / "out" / "summary.csv")
    }
    assert table[_uid(0)][:2] == ("done", "2")
    assert table[_uid(3)][:2] == ("done", "4")
    assert table[_uid(8)] == ("skipped", "1", "LOCALIZER")
    before = (tmp_path / "out" / "summary.csv").read_bytes()
    again = _run(bundle, *arguments)
    assert again.exit_code == 0
    assert again.stdout.startswith("segmented 2 of 3 images, 2 of them by an earlier run; 1 skipped; ")
    assert (tmp_path / "out" / "summary.csv").read_bytes() == before
    assert json.loads((tmp_path / "out" / "run.json").read_text())["computed"] == []
    next((tmp_path / "out").rglob("seg.dcm")).unlink()
    mended = _run(bundle, *arguments)
    assert mended.exit_code == 0
    assert "2 images, 1 of them" not in mended.stdout
    assert "1 of them by an earlier run, 1 again as its results were changed or missing" in mended.stdout
    assert "[RESULTS_CHANGED] seg.dcm of an earlier run was changed or is missing" in mended.stderr
    assert [row["code"] for row in _rows(tmp_path / "out" / "summary.csv")].count("RESULTS_CHANGED") == 1


def test_a_dry_run_says_what_and_how_long(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]
    segment = Segmenter.segment

    def counted(self: Segmenter, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        return segment(self, *arguments, **options)

    monkeypatch.setattr(Segmenter, "segment", counted)
    arguments = (data, "-p", "Segment the liver.", "-o", tmp_path / "out")
    result = _run(bundle, *arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()
    assert calls == [1]
    lines = result.stdout.splitlines()
    assert f"{_uid(0)}  CT  2 slices  Segment the liver." in lines
    assert f"{_uid(8)}  CT  skipped  [LOCALIZER] a localizer, by its ImageType" in lines
    assert lines[-2] == "2 of 3 images are to be segmented, 6 slices; 1 are not to be segmented, or can't be"
    assert lines[-1].startswith("time: about ")
    assert lines[-1].endswith(" s just now, results not written")

    # what a run has measured counts for the next one
    assert _run(bundle, *arguments, "--where", "Modality=MR").exit_code == 0
    rate = json.loads((tmp_path / "out" / "run.json").read_text())["seconds_a_slice"]
    calls[0] = 0
    lines = _run(bundle, *arguments, "--dry-run").stdout.splitlines()
    assert calls == [0]
    assert lines[-2].startswith("1 of 3 images are to be segmented, 2 slices; 1 are done already with the same prompts")
    assert f"at {rate:.3g} s a slice, as an earlier run into this folder measured" in lines[-1]
    assert _run(bundle, *arguments).exit_code == 0
    lines = _run(bundle, *arguments, "--dry-run").stdout.splitlines()
    assert lines[-1] == "time: nothing is left to do"


def test_a_full_disk_ends_the_run_and_the_next_goes_on(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == _uid(3):
            raise OSError(28, "No space left on device")
        replaced(source, target)

    arguments = (data, "-p", "Segment the liver.", "-o", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        result = _run(bundle, *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        f"error: [OUTPUT] the disk of the output folder is full, at {_uid(3)}; make room and run the same again"
    )
    statuses = {row["image"]: (row["status"], row["code"]) for row in _rows(tmp_path / "out" / "summary.csv")}
    assert statuses[_uid(3)] == ("failed", "DISK_FULL")
    assert _run(bundle, *arguments).exit_code == 0


def test_an_output_that_nobody_may_write_to(bundle: Path, data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a read-only disk")
    try:
        result = _run(bundle, data, "-p", "liver", "-o", disk)
        deeper = _run(bundle, data, "-p", "liver", "-o", disk / "out")
    finally:
        subprocess.run(["umount", disk], check=True)
    for found in (result, deeper):
        assert found.exit_code == 2
        assert len(found.stderr.strip().splitlines()) == 1
        assert found.stderr.startswith("error: [OUTPUT] the folder ")
    assert "can't be written to" in result.stderr


def test_rules_take_the_place_of_prompts(bundle: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- modality: MR\n  prompts: [the tumour]\n")
    result = _run(bundle, data, "--rules", tmp_path / "rules.yaml", "-o", tmp_path / "out", "--format", "nifti")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "out").rglob("*.nii.gz")] == ["tumour.nii.gz"]
    statuses = {
        row["image"]: row["code"] for row in _rows(tmp_path / "out" / "summary.csv") if row["status"] == "skipped"
    }
    assert statuses == {_uid(0): "NO_PROMPT", _uid(8): "LOCALIZER"}


def test_nothing_usable_exits_2_but_for_a_shard(bundle: Path, data: Path, tmp_path: Path) -> None:
    arguments = (data, "-p", "liver", "-o", tmp_path / "out", "--where", "Modality=PT")
    result = _run(bundle, *arguments)
    assert result.exit_code == 2
    assert result.stdout.startswith("segmented 0 of 3 images; 3 skipped; ")
    assert result.stderr.startswith("error: [DATA] none of 3 images could be segmented, the first because: [NOT_ASKED]")
    assert _run(bundle, *arguments, "--shard", "1/99").exit_code == 0


def test_what_is_broken_leaves_the_rest(bundle: Path, tmp_path: Path) -> None:
    result = _run(bundle, tree(tmp_path / "data", 1), "-p", "liver", "-o", tmp_path / "out")
    assert result.exit_code == 1, result.output
    table = _rows(tmp_path / "out" / "summary.csv")
    assert len(table) == 21
    by_status = {status: sum(row["status"] == status for row in table) for status in ("done", "failed")}
    assert by_status == {"done": 1, "failed": 0}
    assert all(row["code"] and row["code"] != "INTERNAL" for row in table if row["status"] != "done")
    assert "Traceback" not in result.stderr


def test_what_the_reader_skips_is_nothing_usable(bundle: Path, tmp_path: Path) -> None:
    scouts = made.write(tmp_path / "data", small(8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    result = _run(bundle, scouts, "-p", "liver", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "the first because: [LOCALIZER] a localizer, by its ImageType" in result.stderr
    assert [row["status"] for row in _rows(tmp_path / "out" / "summary.csv")] == ["skipped"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--window", "lungs"),
        ("--window", "{"),
        ("--checkpoint", "nowhere.pt"),
        ("--adapter", "nowhere.safetensors"),
        ("--rules", "nowhere.yaml"),
        ("--rules", "{rules}"),
        ("--where", "Modality"),
        ("--format", "dicom"),
        ("--shard", "3/2"),
        ("--workers", "99999"),
    ],
)
def test_a_wrong_argument_makes_no_folder(bundle: Path, data: Path, tmp_path: Path, wrong: tuple[str, ...]) -> None:
    (tmp_path / "rules.json").write_text('[{"modality": "CT", "window": "lungs"}]')
    words = [word.format(rules=tmp_path / "rules.json") if word == "{rules}" else word for word in wrong]
    result = _run(bundle, data, "-p", "liver", "-o", tmp_path / "study" / "out", *words)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not (tmp_path / "study").exists()
