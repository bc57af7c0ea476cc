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
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from monai_sa2va.cli.datalist import datalist
from monai_sa2va.data.splits import split_by_fraction
from monai_sa2va.errors import DatalistError, OutputError

app = typer.Typer()
app.command()(datalist)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Ten eyes of five children, 0/255."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    pixels = np.zeros((4, 6), dtype=np.uint8)
    pixels[1, 2] = 255
    for child in range(1, 6):
        for eye in "LR":
            Image.new("RGB", (6, 4)).save(tmp_path / "images" / f"Image_{child:02d}{eye}.jpg")
            Image.fromarray(pixels).save(tmp_path / "masks" / f"Image_{child:02d}{eye}_1stHO.PNG")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["images", "masks", "-o", "d.json", *arguments], terminal_width=200)


def test_the_command_of_the_readme(folder):
    result = run("--prompt", "vessels|blood vessels", "--group-regex", r"(\d+)[LR]", "--split", "0.6/0.2/0.2")
    assert result.exit_code == 0
    assert result.output == (
        "wrote d.json: 10 pairs; training 6 (groups: 3), validation 2 (groups: 1), testing 2 (groups: 1); "
        "vessels in 10\n"
    )
    written = json.loads((folder / "d.json").read_text())
    sections = split_by_fraction([f"{child:02d}" for child in range(1, 6)], (0.6, 0.2, 0.2), seed=0)
    for section, entries in written.items():
        assert {Path(entry["image"]).stem[6:8] for entry in entries} == {g for g, s in sections.items() if s == section}
    assert written["training"][0]["label"].startswith("masks/Image_")
    assert written["training"][0]["prompts"] == {"255": ["vessels", "blood vessels"]}


def test_named_groups_and_absent_things(folder):
    options = ["--absent", "stent", "--absent", "coil", "--validation-groups", "04", "--test-groups", "05, 01"]
    assert run("-p", "vessels", "--group-regex", r"(\d+)[LR]", *options).exit_code == 0
    written = json.loads((folder / "d.json").read_text())
    assert {section: [Path(e["image"]).stem for e in entries][::2] for section, entries in written.items()} == {
        "training": ["Image_02L", "Image_03L"],
        "validation": ["Image_04L"],
        "testing": ["Image_01L", "Image_05L"],
    }
    assert all(entry["absent"] == ["stent", "coil"] for entries in written.values() for entry in entries)


def test_what_is_left_out_is_listed_and_the_rest_written(folder):
    Image.new("L", (5, 5)).save(folder / "masks" / "Image_01L_1stHO.PNG")
    Image.new("L", (5, 5)).save(folder / "images" / "[alone].png")
    result = run("-p", "vessels")
    assert result.exit_code == 1
    assert sum(map(len, json.loads((folder / "d.json").read_text()).values())) == 9
    assert "2 file(s) left out" in result.stderr
    text = " ".join(result.stderr.replace("│", " ").split())
    assert "[alone].png" in text
    assert "no mask has its name" in text
    assert "Image_01L.jpg" in text
    assert "9 pairs" in result.stdout


def test_long_lists_are_cut(folder):
    for i in range(60):
        Image.new("L", (2, 2)).save(folder / "images" / f"alone{i:02d}.png")
    result = run("-p", "vessels")
    assert result.exit_code == 1
    assert "60 file(s) left out" in result.stderr
    assert "alone49.png" in result.stderr
    assert "alone50.png" not in result.stderr
    assert "and 10 more" in result.stderr


def test_values_without_a_name_are_warned_of(folder):
    pixels = np.zeros((4, 6), dtype=np.uint8)
    pixels[0, :3] = (1, 2, 3)
    for mask in (folder / "masks").iterdir():
        Image.fromarray(pixels).save(mask)
    result = run("-p", "1=vessels", "-p", "2=optic disc|optic nerve head", "--group-regex", r"(\d+)[LR]")
    assert result.exit_code == 0
    assert result.stderr == "warning: label value 3 occurs in 10 mask(s) and no prompt names it\n"
    assert result.stdout.endswith("; vessels in 10, optic disc in 10\n")


def test_eyes_of_one_child_in_two_sections_are_warned_of(folder):
    result = run("-p", "vessels")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: Image_0")
    assert result.stderr.endswith("to keep them together give --group-regex '(\\d+)[LR]'\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("target", ["images/Image_01L.jpg", "masks/Image_01L_1stHO.PNG", "list", ".json"])
def test_nothing_but_json_is_replaced(folder, target):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["images", "masks", "-p", "vessels", "-o", target])
    assert isinstance(result.exception, OutputError)
    assert f"datalist {target} can't be written: give its name the suffix .json" in str(result.exception)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_usable_writes_nothing(folder):
    for mask in (folder / "masks").iterdir():
        mask.write_bytes(b"")
    result = run("-p", "vessels")
    assert isinstance(result.exception, DatalistError)
    assert "no image of images and mask of masks can be used; nothing is written" in str(result.exception)
    assert "10 file(s) left out" in result.stderr
    assert not (folder / "d.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "0.5/0.6"], "split '0.5/0.6' has to be shares that sum to 1"),
        (["--split", "1/0/0", "--test-groups", "01"], "--split and named groups exclude each other"),
        (
            ["--test-groups", "01"],
            "testing group '01' does not occur; there are 10 groups, which include_patient lists",
        ),
        (["--test-groups", "01", "--include-patient"], "testing group '01' does not occur; groups: Image_01L, "),
        (["--group-regex", "("], "group regex '(' is no regular expression"),
        (["--mask-suffix", "_2ndHO"], "folder masks holds no mask ending in '_2ndHO'"),
        (["-p", "disc"], "number each of several prompts"),
    ],
)
def test_options_that_can_not_be_used_write_nothing(folder, options, message):
    result = run("-p", "vessels", *options)
    assert isinstance(result.exception, DatalistError)
    assert message in str(result.exception)
    assert not (folder / "d.json").exists()


def test_a_prompt_and_a_target_are_needed(folder):
    assert "give MASKS and --prompt" in str(run().exception)
    assert CliRunner().invoke(app, ["images", "masks", "-p", "vessels"]).exit_code == 2


def test_files_of_one_name_are_told_apart_where_asked_for(folder):
    for child in ("Doe", "Roe"):
        (folder / "images" / child).mkdir()
        Image.new("L", (2, 2)).save(folder / "images" / child / "alone.png")
    hint = "some of these have one name; --include-patient shows their folders\n"
    result = run("-p", "vessels")
    assert hint in result.stderr
    assert "Doe" not in result.output
    shown = run("-p", "vessels", "--include-patient")
    assert hint not in shown.stderr
    assert "Doe/alone.png" in shown.stderr
