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

"""A folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from monai_sa2va.errors import OutputError
from monai_sa2va.writers.whole_folder import earlier_report, mend_folder, remove_results, whole_folder


def _fill(part: Path, *names: str) -> None:
    for name in names:
        (part / name).write_text(name)
    (part / "report.json").write_text(json.dumps({"run": {"files": list(names)}}))


def _interrupted(part: Path) -> None:
    _fill(part, "spleen.nii.gz")
    raise KeyboardInterrupt


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_it_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "series"
    with whole_folder(folder) as part:
        _fill(part, "liver.nii.gz")
        assert not folder.exists()
        assert part.parent == folder.parent
        assert part.name.startswith(".")
    assert _names(tmp_path) == ["study", "study/series", "study/series/liver.nii.gz", "study/series/report.json"]


def test_nothing_is_left_of_one_that_fails(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as part:
        _fill(part, "liver.nii.gz")
    before = (tmp_path / "a" / "liver.nii.gz").read_text()
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "a") as part:
        _interrupted(part)
    assert _names(tmp_path) == ["a", "a/liver.nii.gz", "a/report.json"]
    assert (tmp_path / "a" / "liver.nii.gz").read_text() == before


def test_results_give_way_and_a_persons_files_stay(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as part:
        _fill(part, "liver.nii.gz", "overview.png")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "a" / "more").mkdir()
    (tmp_path / "a" / "more" / "drawn.png").write_text("mine, too")
    with whole_folder(tmp_path / "a") as part:
        _fill(part, "spleen.nii.gz")
    assert _names(tmp_path / "a") == ["more", "more/drawn.png", "notes.txt", "report.json", "spleen.nii.gz"]
    assert (tmp_path / "a" / "more" / "drawn.png").read_text() == "mine, too"
    assert _names(tmp_path) == ["a", *(f"a/{name}" for name in _names(tmp_path / "a"))]


def test_a_persons_file_of_a_results_name_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "Jane Doe" / "a").mkdir(parents=True)
    (tmp_path / "Jane Doe" / "a" / "liver.nii.gz").write_text("mine")
    folder = tmp_path / "Jane Doe" / "a"
    with (
        pytest.raises(OutputError, match=r"'a/liver\.nii\.gz' is there already; give") as raised,
        whole_folder(folder) as part,
    ):
        _fill(part, "liver.nii.gz")
    assert "Jane" not in str(raised.value)
    assert (tmp_path / "Jane Doe" / "a" / "liver.nii.gz").read_text() == "mine"
    with whole_folder(tmp_path / "Jane Doe" / "a", overwrite=True) as part:
        _fill(part, "liver.nii.gz")
    assert (tmp_path / "Jane Doe" / "a" / "liver.nii.gz").read_text() == "liver.nii.gz"


def test_a_file_and_a_report_that_says_nothing_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "report.json").write_text("{}")
    for name, message in (("file", "'file' can't be made: a file has its name"), ("lost", "doesn't list its files")):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=message), whole_folder(tmp_path / name, overwrite) as part:
                _fill(part, "liver.nii.gz")
    assert _names(tmp_path) == ["file", "lost", "lost/report.json"]


class _Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.mark.parametrize("step", range(2))
def test_a_kill_between_two_steps_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    with whole_folder(tmp_path / "a") as part:
        _fill(part, "liver.nii.gz")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    replaced: list[Any] = []
    replace, remove = os.replace, "monai_sa2va.writers.whole_folder.shutil.rmtree"

    def killed(*places: Any) -> None:
        if len(replaced) == step:
            raise _Killed
        replaced.append(places)
        replace(*places)

    with monkeypatch.context() as patched:
        patched.setattr("monai_sa2va.writers.whole_folder.os.replace", killed)
        patched.setattr(remove, lambda *_, **__: None)
        with pytest.raises(_Killed), whole_folder(tmp_path / "a") as part:
            _fill(part, "spleen.nii.gz")
    mend_folder(tmp_path / "a")
    assert _names(tmp_path) == ["a", "a/liver.nii.gz", "a/notes.txt", "a/report.json"]
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"


def test_what_was_replaced_is_removed_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with whole_folder(tmp_path / "a") as part:
        _fill(part, "liver.nii.gz")
    with monkeypatch.context() as patched:
        patched.setattr("monai_sa2va.writers.whole_folder.shutil.rmtree", lambda *_, **__: None)
        with whole_folder(tmp_path / "a") as part:
            _fill(part, "spleen.nii.gz")
    assert len(list(tmp_path.iterdir())) == 2
    mend_folder(tmp_path / "a")
    assert _names(tmp_path) == ["a", "a/report.json", "a/spleen.nii.gz"]


def test_another_ones_hidden_folder_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "b") as other:
        mend_folder(tmp_path / "a")
        with whole_folder(tmp_path / "a") as part:
            _fill(part, "liver.nii.gz")
        assert other.is_dir()
        _fill(other, "spleen.nii.gz")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_results_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with whole_folder(tmp_path / name) as part:
            _fill(part, "liver.nii.gz")
    (tmp_path / "b" / "notes.txt").write_text("mine")
    # a report that was changed reaches no other folder
    (tmp_path / "b" / "report.json").write_text(json.dumps({"run": {"files": ["../a/liver.nii.gz"]}}))
    remove_results(tmp_path / "b")
    assert _names(tmp_path) == ["a", "a/liver.nii.gz", "a/report.json", "b", "b/notes.txt"]
    remove_results(tmp_path / "a")
    assert earlier_report(tmp_path / "a") is None
    assert not (tmp_path / "a").exists()
    remove_results(tmp_path / "never")


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    with whole_folder(tmp_path / ("n" * 255)) as part:
        _fill(part, "liver.nii.gz")
    assert (tmp_path / ("n" * 255) / "liver.nii.gz").is_file()
