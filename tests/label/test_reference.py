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

"""docs/reference/server.md is what the server has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")

# the stock client leaves sockets and files to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def _rows(repository: Path, name: str) -> list[list[str]]:
    page = (repository / "docs" / "reference" / "server.md").read_text(encoding="utf-8")
    table = re.search(rf"<!-- {name} -->(.*)<!-- /{name} -->", page, re.DOTALL)
    assert table
    lines = [line for line in table[1].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_endpoints(server: Any, repository: Path) -> None:
    rows = {cells[0].strip("`"): set(cells[1].split(", ")) for cells in _rows(repository, "endpoints")}
    own = {path: {name.upper() for name in methods} for path, methods in server.app.openapi()["paths"].items()}
    # what OHIF asks is told of below the table
    assert rows == {path: methods for path, methods in own.items() if not path.startswith(("/proxy", "/ohif", "/docs"))}


def test_the_answer(client: Any, repository: Path) -> None:
    _, told = client.infer("sa2va_text", "ct", {"text": "Segment the spine.", "mode": "slice"})
    assert [cells[0].strip("`") for cells in _rows(repository, "answer")] == [
        *(
            "label_names",
            "answer",
            "scores",
            "objects",
            "empty_because",
            "overlap_voxels",
            "model",
            "latencies",
            "notice",
        )
    ]
    assert {cells[0].strip("`") for cells in _rows(repository, "answer")} == told.keys()
