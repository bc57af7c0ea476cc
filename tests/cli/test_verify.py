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

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
from segmented import find, segmentation, some_masks

from monai_sa2va.cli.main import app
from monai_sa2va.writers.results import write_results

runner = CliRunner()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    series = find(tmp_path / "in", made.series(4))
    folder = tmp_path / "out" / series.study_uid / series.series_uid
    write_results(segmentation(series, some_masks(series, 1), ["liver"]), folder, ["nifti", "dicom-seg"])
    return tmp_path / "out"


def test_all_right(output: Path) -> None:
    alone = runner.invoke(app, ["verify", str(output)])
    assert alone.exit_code == 0, alone.output
    assert alone.output.startswith("1 of 1 results verified, without sources; 3 files as they were written; largest")
    beside = runner.invoke(app, ["verify", str(output), "--source", str(output.parent / "in")])
    assert beside.exit_code == 0, beside.output
    assert beside.output.startswith("1 of 1 results verified, 1 against their sources; 3 files")
    # no folder but the result's own, which has UIDs alone
    assert str(output) not in alone.output + beside.output


def test_something_differs(output: Path) -> None:
    (seg,) = output.rglob("seg.dcm")
    seg.write_bytes(b"no DICOM")
    told = runner.invoke(app, ["verify", str(output)])
    assert told.exit_code == 1
    assert told.stderr == f"{seg.parent.relative_to(output).as_posix()}: seg.dcm was changed since it was written\n"
    assert told.stdout.startswith("0 of 1 results verified")


def test_shards(output: Path) -> None:
    (output / "summary.1-of-2.csv").write_text("image\nb\n")
    told = runner.invoke(app, ["verify", str(output)])
    assert told.exit_code == 1
    assert "tables are missing, so they are not merged: summary.2-of-2.csv" in told.stderr
    (output / "summary.2-of-2.csv").write_text("image\na\n")
    told = runner.invoke(app, ["verify", str(output)])
    assert told.exit_code == 0
    assert "wrote summary.csv: 2 rows of 2 shards" in told.stdout
    assert (output / "summary.csv").read_text().split() == ["image", "a", "b"]


def test_nothing_there(tmp_path: Path) -> None:
    told = runner.invoke(app, ["verify", str(tmp_path)])
    assert told.exit_code == 2
    assert told.stderr.startswith("error: [DATA] the folder")
    assert len(told.stderr.splitlines()) == 1


def test_tolerance(output: Path) -> None:
    told = runner.invoke(app, ["verify", str(output), "--tolerance", "0"])
    assert told.exit_code in (0, 1)
    assert runner.invoke(app, ["verify", str(output), "--tolerance", "-1"]).exit_code == 2
