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

import json
import platform
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from monai_sa2va.cli.main import app

runner = CliRunner()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    monkeypatch.setenv("MONAI_SA2VA_BUNDLE", str(tmp_path))
    return tmp_path


def test_json_holds_versions_devices_and_bundle(bundle: Path) -> None:
    result = runner.invoke(app, ["info", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["monai_sa2va"] == "0.1.0"
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["devices"][0]["name"] == "cpu"
    assert len(facts["devices"]) >= 1 + torch.cuda.device_count()
    assert facts["bundle"] == {"path": str(bundle.resolve()), "source": "environment"}


def test_text_shows_the_same(bundle: Path) -> None:
    lines = runner.invoke(app, ["info"]).stdout.splitlines()
    assert lines[0].startswith(f"monai-sa2va 0.1.0 on Python {platform.python_version()}")
    assert any(line.split() == ["torch", torch.__version__.split("+")[0]] for line in lines)
    assert lines[-1] == f"bundle {bundle.resolve()} (environment)"


def test_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setattr("monai_sa2va.cli.info._PACKAGES", ("torch", "no-such-package"))
    assert json.loads(runner.invoke(app, ["info", "--json"]).stdout)["packages"]["no-such-package"] is None
    assert "no-such-package not installed" in runner.invoke(app, ["info"]).stdout


def test_wrong_bundle_is_a_finding_not_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MONAI_SA2VA_BUNDLE", str(tmp_path))
    result = runner.invoke(app, ["info"])
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last.startswith("bundle: [CONFIG] MONAI_SA2VA_BUNDLE")
    assert "metadata.json" in last
