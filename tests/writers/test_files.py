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

"""Names and atomic writing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.errors import OutputError
from monai_sa2va.writers.files import atomic_path, make_folder, safe_name, unique_names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Optic disc", "optic_disc"),
        ("../../etc/passwd", "etc_passwd"),
        ("C:\\Windows\\x", "c_windows_x"),
        ("Gefäße", "gefae"),  # NFKD leaves the sharp s whole, and ASCII has none
        ("Käse", "kase"),
        ("血管", "object"),
        ("", "object"),
        ("...", "object"),
        ("a\0b\n", "a_b"),
        ("x" * 500, "x" * 60),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.lists(st.text(max_size=8), max_size=6))
def test_unique_names_are_safe_and_differ(texts: list[str]) -> None:
    names = unique_names(texts, ["report"])
    assert len(set(names)) == len(texts)
    assert "report" not in names
    for name in names:
        assert name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_unique_names_count_up() -> None:
    assert unique_names(["Disc", "disc", "disc 2", "DISC!"]) == ["disc", "disc_2", "disc_2_2", "disc_3"]
    assert unique_names(["overview"], ["overview"]) == ["overview_2"]


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target, overwrite=True) as temporary:
            temporary.write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("one")
    with pytest.raises(OutputError, match="is there already; give overwrite"), atomic_path(target):
        pass
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("two")
    assert target.read_text() == "two"


def test_messages_name_no_folder_above_the_files_own(tmp_path: Path) -> None:
    target = tmp_path / "eye" / "a.txt"
    with pytest.raises(OutputError) as caught, atomic_path(target) as temporary:
        temporary.write_text("x")
    assert str(caught.value) == "[OUTPUT] 'eye/a.txt' can't be written: No such file or directory"
    target.parent.mkdir()
    target.write_text("x")
    with pytest.raises(OutputError, match=r"^\[OUTPUT\] 'eye/a\.txt' is there already"), atomic_path(target):
        pass
    with pytest.raises(OutputError, match=r"^\[OUTPUT\] the folder 'eye' can't be made: "):
        make_folder(target, "eye")


def test_what_cant_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made"):
        make_folder(tmp_path / "file" / "sub")
    with pytest.raises(OutputError, match="can't be made"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="can't be written"), atomic_path(tmp_path / "no" / "a.txt") as temporary:
        temporary.write_text("x")
