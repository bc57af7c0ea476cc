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

from monai_sa2va import bundles
from monai_sa2va.bundles import BundleLocation, find_bundle
from monai_sa2va.errors import ConfigError


def _bundle(folder: Path) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text("{}")
    return folder.resolve()


@pytest.fixture(autouse=True)
def _empty_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, an empty working directory, and a package that lies in an empty folder."""
    monkeypatch.delenv("MONAI_SA2VA_BUNDLE", raising=False)
    (tmp_path / "work").mkdir()
    (tmp_path / "site" / "monai_sa2va").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(bundles, "__file__", str(tmp_path / "site" / "monai_sa2va" / "bundles.py"))


def test_order_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no bundle found: set MONAI_SA2VA_BUNDLE"):
        find_bundle()
    checkout = _bundle(tmp_path / "site" / "bundle")
    assert find_bundle() == BundleLocation(checkout, "checkout")
    package = _bundle(tmp_path / "site" / "monai_sa2va" / "_bundle")
    assert find_bundle() == BundleLocation(package, "package")
    here = _bundle(tmp_path / "work" / "bundle")
    assert find_bundle() == BundleLocation(here, "working directory")
    named = _bundle(tmp_path / "named")
    monkeypatch.setenv("MONAI_SA2VA_BUNDLE", str(named))
    assert find_bundle() == BundleLocation(named, "environment")
    given = _bundle(tmp_path / "given")
    assert find_bundle(given) == BundleLocation(given, "argument")
    assert find_bundle(str(given)) == BundleLocation(given, "argument")


def test_a_wrong_name_is_refused_though_others_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _bundle(tmp_path / "work" / "bundle")
    with pytest.raises(ConfigError, match=r"the bundle folder .*absent.* has no configs/metadata.json"):
        find_bundle(tmp_path / "absent")
    monkeypatch.setenv("MONAI_SA2VA_BUNDLE", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"MONAI_SA2VA_BUNDLE .*absent.* has no configs/metadata.json"):
        find_bundle()


def test_relative_names_are_made_absolute(tmp_path: Path) -> None:
    _bundle(tmp_path / "work" / "mine")
    assert find_bundle("mine").path == (tmp_path / "work" / "mine").resolve()
