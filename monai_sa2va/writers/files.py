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

"""Names and writing of files: safe, unique, and whole or not at all."""

from __future__ import annotations

import os
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_sa2va.errors import OutputError

__all__ = ["atomic_path", "free_name", "make_folder", "safe_name", "unique_names"]

_MAX_NAME = 60
_OTHER = re.compile(r"[^a-z0-9]+")


def safe_name(text: str) -> str:
    """A name that any file system takes: a to z, 0 to 9 and ``_``, at most 60 characters, without any path.

    Args:
        text: anything, such as a phrase that a user typed; where nothing of it is left, as of one in another script,
            the name is ``object``.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return _OTHER.sub("_", plain).strip("_")[:_MAX_NAME].strip("_") or "object"


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, or with the first number that makes it unlike those taken: ``vessels_2``. Case makes no difference."""
    used = {other.casefold() for other in taken}
    candidate, number = name, 1
    while candidate.casefold() in used:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def unique_names(texts: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Safe names, of which no two are alike: ``vessels``, ``vessels_2``.

    Args:
        texts: one a name.
        taken: names that are not to be used.
    """
    names: list[str] = []
    for text in texts:
        names.append(free_name(safe_name(text), [*taken, *names]))
    return names


def make_folder(folder: str | os.PathLike[str], shown: str | None = None) -> Path:
    """Make a folder, with those above it, where it isn't there.

    Args:
        folder: to be made.
        shown: what messages call it; its path where not given.

    Raises:
        OutputError: when that can't be done, or it can't be written to.
    """
    path, shown = Path(folder), os.fspath(folder) if shown is None else shown
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {shown!r} can't be made: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"the folder {shown!r} can't be written to; choose another with output")
    return path


@contextmanager
def atomic_path(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and vanishes when it doesn't.

    Args:
        path: to be written.
        overwrite: whether a file of that name may be replaced.

    Yields:
        The temporary path, with the same suffixes.

    Raises:
        OutputError: when the file is there already, or can't be written; it names no folder above the file's own, as
            those may name a patient.
    """
    shown = "/".join(path.parts[-2:])
    if path.exists() and not overwrite:
        raise OutputError(f"{shown!r} is there already; give overwrite, or another output folder")
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{shown!r} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
