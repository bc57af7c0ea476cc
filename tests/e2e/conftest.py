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

"""The tutorial's programs, started as it says: a study, Orthanc with it, the server on that, and OHIF in a browser."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ohif import FLAGS, Ohif
from services import REPOSITORY, SECONDS, blocks, browser, environment, free_port, missing, running

TUTORIAL = "docs/tutorial/ohif.md"
SEED, SLICES = 8, 16
"""Of the tutorial's phantom."""


class Tutorial:
    """The commands of the page, with ports that are free.

    Args:
        folder: where they run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.variables = folder, environment(folder)
        # the tutorial's own ports where they are free, as they are in its pictures
        self.ports = {"8043": str(free_port(8043)), "8000": str(free_port(8000))}
        self.orthanc = f"http://127.0.0.1:{self.ports['8043']}"
        self.server = f"http://127.0.0.1:{self.ports['8000']}"

    def block(self, language: str, with_text: str) -> str:
        """The one block that holds a text."""
        (found,) = (text for text in blocks(TUTORIAL, language) if with_text in text)
        return re.sub(r"\b(8043|8000)\b", lambda match: self.ports[match[1]], found)

    def run(self, language: str, with_text: str) -> str:
        """Run a block to its end, and return what it printed."""
        program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": ["python", "-c"]}[language]
        done = subprocess.run(
            [*program, self.block(language, with_text)],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{with_text}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    """A folder with the study."""
    reason = missing(with_browser=False)
    if reason is not None:
        pytest.skip(reason)
    made = Tutorial(tmp_path_factory.mktemp("tutorial"))
    made.run("bash", "monai-sa2va phantoms")
    (made.folder / "orthanc.json").write_text(made.block("json", "DicomWeb"), encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def orthanc(tutorial: Tutorial) -> Iterator[str]:
    """Address of Orthanc's DICOMweb, with the study in it."""
    command = tutorial.block("bash", "Orthanc orthanc.json").strip()
    with running(command, tutorial.folder, tutorial.variables, tutorial.orthanc, tutorial.folder / "orthanc.log"):
        tutorial.run("bash", "curl")
        yield f"{tutorial.orthanc}/dicom-web"


@pytest.fixture(scope="session")
def server(tutorial: Tutorial, orthanc: str) -> Iterator[str]:
    """Address of the server on that."""
    command = tutorial.block("bash", "monai-sa2va serve").strip()
    if tutorial.ports["8000"] != "8000":
        command += f" --port {tutorial.ports['8000']}"
    log = tutorial.folder / "server.log"
    with running(command, tutorial.folder, tutorial.variables, f"{tutorial.server}/health", log):
        yield tutorial.server


@pytest.fixture(scope="session")
def ohif(server: str) -> Iterator[Ohif]:
    """OHIF in a browser without a window."""
    reason = missing(with_browser=True)
    if reason is not None:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as programs:
        started = programs.chromium.launch(executable_path=browser(), args=FLAGS)
        yield Ohif(started.new_page(viewport={"width": 1280, "height": 640}), server)
        started.close()


@pytest.fixture(scope="session")
def truth() -> Callable[[str], np.ndarray]:
    """Where a structure of the study is, (Z, Y, X) bool, slices from foot to head."""
    from monai_sa2va.data.phantom_stacks import make_stack
    from monai_sa2va.data.phantoms import LABEL_VALUES

    label = make_stack(SEED, "volume", "ct", slices=SLICES).label
    return lambda name: label == LABEL_VALUES[name]


@pytest.fixture(scope="session")
def dice() -> Callable[[np.ndarray, np.ndarray], float]:
    """Overlap of two masks, 0 to 1."""
    return lambda first, second: float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for pictures: that of the documentation where ``E2E_PICTURES`` says so (``make e2e E2E_PICTURES=1``)."""
    wanted: Any = os.environ.get("E2E_PICTURES")
    return REPOSITORY / "docs" / "images" if wanted else tmp_path_factory.mktemp("pictures")
