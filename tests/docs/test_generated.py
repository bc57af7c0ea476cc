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

"""Pages that scripts write from the code: they are what the scripts would write now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from monai_sa2va.cli.main import VERBS


def load(repository: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", repository / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["generate_cli", "generate_conformance", "generate_python"])
def test_page_is_what_the_code_says(repository, name):
    module = load(repository, name)
    assert module.PAGE.read_text(encoding="utf-8") == module.render(), f"run: python docs/{name}.py"


def test_the_command_line_page_has_every_verb_with_its_options(repository):
    page = load(repository, "generate_cli").render()
    for verb in VERBS:
        assert f"\n## {verb}\n" in page
    assert "- `-p`, `--prompt` (may be repeated): What to segment" in page
    assert "- `--prompt`, `-p` (may be repeated): What the masks show." in page
    assert "- `--look` (one of `fundus`, `ct`, `ultrasound`; may be repeated): " in page
    assert "- `--count` (default `320`): Number of images, volumes or cines." in page
    assert "- `DIR` (required): New or empty folder" in page
    assert "--help" not in page.split("## segment")[1]


def test_signatures_are_shown_with_their_defaults(repository):
    render = load(repository, "generate_python")
    assert render._signature(example, "example") == (
        "example(size: int, *names: str, mode: str = 'fast', scale=0.5, **more: float) -> bool"
    )
    assert render._first_line(example) == "Do `this` with a `Path`, over two lines."


def example(size: int, *names: str, mode: str = "fast", scale=0.5, **more: float) -> bool:
    """Do ``this`` with a :class:`~pathlib.Path`, over
    two lines.

    More.
    """
    return bool(size and names and mode and scale and more)
