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

"""Prints what the server needs, one requirement a line, so that an image keeps it in a layer of its own.

python deploy/requirements.py pyproject.toml label finetune
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

__all__ = ["requirements"]


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The package's requirements with those of its extras, an extra of the package in an extra followed.

    Args:
        pyproject: file that names them.
        extras: names.

    Raises:
        KeyError: when there is no extra of that name.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    own = re.compile(rf"{re.escape(project['name'])}\[([\w, -]+)\]")
    found, waiting = list(project["dependencies"]), list(extras)
    followed: set[str] = set()
    while waiting:
        extra = waiting.pop(0)
        if extra in followed:
            continue
        followed.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            inner = own.fullmatch(requirement)
            if inner:
                waiting += [name.strip() for name in inner[1].split(",")]
            else:
                found.append(requirement)
    return found


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
