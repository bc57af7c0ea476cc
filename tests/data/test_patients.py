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

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_sa2va.data.patients import header_texts, hide_folders, patient_of, shown_path, without_texts
from monai_sa2va.errors import DatalistError


def test_the_patient_comes_before_the_group() -> None:
    assert patient_of({"patient": " Doe ", "group": "left"}, "entry 0") == ("patient", "Doe")
    assert patient_of({"patient": None, "group": 7}, "entry 0") == ("group", "7")
    assert patient_of({"image": "a.png"}, "entry 0") is None


@pytest.mark.parametrize("value", ["", " ", 1.5, False, ["Doe"]])
def test_what_is_no_name_is_refused_and_not_repeated(value: object) -> None:
    with pytest.raises(DatalistError, match=r"entry 3\.group: give text or a whole number, not ") as caught:
        patient_of({"group": value}, "entry 3")
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_texts_of_a_header(kind: type) -> None:
    header = kind(np.zeros((2, 2, 2), np.uint8), np.eye(4)).header
    assert header_texts(header) == {}
    header["descrip"], header["intent_name"] = b"DOE^JANE", "Müller".encode()
    assert header_texts(header) == {"descrip": "DOE^JANE", "intent_name": "Müller"}
    assert header_texts(None) == {}


def test_texts_are_taken_out_of_what_an_array_knows() -> None:
    meta = {"descrip": "DOE", "db_name": "DOE", "pixdim": 1}
    without_texts(meta)
    assert meta == {"pixdim": 1}


def test_paths_are_shown_without_folders() -> None:
    assert shown_path("a.png") == "a.png"
    assert shown_path("Doe/a.png") == ".../a.png"
    assert shown_path("/data/Doe/a.png") == ".../a.png"
    assert shown_path("Doe\\a.png") == ".../a.png"


def test_readers_messages_lose_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "Doe" / "a.png"
    assert hide_folders(f"cannot identify '{file}'", file) == "cannot identify 'a.png'"
    monkeypatch.chdir(tmp_path)
    assert hide_folders(f"cannot identify '{file}' (Doe/a.png)", Path("Doe/a.png")) == "cannot identify 'a.png' (a.png)"


def test_pillow_does_not_log_the_tags_of_pictures() -> None:
    assert not logging.getLogger("PIL.TiffImagePlugin").isEnabledFor(logging.DEBUG)
