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

import json
import subprocess
import sys

import nibabel
import pytest
import typer
from typer.testing import CliRunner

from monai_sa2va.cli.phantoms import phantoms
from monai_sa2va.errors import ConfigError, OutputError

app = typer.Typer()
app.command()(phantoms)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_writes_a_test_set_of_one_look(tmp_path):
    result = run(tmp_path, "--count", 3, "--seed", 5, "--size", 32, "--look", "ct", "--split", "0/0/1")
    assert result.exit_code == 0, result.output
    assert result.output.split() == ["wrote", "3", "phantoms", "and", str(tmp_path / "datalist.json")]
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert content["training"] == content["validation"] == []
    assert [entry["image"] for entry in content["testing"]] == [f"images/ct_{i:06d}.png" for i in (5, 6, 7)]


def test_several_looks_and_nifti(tmp_path):
    result = run(tmp_path, "--count", 4, "--size", 32, "--look", "ct", "--look", "fundus", "--format", "nifti")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "labels").iterdir())
    assert names == [f"{look}_{i:06d}.nii.gz" for look, i in (("ct", 0), ("ct", 2), ("fundus", 1), ("fundus", 3))]


@pytest.mark.parametrize("split", ["0.8/0.2", "a/b/c", "", "1/1/1"])
def test_bad_split_is_one_line(tmp_path, split):
    result = run(tmp_path / "new", "--split", split)
    assert isinstance(result.exception, ConfigError)
    assert "\n" not in str(result.exception)
    assert "split" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_a_size_beyond_memory_is_one_line(tmp_path):
    result = run(tmp_path / "new", "--count", 2, "--size", 100_000)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "[CONFIG] size is 100000; give 32 to 4096 pixels"
    assert not (tmp_path / "new").exists()


def test_full_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert isinstance(run(tmp_path, "--count", 1).exception, OutputError)


def test_unknown_look_and_format_are_wrong_usage(tmp_path):
    assert run(tmp_path, "--look", "mri").exit_code == 2
    assert run(tmp_path, "--format", "tiff").exit_code == 2


def test_neither_the_verb_nor_the_phantoms_import_torch():
    code = "import sys, monai_sa2va.cli.phantoms, monai_sa2va.data.phantoms; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["volume", "cine"])
def test_volumes_and_cines(tmp_path, kind):
    options = ("--count", 2, "--size", 32, "--kind", kind, "--slices", 9, "--look", "ct", "--split", "0.5/0/0.5")
    result = run(tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert result.output.split() == ["wrote", "2", "phantom", f"{kind}s", "and", str(tmp_path / "datalist.json")]
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"ct_{kind}_00000{i}.nii.gz" for i in (0, 1)]
    assert nibabel.load(tmp_path / "images" / names[0]).shape == (32, 32, 9)
    assert isinstance(run(tmp_path / "new", "--kind", kind, "--format", "png").exception, ConfigError)
