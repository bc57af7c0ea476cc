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

"""Conditions on DICOM attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
from trees import small

from monai_sa2va.batch.where import Attributes, Where
from monai_sa2va.dicom.scan import scan
from monai_sa2va.errors import ConfigError


@pytest.fixture
def attributes(tmp_path: Path) -> Attributes:
    series = small(0, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], KVP=120, BodyPartExamined="CHEST")
    return Attributes(scan(made.write(tmp_path, series)).series[0])


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        ("Modality=CT", None),
        ("Modality=MR", "Modality"),
        ("Modality=MR,Modality=CT", None),
        (" Modality = ct , BodyPartExamined=ch*", None),
        ("BodyPartExamined=CHES", "BodyPartExamined"),
        ("ImageType=AXIAL", None),
        (r"ImageType=ORIGINAL\PRIMARY\*", None),
        ("ImageType=DERIVED", "ImageType"),
        ("KVP=120*", None),
        ("Manufacturer=*", None),
        ("ContrastBolusAgent=*", "ContrastBolusAgent"),
        ("SeriesDescription=m?de", None),
    ],
)
def test_conditions(attributes: Attributes, text: str, missed: str | None) -> None:
    assert Where.parse(text).missed(attributes) == missed


def test_what_is_no_dicom_has_no_attributes() -> None:
    assert Where.parse("Modality=*").missed(None) == "Modality"
    assert Where({}).missed(None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Modality", r"where has 'Modality'; give KEYWORD=VALUE, such as Modality=CT"),
        ("Modality=", r"where has 'Modality='; give"),
        ("", r"where has ''; give"),
        (["Modality=CT", "=x"], r"where has '=x'; give"),
        ("BodyPart=CHEST", r"where has 'BodyPart', which is no keyword of DICOM; "),
        ("Modalty=CT", r"'Modalty', which is no keyword of DICOM; did you mean Modality\?"),
        ("zzzz=1", r"'zzzz', which is no keyword of DICOM; give one such as Modality"),
    ],
)
def test_conditions_that_cant_be_used(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Where.parse(given)
