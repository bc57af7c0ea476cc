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

"""The ``monai-sa2va`` command: dispatches to one small module a verb and turns errors into lines and exit codes.

Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage or nothing usable, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from monai_sa2va import __version__
from monai_sa2va.errors import Sa2VAError

__all__ = ["DISCLAIMER", "VERBS", "app", "main"]

DISCLAIMER = "Research use only. Not a medical device; not for diagnosis."

# verb -> its line in --help. Verb `x` is the function `x` of monai_sa2va/cli/x.py, which is imported when it is
# called for: --help must not wait for torch.
VERBS = {
    "segment": "Segment images by sentences; write masks and overlays.",
    "datalist": "Make a datalist from a folder of images and a folder of masks.",
    "serve": "Serve 3D Slicer and OHIF through MONAI Label.",
    "phantoms": "Write made images with known structures, to try things on.",
    "check": "Check data, checkpoint, settings and machine before a run.",
    "convert": "Turn an official checkpoint into one of this package, and back.",
    "merge": "Merge an adapter into the checkpoint that it was fine-tuned from.",
    "verify": "Check that results are where their sources are.",
    "info": "Show versions, devices and the bundle in use.",
}

_DEBUG = "monai_sa2va.debug"


class _VerbGroup(TyperGroup):
    """Loads a verb when it is called, and reports this package's errors in one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in VERBS:
            command = _load(name)
            # the root's own --debug, so that it may also stand behind the verb
            command.params.extend(parameter for parameter in self.params if parameter.name == "debug")
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Sa2VAError as error:
            if ctx.meta.get(_DEBUG):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            if ctx.meta.get(_DEBUG):
                raise
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_VerbGroup,
    name="monai-sa2va",
    help=f"Segment medical images by sentence with Sa2VA.\n\n{DISCLAIMER}",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: the same in a terminal, a log and a CI runner
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"monai-sa2va {__version__}\n{DISCLAIMER}")
        raise typer.Exit


def _remember_debug(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", callback=_remember_debug, expose_value=False, help="Show the traceback of an error."),
    ] = False,
) -> None:
    """Options that stand before the verb."""


def _placeholder() -> None:
    """Stands for a verb in --help until the verb is called."""


for _verb, _line in VERBS.items():
    app.command(_verb, help=_line)(_placeholder)


def _load(verb: str) -> Any:
    """The command of a verb, from its module."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    module = import_module(f"monai_sa2va.cli.{verb}")
    single.command(verb, context_settings=getattr(module, "CONTEXT_SETTINGS", None))(getattr(module, verb))
    return typer.main.get_command(single)


def main() -> None:
    """Run the command line on ``sys.argv`` and leave through :class:`SystemExit` with the exit code."""
    sys.exit(app(prog_name="monai-sa2va"))
