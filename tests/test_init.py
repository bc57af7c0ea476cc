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

import importlib
import subprocess
import sys
import types

import pytest

import monai_sa2va
from monai_sa2va._lazy import lazy_attributes

PUBLIC = {
    "GroundingEncoder",
    "Sa2VA",
    "Sa2VAConfig",
    "Sa2VALoss",
    "Sa2VAModel",
    "Sa2VATrainer",
    "Segmentation",
    "Segmenter",
    "TextHiddenFCs",
    "calculate_dice",
    "calculate_iou",
    "calculate_precision_recall",
}


def test_public_names() -> None:
    assert set(monai_sa2va.__all__) == PUBLIC | {"__version__"}
    assert set(dir(monai_sa2va)) >= PUBLIC | {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(monai_sa2va, name)
    assert callable(value)
    assert value.__module__.startswith("monai_sa2va.")
    assert getattr(importlib.import_module(value.__module__), value.__name__) is value


def test_model_is_an_alias_of_the_network() -> None:
    assert monai_sa2va.Sa2VAModel is monai_sa2va.Sa2VA


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'monai_sa2va' has no attribute 'Sa3VA'"):
        _ = monai_sa2va.Sa3VA


@pytest.mark.parametrize(
    "statement", ["import monai_sa2va", "import monai_sa2va.cli", "from monai_sa2va import Sa2VAConfig"]
)
def test_import_loads_nothing_heavy(statement: str) -> None:
    code = (
        f"{statement}; import sys; print([n for n in ('torch', 'transformers', 'monai', 'numpy') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_lazy_attributes_import_once_and_follow_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("made_package")
    monkeypatch.setitem(sys.modules, "made_package", package)
    attribute, names = lazy_attributes("made_package", {"ZipFile": "zipfile", "Archive": "zipfile:ZipFile"})
    assert "ZipFile" not in vars(package)
    assert attribute("Archive") is attribute("ZipFile") is importlib.import_module("zipfile").ZipFile
    assert vars(package)["Archive"] is vars(package)["ZipFile"]
    assert {"Archive", "ZipFile"} <= set(names())
