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

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from monai_sa2va.cli import main as cli
from monai_sa2va.errors import ConfigError, OutputError

runner = CliRunner()

HEAVY = ("torch", "transformers", "monai", "numpy")


def _verb(monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    """Put a function in the place of a verb's module."""
    command = typer.Typer(add_completion=False)
    command.command("info")(function)
    monkeypatch.setattr(cli, "_load", lambda verb: typer.main.get_command(command))


def _config_error() -> None:
    raise ConfigError("max_tiles is 0;\n  give at least 1")


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['monai-sa2va', '--help']\n"
        "from monai_sa2va.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert error.code == 0, error.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in result.stdout
    for verb in ("segment", "datalist", "phantoms", "info"):
        assert f"\n  {verb} " in result.stdout


def test_module_runs_as_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "monai_sa2va", "--version"], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout == ("monai-sa2va 0.1.0\nResearch use only. Not a medical device; not for diagnosis.\n")


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_loads_and_explains_itself(verb: str) -> None:
    result = runner.invoke(cli.app, [verb, "--help"])
    assert result.exit_code == 0, result.output
    assert f" {verb} [OPTIONS]" in result.output
    assert "--debug" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inof"], "No such command 'inof'"),
        (["info", "--nope"], "No such option: --nope"),
        (["info", "surplus"], "unexpected extra argument"),
        (["--debug"], "Missing command"),
    ],
)
def test_wrong_usage_exits_2_with_the_reason_on_stderr(arguments: list[str], message: str) -> None:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_package_errors_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _verb(monkeypatch, _config_error)
    result = runner.invoke(cli.app, ["info"])
    assert result.exit_code == 2
    assert result.stderr == "error: [CONFIG] max_tiles is 0; give at least 1\n"
    assert result.stdout == ""


def test_errors_that_are_also_os_errors_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OutputError("out/ is not writable; choose another folder")

    _verb(monkeypatch, fail)
    result = runner.invoke(cli.app, ["info"])
    assert result.exit_code == 2
    assert result.stderr == "error: [OUTPUT] out/ is not writable; choose another folder\n"


@pytest.mark.parametrize("arguments", [["--debug", "info"], ["info", "--debug"]])
def test_debug_lets_the_error_through(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    _verb(monkeypatch, _config_error)
    result = runner.invoke(cli.app, arguments)
    assert isinstance(result.exception, ConfigError)


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError("a bug")

    _verb(monkeypatch, bug)
    result = runner.invoke(cli.app, ["info"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    _verb(monkeypatch, interrupted)
    result = runner.invoke(cli.app, ["info"])
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_a_verb_may_choose_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def partly() -> None:
        raise typer.Exit(1)

    _verb(monkeypatch, partly)
    assert runner.invoke(cli.app, ["info"]).exit_code == 1


def test_main_leaves_through_system_exit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _verb(monkeypatch, _config_error)
    monkeypatch.setattr(sys, "argv", ["monai-sa2va", "info"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: [CONFIG] max_tiles is 0; give at least 1\n"
