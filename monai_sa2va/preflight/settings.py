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

"""A configuration as checks see it, built or about to be built."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from monai_sa2va.errors import ConfigError

__all__ = ["Settings", "read_settings", "running_parser"]


@dataclass(eq=False)
class Settings:
    """A parsed configuration and what checks have found out about its data.

    Attributes:
        parser: MONAI's; what is built for a check is what the run then uses.
        make_data: whether the run is about to begin, so that phantoms may be made where ``dataset_dir`` is missing.
        notes: what one check leaves for later ones, such as entries of the datalist.
    """

    parser: ConfigParser
    make_data: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        """Whether the configuration holds an id."""
        return key in self.parser

    def value(self, key: str, default: Any = None) -> Any:
        """What an id is built or evaluated to; ``default`` where there is none of that name."""
        return self.parser.get_parsed_content(key) if self.has(key) else default


def read_settings(files: Sequence[str | os.PathLike[str]], overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read configuration files as ``monai.bundle run`` does, and nothing else: no check writes or caches data.

    Args:
        files: the later replace keys of the earlier.
        overrides: id -> value.

    Raises:
        ConfigError: when there is no file, one is missing or no JSON or YAML object, or an override is below an id that
            isn't there.
    """
    if not files:
        raise ConfigError("there is no configuration; name one with --config_file")
    paths = [os.fspath(file) for file in files]
    for path in paths:
        if not os.path.isfile(path):
            raise ConfigError(f"--config_file {path} does not exist")
    parser = ConfigParser()
    try:
        parser.read_config(paths)
        for key, value in (overrides or {}).items():
            parent = ReferenceResolver.split_id(key, last=True)[0]
            if parent and parent not in parser:
                raise ConfigError(f"unknown key {key}: there is nothing that it could be a part of; correct it")
            parser[key] = value
        parser.parse()
    except ConfigError:
        raise
    # json, yaml and MONAI's merging each have their own errors
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"--config_file {', '.join(paths)} can't be read: {text}") from error
    settings = Settings(parser)
    # loaders are built to count what they hold, not to load it
    for key, idle in (("cache_rate", 0.0), ("num_workers", 0)):
        if settings.has(key):
            settings.notes[key] = settings.value(key)
            parser[key] = idle
    parser.parse()
    return settings


def running_parser() -> ConfigParser:
    """The parser of the configuration whose expression is being evaluated.

    MONAI hands an expression the values that it refers to, not the configuration it stands in. The parser is therefore
    looked for among the callers: it is the one that evaluates.

    Raises:
        ConfigError: when no configuration is being evaluated.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back
    raise ConfigError("this is for expressions of a configuration, such as its initialize; see monai-sa2va check")
