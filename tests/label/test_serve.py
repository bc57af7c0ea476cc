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

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monai_sa2va.cli.main import DISCLAIMER, app
from monai_sa2va.errors import ConfigError
from monai_sa2va.label.repair import repair_pydicom
from monai_sa2va.label.serve import check_port, check_studies, serve, steps
from monai_sa2va.label.server import APP_MAIN, ServerSettings, is_local

SETTINGS = ServerSettings(studies="http://127.0.0.1:8042/dicom-web", state=Path("state"))


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken by another program"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="no address of this machine"):
        check_port("no.such.host.invalid", 8000)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.1.2.3", False), ("box", False)],
)
def test_which_hosts_are_of_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_other_machines_need_authentication_or_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    started: list[Any] = []
    monkeypatch.setattr("monai_sa2va.label.serve.make_server", started.append)
    monkeypatch.setattr("uvicorn.run", lambda *args, **kwargs: None)
    monkeypatch.setattr("monai_sa2va.label.serve.check_port", lambda host, port: None)
    settings = ServerSettings(studies=str(tmp_path), state=tmp_path, host="0.0.0.0")
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    with pytest.raises(ConfigError, match="other machines could read all studies"):
        serve(settings)
    assert not started
    serve(settings, allow_remote=True)
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    serve(settings)
    assert len(started) == 2


def test_the_steps_name_the_addresses_and_the_limits_of_use() -> None:
    text = steps(SETTINGS)
    assert DISCLAIMER in text
    assert "http://127.0.0.1:8000/ohif/" in text
    assert "3D Slicer" in text
    assert "sa2va_text" in text


def test_studies_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no folder"):
        check_studies(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="another kind"):
        check_studies("ftp://somewhere/studies")


@pytest.mark.parametrize("modality", ["CT", "MR", "XA", "US"])
def test_a_folder_of_dicom_files_is_refused_rather_than_listed_as_empty(modality: str, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'monai-sa2va[dicom]'")
    import made

    files = made.series(modality=modality) if modality in ("CT", "MR") else [made.cine(Modality=modality)]
    made.write(tmp_path / "patient" / "series", files)
    with pytest.raises(ConfigError, match="DICOM files, which the server takes from a DICOMweb server") as caught:
        check_studies(str(tmp_path))
    assert "patient" not in str(caught.value)
    # beside images they are what labels were made from
    (tmp_path / "volume.nii.gz").touch()
    check_studies(str(tmp_path))


def test_an_empty_folder_is_taken_as_images_may_be_uploaded(tmp_path: Path) -> None:
    check_studies(str(tmp_path))


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    result = CliRunner().invoke(app, ["serve", "--studies", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert result.output.startswith("error: [CONFIG] studies names no folder")


def test_the_app_of_the_repository_is_what_the_launcher_writes(repository: Path) -> None:
    names: dict[str, Any] = {}
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    exec(compile(APP_MAIN, "main.py", "exec"), names)
    own: dict[str, Any] = {}
    exec(compile((repository / "apps" / "sa2va" / "main.py").read_text(), "main.py", "exec"), own)
    assert names["Sa2VALabelApp"] is own["Sa2VALabelApp"]


def test_pydicom_is_repaired_only_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    name = "pydicom._storage_sopclass_uids"
    found = {"pydicom_seg": object(), name: None}
    monkeypatch.setattr("monai_sa2va.label.repair.importlib.util.find_spec", lambda asked: found[asked])
    monkeypatch.delitem(sys.modules, name, raising=False)
    found["pydicom_seg"] = None
    assert not repair_pydicom()
    found["pydicom_seg"] = object()
    monkeypatch.setitem(found, name, object())
    assert not repair_pydicom()
    monkeypatch.setitem(found, name, None)
    assert repair_pydicom()
    assert sys.modules[name].SegmentationStorage == "1.2.840.10008.5.1.4.1.1.66.4"
    assert not repair_pydicom()
