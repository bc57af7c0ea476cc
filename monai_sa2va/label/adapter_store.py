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

"""Adapters that a server has learnt: which one answers, where each came from, and the way back."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_sa2va.errors import CheckpointError, OutputError
from monai_sa2va.label.options import RequestError

__all__ = ["ADAPTER_NAME", "AdapterStore"]

ADAPTER_NAME = "adapter.safetensors"
_POINTER, _PROVENANCE = "active.json", "provenance.json"


class AdapterStore:
    """A folder with a numbered folder an adapter, and a file that says which ones answered in turn.

    The server and the processes that train for it share nothing else, so the file is replaced whole.

    Args:
        folder: made when the first adapter comes.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()

    def active(self) -> Path | None:
        """The adapter that answers; ``None`` for the weights that the server was started with.

        Raises:
            CheckpointError: when the file can't be read or names an adapter that is gone.
        """
        turns = self._turns()
        if not turns:
            return None
        file = self.folder / turns[-1] / ADAPTER_NAME
        if not file.is_file():
            raise CheckpointError(f"the learnt adapter {turns[-1]} is gone; roll back, or train again")
        return file

    def new_folder(self) -> Path:
        """A numbered folder for a training to write into."""
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
            path = self.folder / f"{max(numbers, default=0) + 1:04d}"
            path.mkdir()
            return path

    def publish(self, folder: Path, provenance: Mapping[str, Any]) -> str:
        """Let a trained adapter answer from now on.

        Args:
            folder: from :meth:`new_folder`, with the adapter in it.
            provenance: where it came from, plain values without names of patients.

        Returns:
            Its number.

        Raises:
            OutputError: when the training left no adapter there.
        """
        if not (folder / ADAPTER_NAME).is_file():
            raise OutputError("the training ended without an adapter; its log says why")
        _write(folder / _PROVENANCE, provenance)
        with self._lock:
            self._store([*self._turns(), folder.name])
        return folder.name

    def rollback(self) -> str | None:
        """Let the adapter before answer again.

        Returns:
            Its number; ``None`` for the weights that the server was started with.

        Raises:
            RequestError: when these answer already.
        """
        with self._lock:
            turns = self._turns()
            if not turns:
                raise RequestError("nothing was learnt that could be rolled back")
            self._store(turns[:-1])
            return turns[-2] if len(turns) > 1 else None

    def about(self) -> dict[str, Any]:
        """``active`` (number or ``None``), and ``provenance`` of all that answered and weren't rolled back."""
        turns = self._turns()
        told = {}
        for number in turns:
            file = self.folder / number / _PROVENANCE
            told[number] = json.loads(file.read_text("utf-8")) if file.is_file() else None
        return {"active": turns[-1] if turns else None, "provenance": told}

    def _turns(self) -> list[str]:
        file = self.folder / _POINTER
        try:
            turns = json.loads(file.read_text("utf-8"))["turns"] if file.is_file() else []
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"{file.name} of the learnt adapters is damaged; remove it to begin anew") from error
        return [str(turn) for turn in turns]

    def _store(self, turns: list[str]) -> None:
        _write(self.folder / _POINTER, {"turns": turns})


def _write(path: Path, values: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
