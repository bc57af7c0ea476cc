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

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from monai_sa2va.errors import ConfigError
from monai_sa2va.label.dicomweb import check_server, explain_failure, limit_time, with_limit

requests = pytest.importorskip("requests", reason="requests is not installed, which MONAI Label brings")


class Asked(http.server.BaseHTTPRequestHandler):
    """Wants a login, and then has one series; keeps what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        # annotator:secret
        known = self.headers.get("Authorization") == "Basic YW5ub3RhdG9yOnNlY3JldA=="
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"[{}]" if known else b"")

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def asked() -> Iterator[Any]:
    """A DICOMweb server that wants a login."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked) as made:
        made.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_the_login_is_used_and_one_series_is_asked_for(asked: Any) -> None:
    address = f"http://127.0.0.1:{asked.server_port}/dicom-web/"
    with pytest.raises(ConfigError, match=r"refuses the login \(401\); set MONAI_LABEL_DICOMWEB_USERNAME"):
        check_server(address)
    check_server(address, "annotator", "secret", "MR")
    assert asked.asked[-1] == ("/dicom-web/series?Modality=MR&limit=1", "Basic YW5ub3RhdG9yOnNlY3JldA==")


def _failure(status: int) -> Exception:
    response = requests.Response()
    response.status_code = status
    return requests.exceptions.HTTPError("http://10.0.0.7/DOE^JANE", response=response)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (requests.exceptions.ReadTimeout("http://10.0.0.7"), 504, "doesn't answer in time"),
        (requests.exceptions.ConnectTimeout("http://10.0.0.7"), 504, "doesn't answer in time"),
        (requests.exceptions.ConnectionError("http://10.0.0.7"), 502, "can't be reached"),
        (_failure(401), 502, "refuses the login (401)"),
        (_failure(403), 502, "refuses the login (403)"),
        (_failure(404), 502, "has no such address (404)"),
        (_failure(503), 502, "doesn't answer as expected (503)"),
        (requests.exceptions.JSONDecodeError("no", "DOE^JANE", 0), 502, "is no DICOMweb server"),
        (requests.exceptions.ChunkedEncodingError("DOE^JANE"), 502, "doesn't answer as expected;"),
    ],
)
def test_a_failure_has_a_line_that_names_nobody(error: Exception, status: int, told: str) -> None:
    found, line = explain_failure(error)
    assert found == status
    assert told in line
    assert "DOE" not in line
    assert "10.0.0.7" not in line


def test_whoever_asks_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(kwargs["timeout"])
        raise requests.exceptions.ConnectionError

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    session = requests.Session()
    limit_time(session)
    for ask in (session.get, with_limit().get, with_limit().post):
        with pytest.raises(requests.exceptions.ConnectionError):
            ask("http://127.0.0.1:1/")
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get("http://127.0.0.1:1/", timeout=3)
    assert given == [(5.0, 60.0)] * 3 + [3]


def test_a_submitted_label_is_found_by_its_image(tmp_path: Any) -> None:
    """As training asks for it: the stock method would take the image for a SEG."""
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
    from monailabel.datastore.local import LocalDatastore

    from monai_sa2va.label.app import NotKnownError, _kept_label

    (tmp_path / "1.2.nii.gz").write_bytes(b"image")
    (tmp_path / "labels" / "final").mkdir(parents=True)
    label = tmp_path / "labels" / "final" / "1.2.nii.gz"
    label.write_bytes(b"label")
    store = LocalDatastore(str(tmp_path), extensions=["*.nii.gz"], auto_reload=False)

    def fetch(*asked: str) -> str:
        return "/".join(asked)

    assert _kept_label(store, fetch, "1.2", "final") == str(label.resolve())
    assert _kept_label(store, fetch, label_id="9.9", label_tag="final", image_id="1.2") == str(label.resolve())
    assert _kept_label(store, fetch, "9.9", "final", "1.3") == "9.9/final/1.3"
    with pytest.raises(NotKnownError, match="no such label was submitted here"):
        _kept_label(store, fetch, "9.9", "final")
