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

"""Writes docs/reference/cli.md from the commands themselves: ``python docs/generate_cli.py``.

It reads what ``--help`` prints from, not its layout, which changes with the terminal's width and with typer's release.
"""

from __future__ import annotations

import enum
import inspect
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from monai_sa2va.cli.main import DISCLAIMER, VERBS, app

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parent / "reference" / "cli.md"

_HEAD = f"""# Command line

<!-- Made by `python docs/generate_cli.py`; don't edit it here. -->

`monai-sa2va VERB …`, or `python -m monai_sa2va VERB …`. {DISCLAIMER}

| Exit code | Meaning |
|---|---|
| 0 | everything was done |
| 1 | some inputs failed or were left out; the rest is written |
| 2 | wrong usage, or nothing usable |
| 130 | interrupted |

An error is one line with a [code](errors.md); `--debug` shows the traceback instead.
"""


def render() -> str:
    """The page: options before the verb, then a section a verb with its arguments and options."""
    root = typer.main.get_command(app)
    parts = [_HEAD, "## Options before the verb\n\n" + _list(root.params, {})]
    for verb in VERBS:
        function = getattr(import_module(f"monai_sa2va.cli.{verb}"), verb)
        single = typer.Typer(add_completion=False)
        single.command(verb)(function)
        command = typer.main.get_command(single)
        hints = typing.get_type_hints(function)
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        usage = " ".join(["monai-sa2va", verb, "[OPTIONS]", *(_argument_name(p) for p in arguments)])
        section = [f"## {verb}", f"```text\n{usage}\n```", inspect.cleandoc(function.__doc__ or "")]
        if arguments:
            section.append("Arguments:\n\n" + _list(arguments, hints))
        if options:
            section.append("Options:\n\n" + _list(options, hints))
        parts.append("\n\n".join(section))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _list(parameters: list[Any], hints: dict[str, Any]) -> str:
    return "\n".join(_line(parameter, hints) for parameter in parameters if parameter.name != "help")


def _line(parameter: Any, hints: dict[str, Any]) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [_argument_name(parameter)] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    notes = []
    choices = _choices(hints.get(parameter.name))
    if choices:
        notes.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    if parameter.multiple or getattr(parameter, "nargs", 1) == -1:
        notes.append("may be repeated")
    if parameter.required:
        notes.append("required")
    default = _default(parameter)
    if default is not None:
        notes.append(f"default `{default}`")
    tail = f" ({'; '.join(notes)})" if notes else ""
    return f"- {', '.join(f'`{name}`' for name in names)}{tail}: {parameter.help or ''}".rstrip(": ")


def _argument_name(parameter: Any) -> str:
    name: str = parameter.metavar or str(parameter.name).upper()
    return f"{name}..." if parameter.nargs == -1 and not name.endswith("...") else name


def _default(parameter: Any) -> str | None:
    shown = getattr(parameter, "show_default", True)
    if isinstance(shown, str):
        return shown
    value = parameter.default
    if shown is False or callable(value) or value is None or value is False or value in ((), []):
        return None
    return str(value.value if isinstance(value, enum.Enum) else value)


def _choices(hint: Any) -> list[str]:
    """Values of the enumeration inside of an annotation, if there is one."""
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [str(member.value) for member in hint]
    for inner in typing.get_args(hint):
        found = _choices(inner)
        if found:
            return found
    return []


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
