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

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")

import httpx

from monai_sa2va.label.incoming import RefusedError, parse_object
from monai_sa2va.label.middleware import Guard, explain

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

OK = {"params": json.dumps({"mode": "slice"})}


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    """A client that sends whatever it is told."""
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client


def _refused(response: httpx.Response, status: int, part: str) -> None:
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    assert "\n" not in detail
    assert part in detail


@pytest.mark.parametrize(
    ("status", "part", "path", "params"),
    [
        (404, "no model of that name", "/infer/nope?image=ct", {}),
        (404, "no image of that id", "/infer/sa2va_text?image=nope", {}),
        (404, "no image of that id", "/infer/sa2va_text?image=/etc/passwd", {}),
        (404, "no image of that id", "/infer/sa2va_text?image=../../etc/passwd", {}),
        (400, "names no image", "/infer/sa2va_text", {}),
        (404, "no such session", "/infer/sa2va_text?session_id=../../../etc", {}),
        (404, "whole-slide", "/infer/wsi/sa2va_text?image=ct", {}),
        (400, "may not hold 'image'", "/infer/sa2va_text?image=ct", {"image": "/etc/passwd"}),
        (400, "may not hold 'model'", "/infer/sa2va_text?image=ct", {"model": "other"}),
        (400, "label_tag", "/infer/sa2va_text?image=ct", {"save_label": True, "label_tag": "../../x"}),
        (400, "the prompt is empty", "/infer/sa2va_text?image=ct", {"text": " "}),
        (400, "characters", "/infer/sa2va_text?image=ct", {"text": "x" * 5000}),
        (400, "what not to segment", "/infer/sa2va_text?image=ct", {"text": "Segment all but the liver."}),
        (400, "choose one of", "/infer/sa2va_text?image=ct", {"mode": "cube"}),
        (400, "slice is 99", "/infer/sa2va_text?image=ct", {"mode": "slice", "slice": 99}),
        (400, "result_extension", "/infer/sa2va_text?image=ct", {"mode": "slice", "result_extension": "/../x"}),
        (400, "outside of 0 to", "/infer/sa2va_click?image=ct", {"foreground": [[1, 2, 300]]}),
        (400, "no list of points", "/infer/sa2va_click?image=ct", {"foreground": "here"}),
        (400, "give a sentence", "/infer/sa2va_click?image=ct", {}),
        (400, "begins with a click beside", "/infer/sa2va_click?image=ct", {"background": [[5, 5, 5]]}),
        (400, "can't be read", "/infer/sa2va_text?image=junk", {}),
        (400, "needs a DICOM source", "/infer/sa2va_text?image=ct&output=dicom_seg", {}),
        (422, "output", "/infer/sa2va_text?image=ct&output=tiff", {"mode": "slice"}),
    ],
)
def test_what_an_inference_can_not_be(
    http: httpx.Client, status: int, part: str, path: str, params: dict[str, Any]
) -> None:
    _refused(http.post(path, data={"params": json.dumps(params)}), status, part)


@pytest.mark.parametrize("params", ["{", "[]", "3", '"x"', '{"a": NaN}', "[" * 100_000, '{"text": "\\ud800"}'])
def test_params_that_are_no_json_object(http: httpx.Client, params: str) -> None:
    response = http.post("/infer/sa2va_text?image=ct", data={"params": params})
    assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [
        (404, "POST", "/train/nope"),
        (404, "POST", "/scoring/nope"),
        (404, "POST", "/activelearning/nope"),
        (404, "POST", "/batch/infer/nope"),
        (403, "POST", "/reload"),
        (403, "DELETE", "/model/sa2va_text"),
        (404, "GET", "/logs/"),
        (404, "GET", "/proxy/dicom/studies"),
        (404, "GET", "/ohif/assets"),
        (404, "GET", "/datastore/image?image=nope"),
        (400, "GET", "/datastore/image?image=..%2F..%2Fetc%2Fpasswd"),
        (400, "HEAD", "/datastore/image?image=ct&check_sum=CRC:1"),
        (404, "DELETE", "/datastore/image?id=nope"),
        (400, "GET", "/datastore/label?label=ct&tag=..%2F.."),
        (404, "PUT", "/datastore/image/info?image=nope"),
        (404, "GET", "/session/../../etc"),
        (400, "GET", "/info/?a=1&a=2"),
        (400, "GET", "/info/?a=%00"),
    ],
)
def test_other_addresses(http: httpx.Client, status: int, method: str, path: str) -> None:
    assert http.request(method, path).status_code == status


@pytest.mark.parametrize("key", ["bundle_path", "image", "model", "images"])
@pytest.mark.parametrize("path", ["/batch/infer/sa2va_text", "/activelearning/random"])
def test_no_body_may_choose_files(http: httpx.Client, path: str, key: str) -> None:
    _refused(http.post(path, json={key: "/etc"}), 400, f"may not hold '{key}'")


