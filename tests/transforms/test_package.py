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

"""The room's names: all there, lazy, and in MONAI's three spellings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from monai.transforms import MapTransform

from monai_sa2va import transforms


def test_every_name_is_there() -> None:
    for name in transforms.__all__:
        assert getattr(transforms, name) is not None
    assert set(transforms.__all__) <= set(dir(transforms))


def test_dictionary_transforms_have_three_names() -> None:
    for name in transforms.__all__:
        if name.endswith("d") and isinstance(getattr(transforms, name), type):
            stem = name[:-1]
            assert getattr(transforms, name) is getattr(transforms, stem + "D") is getattr(transforms, stem + "Dict")
    assert issubclass(transforms.WindowDict, MapTransform)


def test_torch_waits_until_a_transform_is_used() -> None:
    code = "import sys, monai_sa2va.transforms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=".").returncode == 0


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Windows'"):
        transforms.Windows  # noqa: B018
