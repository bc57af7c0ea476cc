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

"""The server on a real DICOMweb server, without a browser; and on one that is down, slow, or wants a login."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from services import SECONDS, free_port, remove, running

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'monai-sa2va[label]'")

Dice = Callable[[np.ndarray, np.ndarray], float]
Truth = Callable[[str], np.ndarray]
SLICES = 16
"""Of the tutorial's phantom."""


@pytest.fixture
def client(server: str, tmp_path: Path) -> Any:
    """MONAI Label's own client."""
    from monailabel.client import MONAILabelClient

    return MONAILabelClient(server, str(tmp_path))


@pytest.fixture
def store(orthanc: str) -> Any:
    """Orthanc's DICOMweb."""
    from dicomweb_client import DICOMwebClient

    return DICOMwebClient(orthanc)


@pytest.fixture
def series(store: Any) -> str:
    """UID of the CT series."""
    (found,) = store.search_for_series(search_filters={"Modality": "CT"})
    return str(found["0020000E"]["Value"][0])


def _values(file: str) -> np.ndarray:
    import nibabel

    return np.asanyarray(nibabel.load(file).dataobj).transpose(2, 1, 0)


def _liver(client: Any, series: str) -> str:
    file, told = client.infer("sa2va_text", series, {"text": "Segment the liver.", "result_extension": ".nii.gz"})
    assert told["label_names"] == {"liver": 1}
    return str(file)


def test_series_are_listed_and_answered(client: Any, series: str, truth: Truth, dice: Dice) -> None:
    assert client.next_sample("random", {})["id"] == series
    values = _values(_liver(client, series)) > 0
    # the file's axes run to the patient's left and back, as the phantom's do
    overlap = max(dice(np.flip(values, axes), truth("liver")) for axes in ((), (1,), (2,), (1, 2)))
    assert overlap >= 0.7


def test_a_series_that_grew_is_fetched_anew(client: Any, series: str, store: Any, tutorial: Any, orthanc: str) -> None:
    import nibabel

    params = {"text": "Segment the liver.", "mode": "slice", "result_extension": ".nii.gz"}
    assert nibabel.load(client.infer("sa2va_text", series, dict(params))[0]).shape[2] == SLICES
    (last,) = (tutorial.folder / "study" / "images").glob(f"*/{SLICES:04d}.dcm")
    remove(tutorial.orthanc, pydicom.dcmread(last).SOPInstanceUID, "instances")
    try:
        assert nibabel.load(client.infer("sa2va_text", series, dict(params))[0]).shape[2] == SLICES - 1
    finally:
        store.store_instances([pydicom.dcmread(last)])
    assert nibabel.load(client.infer("sa2va_text", series, dict(params))[0]).shape[2] == SLICES


def test_a_series_that_is_not_there_is_named_so(client: Any) -> None:
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("sa2va_text", "1.2.3.4", {"text": "Segment the liver."})
    assert "Status: 404" in caught.value.msg
    assert "there is no image of that id in the studies" in caught.value.msg


def test_a_saved_label_is_a_seg_that_verifies(
    client: Any, series: str, store: Any, tutorial: Any, tmp_path: Path
) -> None:
    from monai_sa2va.verify.run import verify_results

    client.save_label(series, _liver(client, series), "final", {"label_info": [{"name": "liver", "idx": 1}]})
    (found,) = store.search_for_series(search_filters={"Modality": "SEG"})
    study, uid = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
    try:
        (seg,) = store.retrieve_series(study, uid)
        (tmp_path / "back").mkdir()
        seg.save_as(tmp_path / "back" / "seg.dcm")
        (verdict,) = verify_results(tmp_path / "back", [tutorial.folder / "study" / "images"])
        assert (verdict.problems, verdict.against_source) == ([], True)
        # soon seen as labelled, not after two hours
        end = time.monotonic() + 30
        while (sample := client.next_sample("random", {})) and time.monotonic() < end:
            time.sleep(1)
        assert not sample
    finally:
        remove(tutorial.orthanc, uid)


def test_a_label_of_another_grid_is_refused_and_nothing_is_stored(
    client: Any, series: str, store: Any, tmp_path: Path
) -> None:
    import nibabel
    from monailabel.client.client import MONAILabelClientException

    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "odd.nii.gz")
    with pytest.raises(MONAILabelClientException) as caught:
        client.save_label(series, str(tmp_path / "odd.nii.gz"), "final", {"label_info": []})
    assert "Status: 400" in caught.value.msg
    assert "doesn't lie on the grid of its series" in caught.value.msg
    assert not store.search_for_series(search_filters={"Modality": "SEG"})


# --- DICOMweb servers that don't do as they should


