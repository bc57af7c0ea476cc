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

"""What can be told of the image and of the unit without building or starting them."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from monai_sa2va.cli.main import app
from monai_sa2va.cli.serve import serve


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def dockerfile(repository: Path) -> list[tuple[str, str]]:
    return instructions(repository / "deploy" / "Dockerfile")


@pytest.fixture
def unit(repository: Path) -> dict[str, list[str]]:
    """Settings of the unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (repository / "deploy" / "monai-sa2va.service").read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def last_stage(dockerfile: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return dockerfile[max(place for place, (word, _) in enumerate(dockerfile) if word == "FROM") :]


def options_of_serve() -> set[str]:
    single = typer.Typer()
    single.command()(serve)
    return {option for parameter in typer.main.get_command(single).params for option in parameter.opts}


def check_command(words: list[str]) -> None:
    """Whether a command line starts the server with options that there are."""
    assert words[0].endswith("monai-sa2va")
    assert words[1] == "serve"
    assert {word for word in words if word.startswith("--")} <= options_of_serve()


def test_every_stage_is_of_one_pinned_image(dockerfile: list[tuple[str, str]]) -> None:
    images = [rest.split()[0] for word, rest in dockerfile if word == "FROM"]
    assert len(images) == 2
    assert len(set(images)) == 1
    assert re.fullmatch(r"python:3\.1[0-2]\.\d+-slim-\w+", images[0])


def test_it_runs_as_no_root_and_says_whether_it_is_well(dockerfile: list[tuple[str, str]]) -> None:
    stage = dict(last_stage(dockerfile))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    health = re.search(r"CMD (\[.*\])$", stage["HEALTHCHECK"])
    assert health
    assert "http://127.0.0.1:8000/health" in json.loads(health[1])[-1]
    compile(json.loads(health[1])[-1], "HEALTHCHECK", "exec")


def test_nothing_is_fetched_but_by_pip_while_it_is_built(dockerfile: list[tuple[str, str]]) -> None:
    words = {word for word, _ in dockerfile}
    assert words <= {
        *("FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT")
    }
    for word, rest in last_stage(dockerfile):
        assert word != "RUN" or not re.search(r"pip|curl|wget|apt", rest), rest
    (offline,) = [rest for word, rest in last_stage(dockerfile) if word == "ENV"]
    assert "HF_HUB_OFFLINE=1" in offline
    assert "TRANSFORMERS_OFFLINE=1" in offline


def test_what_is_copied_is_there_and_not_left_out(dockerfile: list[tuple[str, str]], repository: Path) -> None:
    sources = [
        part for word, rest in dockerfile if word == "COPY" and "--from" not in rest for part in rest.split()[:-1]
    ]
    assert "monai_sa2va" in sources
    assert "bundle" in sources
    rules = [line for line in (repository / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    for source in sources:
        assert (repository / source).exists(), source
        assert f"!{source}" in rules, source


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("monai_sa2va/label/serve.py", True),
        ("bundle/models/model.pt", True),
        ("bundle/configs/inference.json", True),
        ("bundle/models/resume_3.pt", False),
        ("bundle/eval", False),
        ("results/1.2.3/seg.dcm", False),
        (".git/config", False),
        ("photos/eye.png", False),
    ],
)
def test_what_goes_to_the_builder(path: str, kept: bool, repository: Path) -> None:
    rules = [line for line in (repository / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = path.split("/")
    sent = True
    # the last rule that names the path, or a folder above it, decides
    for rule in rules:
        pattern = rule.removeprefix("!")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern) for name in above):
            sent = rule.startswith("!")
    assert sent is kept


def test_the_command_of_the_image(dockerfile: list[tuple[str, str]], tmp_path: Path) -> None:
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    words = json.loads(dict(last_stage(dockerfile))["ENTRYPOINT"])
    check_command(words)
    # what is given to `docker run` comes behind, and the last one of an option counts
    given = [*words[1:], "--studies", str(tmp_path), "--state", str(tmp_path)]
    result = CliRunner().invoke(app, given, env={"MONAI_LABEL_AUTH_ENABLE": ""})
    assert result.exit_code == 2
    assert "--allow-remote" in result.output
    assert "MONAI_LABEL_AUTH_ENABLE" in result.output


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11, which the image has")
def test_what_the_image_installs_is_what_the_extras_need(dockerfile: list[tuple[str, str]], repository: Path) -> None:
    import tomllib

    (line,) = [rest for word, rest in dockerfile if word == "RUN" and "requirements.py" in rest]
    script, pyproject, *extras = shlex.split(line.partition(">")[0])[1:]
    spec = importlib.util.spec_from_file_location("requirements", repository / "deploy" / script)
    module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    found = module.requirements(repository / pyproject, extras)
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = [project["dependencies"], *(project["optional-dependencies"][name] for name in ("label", "dicom"))]
    assert set(found) >= {item for part in wanted for item in part if not item.startswith("monai-sa2va[")}
    assert not any(item.startswith("monai-sa2va") for item in found)
    # the package itself is installed with the same extras
    assert any(f'".[{",".join(extras)}]"' in rest for word, rest in dockerfile if word == "RUN")
    with pytest.raises(KeyError):
        module.requirements(repository / pyproject, ["none"])


def test_the_command_of_the_unit(unit: dict[str, list[str]]) -> None:
    (line,) = unit["ExecStart"]
    words = shlex.split(line)
    check_command(words)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--studies") + 1] in unit["ReadWritePaths"]
    assert words[words.index("--state") + 1] == f"/var/lib/{unit['StateDirectory'][0]}"


def test_the_unit_is_hardened(unit: dict[str, list[str]]) -> None:
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "ProtectKernelModules", "RestrictNamespaces"):
        assert unit[key] == ["yes"], key
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["User"] != ["root"]
    assert unit["IPAddressDeny"] == ["any"]


def test_systemd_takes_the_unit(repository: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: it comes with systemd")
    source = repository / "deploy" / "monai-sa2va.service"
    # a command and users of this machine in the place of the server's
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", source.read_text(), flags=re.MULTILINE)
    copy = tmp_path / source.name
    copy.write_text(re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze can't score a file")
    # an exposure of at most 2.0 of 10
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
