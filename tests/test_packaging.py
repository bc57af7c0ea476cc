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
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import monai_sa2va


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, with an untracked weight file that must stay at home."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("monai_sa2va", "bundle"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    for path in repository.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    (source / "bundle" / "models").mkdir(exist_ok=True)
    (source / "bundle" / "models" / "model_epoch=7.pt").write_bytes(b"left by a training run")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        ".",
    ]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (result,) = folder.glob("monai_sa2va-*.whl")
    return result


@pytest.mark.slow
def test_wheel_holds_package_and_bundle(wheel: Path, repository: Path) -> None:
    assert wheel.name == f"monai_sa2va-{monai_sa2va.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(repository).as_posix() for path in (repository / "monai_sa2va").rglob("*.py")}
    assert modules <= names
    configs = {path.name for path in (repository / "bundle" / "configs").iterdir() if path.is_file()}
    assert {f"monai_sa2va/_bundle/configs/{name}" for name in configs | {"metadata.json"}} <= names
    assert {"monai_sa2va/py.typed", "monai_sa2va/_bundle/LICENSE"} <= names
    assert not [name for name in names if name.endswith(".pt") or name.startswith(("tests", "benchmarks"))]


@pytest.mark.slow
def test_installed_wheel_finds_its_bundle_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "MONAI_SA2VA_BUNDLE"} | {"PYTHONPATH": str(site)}
    code = (
        "import json, monai_sa2va; from monai_sa2va.bundles import find_bundle; found = find_bundle();"
        "print(json.dumps([monai_sa2va.__file__, str(found.path), found.source]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True, check=True
    )
    package, bundle, source = json.loads(result.stdout)
    assert Path(package) == site / "monai_sa2va" / "__init__.py"
    assert (Path(bundle), source) == ((site / "monai_sa2va" / "_bundle").resolve(), "package")
    assert json.loads((Path(bundle) / "configs" / "metadata.json").read_text())["version"]


def test_licence_is_the_same_in_the_bundle(repository: Path) -> None:
    text = (repository / "LICENSE").read_text()
    assert "Apache License" in text
    assert (repository / "bundle" / "LICENSE").read_text() == text


def test_every_module_starts_with_the_licence_header(repository: Path) -> None:
    header = (repository / "monai_sa2va" / "errors.py").read_text().splitlines()[:10]
    assert header[0] == "# Copyright (c) monai-sa2va contributors"
    modules = [path for room in ("monai_sa2va", "tests", "benchmarks") for path in (repository / room).rglob("*.py")]
    assert len(modules) > 10
    assert [str(path) for path in modules if path.read_text().splitlines()[:10] != header] == []


def test_every_dependency_is_listed_with_its_licence(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text()
    listed = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    names = set(re.findall(r'^    "([A-Za-z0-9-]+)', listed, re.MULTILINE)) - {"monai-sa2va"}
    assert {"torch", "highdicom", "monailabel", "onnx", "pytest"} <= names
    table = (repository / "THIRD_PARTY.md").read_text()
    assert sorted(name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", table)) == []
