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

"""``monai-sa2va check``: what a run would stumble over, told before it begins."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from monai_sa2va.errors import ConfigError

__all__ = ["CONTEXT_SETTINGS", "Kind", "check"]

CONTEXT_SETTINGS = {"ignore_unknown_options": True}
"""For click: keys of the configuration stand among the options."""


class Kind(str, Enum):
    """What is to be run."""

    TRAIN = "train"
    INFERENCE = "inference"
    EVALUATE = "evaluate"


def check(
    kind: Annotated[Kind, typer.Argument(help="What is to be run.")],
    config_file: Annotated[
        list[Path],
        typer.Option("--config_file", metavar="FILE...", help="Later files replace keys of earlier ones."),
    ],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Argument(metavar="--KEY VALUE", help="Other values for keys, as behind monai.bundle's run."),
    ] = None,
) -> None:
    """Check data, checkpoint, settings and machine before a run; one line a check: pass, warn or fail.

    Nothing is trained or segmented, and no data is made. The exit code is 1 where a check fails, else 0.
    """
    from monai_sa2va.preflight.keys import refuse_dropped, refuse_unknown
    from monai_sa2va.preflight.report import Status
    from monai_sa2va.preflight.run import check_settings
    from monai_sa2va.preflight.settings import read_settings

    files, values = _split(overrides or [])
    values = _without_run_arguments(values)
    # as the run does
    kept = {key: value for key, value in values.items() if value is not None}
    settings = read_settings([*config_file, *files], kept)
    refuse_unknown(settings.parser, kind.value)
    refuse_dropped([key for key in values if key not in kept], settings.parser.get())
    with _quiet():
        findings = check_settings(kind.value, settings)
    for finding in findings:
        typer.echo(str(finding))
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    typer.echo(", ".join(f"{count} {status.value}" for status, count in counts.items()))
    if counts[Status.FAIL]:
        raise typer.Exit(1)


@contextmanager
def _quiet() -> Iterator[None]:
    """What a run would log and warn of is left to the run: here its findings count."""
    logger = logging.getLogger("monai_sa2va")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _split(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Further configuration files, and overrides, whose values are read as monai.bundle reads them."""
    from fire.parser import DefaultParseValue

    files: list[str] = []
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            files.append(word)
            continue
        key, equals, text = word.lstrip("-").partition("=")
        if not key:
            raise ConfigError(f"{word!r} is no key of a configuration; give --key value")
        if not equals and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        elif not equals:
            text = "True"
        values[key] = DefaultParseValue(text)
    return files, values


def _without_run_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides alone: of what monai.bundle's run takes for itself, as ``tracking``, only ``args_file`` brings some.

    Raises:
        ConfigError: when ``args_file`` can't be read.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow, run

    own = {"workflow_name", *inspect.signature(run).parameters, *inspect.signature(ConfigWorkflow).parameters}
    own.discard("override")
    brought: Any = {}
    if "args_file" in values:
        try:
            brought = ConfigParser.load_config_file(str(values["args_file"]))
        # JSON, YAML and MONAI each have their own errors
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"--args_file {values['args_file']} can't be read: {text}") from error
    if not isinstance(brought, Mapping):
        raise ConfigError(f"--args_file {values['args_file']} is no mapping of arguments; write key: value")
    return {key: value for key, value in {**brought, **values}.items() if key not in own}