@pytest.mark.parametrize("name", ["x.exe", "../../x", "", ".nii.gz", "x" * 300 + ".nii.gz"])
def test_uploads_have_a_sane_name(http: httpx.Client, name: str, studies: Path) -> None:
    files = {"file": (name, b"x")}
    assert http.put("/datastore/image?image=new", files=files).status_code in (400, 422)
    assert http.put("/session/", files={"files": (name, b"x")}).status_code in (400, 422)
    assert not (studies / "new").exists()


def test_an_upload_can_not_leave_the_studies(http: httpx.Client, studies: Path) -> None:
    for image in ("../out", "..", "a/b", "a\\b", ".hidden"):
        response = http.put("/datastore/image", params={"image": image}, files={"file": ("x.nii.gz", b"x")})
        _refused(response, 400, "no id of an image")
    assert not (studies.parent / "out.nii.gz").exists()


def test_archives_are_not_unpacked(http: httpx.Client) -> None:
    _refused(http.put("/session/?uncompress=true", files={"files": ("x.nii.gz", b"x")}), 400, "not unpacked")


def test_a_huge_body_is_refused(server: Any) -> None:
    small = Guard(server.app, server.instance, max_upload=1000)

    async def send() -> list[int]:
        transport = httpx.ASGITransport(app=small)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            told = await client.post("/infer/sa2va_text?image=ct", content=b"x" * 1001)

            async def chunks() -> Any:
                for _ in range(3):
                    yield b"x" * 500

            # no length is told beforehand
            untold = await client.post("/infer/sa2va_text?image=ct", content=chunks())
            return [told.status_code, untold.status_code]

    assert asyncio.run(send()) == [413, 413]


def test_requests_queue_and_a_failed_one_leaves_the_server_usable(http: httpx.Client) -> None:
    def ask(number: int) -> tuple[int, bytes]:
        params = {"mode": "slice", "text": "Segment the spine." if number % 2 else "", "result_extension": ".nii"}
        response = http.post("/infer/sa2va_text?image=ct&output=image", data={"params": json.dumps(params)})
        return response.status_code, response.content if number % 2 else b""

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(12)))
    assert [status for status, _ in found] == [400, 200] * 6
    assert len({content for _, content in found}) == 2  # one is that of the refused


def test_the_server_answers_while_the_network_is_busy(http: httpx.Client, server: Any) -> None:
    model, released = server.instance().model, threading.Event()

    def hold() -> None:
        with model.use():
            released.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(http.post, "/infer/sa2va_text?image=ct&output=json", data=OK)
        assert http.get("/info/", timeout=10).status_code == 200
        # what watches the server would restart it in the middle of a long request
        assert http.get("/health", timeout=10).json()["status"] == "ok"
        assert not waiting.done()
        released.set()
        assert waiting.result(60).status_code == 200
    holder.join()


def test_an_unforeseen_error_is_a_line_without_its_message(http: httpx.Client, server: Any, caplog: Any) -> None:
    task = server.instance()._infers["sa2va_text"]
    original = task.segment

    def fail(*args: Any) -> None:
        raise RuntimeError("patient Doe")

    task.segment = fail
    try:
        response = http.post("/infer/sa2va_text?image=ct", data=OK)
    finally:
        task.segment = original
    _refused(response, 500, "the server failed (RuntimeError)")
    assert "Doe" not in response.text + caplog.text
    assert "test_middleware.py" in caplog.text
    assert http.post("/infer/sa2va_text?image=ct&output=json", data=OK).status_code == 200


def test_names_of_images_are_not_logged(http: httpx.Client, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        http.post("/infer/sa2va_text?image=ct&output=json", data=OK)
        http.post("/infer/sa2va_text?image=DOE_JANE", data=OK)
    own = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert not any("DOE" in line or "'ct'" in line or "/ct." in line for line in own)


def test_results_are_not_left_behind(http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert http.post("/infer/sa2va_text?image=ct&output=json", data=OK).status_code == 200
    assert http.post("/infer/sa2va_text?image=ct&output=image", data=OK).status_code == 200
    # it goes once the answer is sent
    until = time.monotonic() + 10
    while list(tmp_path.glob("sa2va_*")) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.glob("sa2va_*")) == []


def test_explained_errors() -> None:
    assert explain(RefusedError(418, "no"))[0] == 418
    assert explain(MemoryError())[0] == 503
    assert explain(ValueError("secret")) == (500, "the server failed (ValueError); its log says where")


def test_nothing_is_an_empty_object() -> None:
    assert parse_object("", "params") == parse_object("null", "params") == parse_object(b" ", "params") == {}
