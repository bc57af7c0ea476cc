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

"""A file of rules: which series are asked what, and how they are shown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_sa2va.batch.where import Attributes, Where
from monai_sa2va.errors import ConfigError, Sa2VAError
from monai_sa2va.inferers.image import check_prompts
from monai_sa2va.transforms.intensity import as_window

__all__ = ["Rule", "first_match", "load_rules"]

_SHORT = {"modality": "Modality", "description": "SeriesDescription"}
_KEYS = (*_SHORT, "where", "file", "prompts", "window", "plane")
_PLANES = ("auto", "axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Rule:
    """What is asked of the series that it is for.

    Attributes:
        where: conditions on DICOM attributes; empty ones hold for everything.
        file: pattern of names of plain files; ``None``: files are not looked at by name.
        prompts: what is asked; ``None``: what the batch asks of all.
        window: how grey values are shown; ``None``: as the batch does.
        plane: how volumes are sliced; ``None``: as the batch does.
    """

    where: Where
    file: str | None = None
    prompts: tuple[str, ...] | None = None
    window: Any = None
    plane: str | None = None

    def matches(self, attributes: Attributes | None, name: str) -> bool:
        """Whether it is for a series with these attributes, or without any, for a plain file of this name."""
        if self.file is not None and (attributes is not None or not fnmatchcase(name.casefold(), self.file.casefold())):
            return False
        return self.where.missed(attributes) is None


def first_match(rules: Sequence[Rule], attributes: Attributes | None, name: str) -> Rule | None:
    """The first rule that is for a series or a file, or ``None``."""
    return next((rule for rule in rules if rule.matches(attributes, name)), None)


def load_rules(rules: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Rules of a JSON or YAML file, or as they stand in a configuration.

    Args:
        rules: path of a file with a list of rules, or the list. A rule is an object with any of ``modality`` and
            ``description`` (patterns, or lists of them, for Modality and SeriesDescription), ``where`` (DICOM keyword
            -> pattern or list), ``file`` (pattern of plain files' names), and ``prompts``, ``window``, ``plane``.

    Raises:
        ConfigError: when the file is missing or damaged, or a rule can't be used; it names file, rule and key.
    """
    if isinstance(rules, (str, os.PathLike)):
        shown, content = Path(rules).name, _read(Path(rules))
    else:
        shown, content = "rules", rules
    if not isinstance(content, Sequence) or isinstance(content, (str, bytes)) or not content:
        raise ConfigError(f"{shown} holds no list of rules; write [{{'modality': 'CT', 'prompts': ['...']}}]")
    return [_rule(entry, f"rule {number} of {shown}") for number, entry in enumerate(content, 1)]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"rules {path.name} is no file that is there; check the path")
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"rules {path.name} is none of .json, .yaml and .yml; rename it")
    try:
        return ConfigParser.load_config_file(path)
    # each of its parsers has its own error
    except Exception as error:
        raise ConfigError(f"rules {path.name} can't be read: {' '.join(str(error).split())}") from error


def _rule(entry: Any, shown: str) -> Rule:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{shown} is a {type(entry).__name__}; give an object with {', '.join(_KEYS)}")
    for key in entry:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            raise ConfigError(
                f"{shown} has the key {key!r}; "
                + (f"did you mean {near[0]}?" if near else f"allowed: {', '.join(_KEYS)}")
            )
    more = entry.get("where") or {}
    if not isinstance(more, Mapping):
        raise ConfigError(f"{shown}: where is a {type(more).__name__}; give keywords with patterns")
    asked = {**{_SHORT[key]: entry[key] for key in _SHORT if key in entry}, **more}
    where = Where.of({key: _patterns(given, f"{shown}: {key}") for key, given in asked.items()}, shown)
    file, plane, window = entry.get("file"), entry.get("plane"), entry.get("window")
    if file is not None:
        file = _patterns(file, f"{shown}: file")[0]
    if plane is not None and plane not in _PLANES:
        raise ConfigError(f"{shown}: plane is {plane!r}; allowed: {', '.join(_PLANES)}")
    try:
        prompts = None if entry.get("prompts") is None else tuple(check_prompts(entry["prompts"]))
        if window is not None:
            as_window(window)
    except Sa2VAError as error:
        reason = str(error).removeprefix(f"[{error.code}] ")
        raise ConfigError(f"{shown}: {reason}") from error
    return Rule(where, file, prompts, window, plane)


def _patterns(given: Any, shown: str) -> tuple[str, ...]:
    patterns = [given] if isinstance(given, str) else given
    fine = isinstance(patterns, Sequence) and patterns and all(isinstance(item, str) and item for item in patterns)
    if not fine:
        raise ConfigError(f"{shown} is {given!r}; give a pattern such as 'CT' or '*chest*', or a list of them")
    return tuple(patterns)
