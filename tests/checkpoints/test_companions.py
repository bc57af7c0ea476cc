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

"""The files that came with a checkpoint: copied beside what is made of it, and known again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from monai_sa2va.checkpoints.companions import COMPANIONS, keep_companions, same_tokenizer
from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.errors import OutputError


def _info(tokenizer: Path | str) -> dict[str, Any]:
    return {"config": {"tokenizer": str(tokenizer), "name": "x"}, "window": "auto"}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "base" / "tokenizer")
    return tmp_path / "base" / "tokenizer"


def test_a_tokenizer_is_copied_and_named_relative(tokenizer: Path, tmp_path: Path) -> None:
    (tokenizer / "model.safetensors").write_bytes(b"weights stay where they are")
    given = _info(tokenizer)
    kept = keep_companions(given, tmp_path / "run")
    assert kept == _info(COMPANIONS)
    assert given["config"]["tokenizer"] == str(tokenizer)
    files = {path.name for path in (tmp_path / "run" / COMPANIONS).iterdir()}
    assert files == {path.name for path in tokenizer.iterdir()} - {"model.safetensors"}
    assert same_tokenizer(str(tokenizer), str(tmp_path / "run" / COMPANIONS))
    assert os.listdir(tmp_path / "run") == [COMPANIONS]


def test_companions_stay_together(tokenizer: Path, tmp_path: Path) -> None:
    """In a converted checkpoint the tokenizer may have a folder of its own, beside a licence."""
    beside = tmp_path / "converted" / COMPANIONS
    beside.mkdir(parents=True)
    tokenizer.rename(beside / "tokenizer")
    (beside / "LICENSE").write_text("free")
    assert keep_companions(_info(beside / "tokenizer"), tmp_path / "run") == _info(f"{COMPANIONS}/tokenizer")
    assert (tmp_path / "run" / COMPANIONS / "LICENSE").read_text() == "free"
    assert (tmp_path / "run" / COMPANIONS / "tokenizer" / "tokenizer.json").is_file()
    # of the folder that they lie in already nothing is touched
    before = os.stat(beside / "LICENSE").st_mtime_ns
    assert keep_companions(_info(beside / "tokenizer"), beside.parent) == _info(f"{COMPANIONS}/tokenizer")
    assert os.stat(beside / "LICENSE").st_mtime_ns == before


def test_those_of_an_earlier_run_are_replaced(tokenizer: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "run" / COMPANIONS
    earlier.mkdir(parents=True)
    (earlier / "merges.txt").write_text("of another tokenizer")
    keep_companions(_info(tokenizer), tmp_path / "run")
    assert not (earlier / "merges.txt").exists()
    first = os.stat(earlier / "tokenizer.json").st_ino
    keep_companions(_info(tokenizer), tmp_path / "run")
    assert os.stat(earlier / "tokenizer.json").st_ino == first


def test_what_needs_no_files_is_left_alone(tmp_path: Path) -> None:
    for info in (_info("bytes"), {"window": "auto"}, {}):
        assert keep_companions(info, tmp_path / "run") == info
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cant_be_made(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="'official' can't be written: Not a directory; see to its folder"):
        keep_companions(_info(tokenizer), tmp_path / "file" / "run")


def test_tokenizers_are_known_by_their_files(tokenizer: Path, tmp_path: Path) -> None:
    assert same_tokenizer("bytes", "bytes")
    assert not same_tokenizer("bytes", str(tokenizer))
    assert not same_tokenizer(str(tokenizer), str(tmp_path / "nowhere"))
    other = byte_tokenizer()
    other.add_tokens(["new"])
    other.save_pretrained(tmp_path / "other")
    assert not same_tokenizer(str(tokenizer), str(tmp_path / "other"))
