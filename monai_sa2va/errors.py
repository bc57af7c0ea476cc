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

"""Typed exceptions with stable codes: every message names the file, field or argument and what to do about it."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DatalistError",
    "OutputError",
    "PreflightError",
    "ProcessError",
    "PromptError",
    "Sa2VAError",
    "TrainingError",
]


class Sa2VAError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        code: a stable, machine-readable name, printed in front of the message on the command line.
    """

    code: str = "SA2VA_ERROR"

    def __str__(self) -> str:
        return f"[{self.code}] {super().__str__()}"


class ConfigError(Sa2VAError, ValueError):
    """A preset, option or configuration value that can't be used."""

    code = "CONFIG"


class DataError(Sa2VAError, ValueError):
    """An image or label that can't be read, or whose shape or values don't fit."""

    code = "DATA"


class DatalistError(DataError):
    """A datalist entry, or a folder that a datalist should be made from, that can't be used."""

    code = "DATALIST"


class PromptError(Sa2VAError, ValueError):
    """A sentence that is empty, too long or names nothing."""

    code = "PROMPT"


class CheckpointError(Sa2VAError, ValueError):
    """Weights that are missing, misshaped or of another geometry."""

    code = "CHECKPOINT"


class OutputError(Sa2VAError, OSError):
    """A result that can't be written."""

    code = "OUTPUT"


class TrainingError(Sa2VAError, RuntimeError):
    """A training that can't go on: its loss, or its gradient, is no finite number."""

    code = "TRAINING"


class ProcessError(Sa2VAError, RuntimeError):
    """Another process of a run on several GPUs that was killed, or does not answer."""

    code = "PROCESS"


class PreflightError(Sa2VAError):
    """A run whose checks failed before it began."""

    code = "PREFLIGHT"