class Odd(http.server.BaseHTTPRequestHandler):
    """Answers with the status of its server; nothing, where that is 0."""

    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        if not status:
            self.server.over.wait(SECONDS)  # type: ignore[attr-defined]
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def odd_server(status: int, body: bytes = b"") -> Iterator[Any]:
    """Its address, as ``address``, and what it answers, as ``answer``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as made:
        made.daemon_threads = True
        made.answer, made.over = (status, body), threading.Event()  # type: ignore[attr-defined]
        made.address = f"http://127.0.0.1:{made.server_port}/dicom-web"  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.over.set()  # type: ignore[attr-defined]
        made.shutdown()


def _start(tutorial: Any, address: str) -> tuple[int, str]:
    done = subprocess.run(
        ["monai-sa2va", "serve", "--studies", address, "--port", tutorial.ports["8000"]],
        cwd=tutorial.folder,
        env=tutorial.variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"", "the DICOMweb server refuses the login (401); set MONAI_LABEL_DICOMWEB_USERNAME"),
        (404, b"", "the DICOMweb server has no such address (404)"),
        (500, b"", "the DICOMweb server doesn't answer as expected (500)"),
        (200, b"<html>", "what answers is no DICOMweb server"),
        (200, b"{}", "what answers is no DICOMweb server"),
    ],
)
def test_it_does_not_start_on_what_does_not_answer(tutorial: Any, status: int, body: bytes, told: str) -> None:
    with odd_server(status, body) as odd:
        code, said = _start(tutorial, odd.address)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith(f"error: [CONFIG] studies: {told}")
    assert "127.0.0.1" not in line


def test_it_does_not_start_where_nothing_listens(tutorial: Any) -> None:
    with odd_server(200) as gone:
        pass
    code, said = _start(tutorial, gone.address)
    assert (code, len(said.splitlines())) == (2, 1)
    assert "the DICOMweb server can't be reached" in said


def test_an_orthanc_that_wants_a_login(tutorial: Any) -> None:
    import requests

    port, own = free_port(0), free_port(0)
    settings = json.loads(tutorial.block("json", "DicomWeb")) | {
        **dict.fromkeys(("StorageDirectory", "IndexDirectory"), "locked"),
        "HttpPort": port,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"annotator": "secret"},
    }
    (tutorial.folder / "locked.json").write_text(json.dumps(settings), encoding="utf-8")
    root = f"http://127.0.0.1:{port}"
    log = tutorial.folder / "locked.log"
    with running("Orthanc locked.json", tutorial.folder, tutorial.variables, f"{root}/system", log):
        code, said = _start(tutorial, f"{root}/dicom-web")
        assert (code, len(said.splitlines())) == (2, 1)
        assert "refuses the login (401)" in said
        command = f"monai-sa2va serve --studies {root}/dicom-web --port {own} --state locked-state"
        login = {"MONAI_LABEL_DICOMWEB_USERNAME": "annotator", "MONAI_LABEL_DICOMWEB_PASSWORD": "secret"}
        address = f"http://127.0.0.1:{own}"
        with running(command, tutorial.folder, tutorial.variables | login, f"{address}/health", log):
            for place in ("proxy/dicom/qido/studies", "datastore/?output=stats"):
                assert requests.get(f"{address}/{place}", timeout=SECONDS).status_code == 200
    assert "secret" not in log.read_text(errors="replace")


# what answers once the server runs: all of these come in a thread, while others go on being answered
@pytest.fixture(scope="module")
def on_odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A server on a DICOMweb server that can be made odd, in this process, with short limits."""
    import os
    import socket

    uvicorn = pytest.importorskip("uvicorn", reason="MONAI Label is not installed")
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    before = dict(os.environ)
    patch = pytest.MonkeyPatch()
    patch.setattr("monai_sa2va.label.dicomweb._LIMITS", (2.0, 2.0))
    from monai_sa2va.label.server import ServerSettings, make_server

    with odd_server(200, b"[]") as odd, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        app = make_server(ServerSettings(odd.address, tmp_path_factory.mktemp("odd"), port=port))
        running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.05)
        yield odd, f"http://127.0.0.1:{port}"
        running.should_exit = True
        thread.join(20)
    patch.undo()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("status", "expected", "told"),
    [
        (0, 504, "the DICOMweb server doesn't answer in time"),
        (401, 502, "the DICOMweb server refuses the login (401)"),
        (404, 502, "the DICOMweb server has no such address (404)"),
    ],
)
def test_a_request_is_answered_in_one_line(on_odd: tuple[Any, str], status: int, expected: int, told: str) -> None:
    import requests

    odd, address = on_odd
    odd.answer = (status, b"")
    params = {"params": (None, json.dumps({"text": "Segment the liver."}))}
    answer = requests.post(f"{address}/infer/sa2va_text?image=1.2.3", files=params, timeout=SECONDS)
    assert answer.status_code == expected
    assert answer.json()["detail"].startswith(told)


def test_others_are_answered_while_the_dicomweb_server_is_slow(on_odd: tuple[Any, str]) -> None:
    import requests

    odd, address = on_odd
    odd.answer = (0, b"")
    slow: list[Any] = []
    asking = threading.Thread(
        target=lambda: slow.append(requests.get(f"{address}/proxy/dicom/qido/studies", timeout=SECONDS))
    )
    began = time.monotonic()
    asking.start()
    time.sleep(0.3)
    assert requests.get(f"{address}/health", timeout=SECONDS).status_code == 200
    assert time.monotonic() - began < 1.8
    asking.join()
    assert (slow[0].status_code, slow[0].json()["detail"][:40]) == (504, "the DICOMweb server doesn't answer in ti")
