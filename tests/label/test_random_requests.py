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

"""Requests that no client would send: none may be answered by 500, and none may open a file outside of the studies."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")

import httpx

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

SECRET = "outside_of_the_studies"

_OPENED: list[str] = []
_WATCHING: list[bool] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _WATCHING and isinstance(arguments[0], str) and SECRET in arguments[0]:
        _OPENED.append(arguments[0])


def odd_requests(secret: str) -> st.SearchStrategy[dict[str, Any]]:
    """Stock addresses with odd names, parameters and bodies; ``secret`` is a file that exists."""
    texts = st.text(max_size=30)
    names = st.sampled_from(
        ["ct", "eye", "junk", "", ".", "..", secret, f"../{SECRET}/secret.nii.gz", "sa2va_text", "sa2va_click", "a/b"]
    )
    name = st.one_of(names, texts)
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.just(secret))
    values = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
    )
    keys = st.sampled_from(
        [
            *(
                "text",
                "mode",
                "slice",
                "window",
                "answer",
                "foreground",
                "background",
                "roi",
                "label",
                "agreement",
                "reach",
                "image",
                "model",
            ),
            *("result_extension", "result_dtype", "result_compress", "save_label", "label_tag", "device", "session"),
            *("max_workers", "max_batch_size", "gpus", "bundle_path", "timeout", "strategy", "client_id", "file"),
        ]
    )
    # slices are quick; a whole volume would only cost time
    params = st.dictionaries(keys, values, max_size=4).map(lambda found: {"mode": "slice", **found})
    points = st.lists(st.lists(st.one_of(st.integers(-3, 200), st.floats()), max_size=4), max_size=3)
    clicks = st.fixed_dictionaries({"mode": st.just("slice")}, optional={"foreground": points, "roi": values})
    raw = st.one_of(params.map(json.dumps), clicks.map(json.dumps), texts, st.just("[" * 5000))
    paths = st.one_of(
        st.builds(lambda model, image: f"/infer/{model}?image={image}", *[name.map(_quoted)] * 2),
        st.builds(
            lambda model, image, output: f"/infer/{model}?image={image}&output={output}",
            st.sampled_from(["sa2va_text", "sa2va_click"]),
            st.sampled_from(["ct", "eye", "junk", _quoted(secret)]),
            st.sampled_from(["json", "image", "all", "dicom_seg", "x"]),
        ),
        st.builds(lambda image: f"/infer/sa2va_text?session_id={image}", name.map(_quoted)),
        st.builds(
            lambda place, key, value, tag: f"/datastore/{place}?{key}={value}&tag={tag}",
            st.sampled_from(["", "image", "label", "image/info", "label/info", "dataset", "updatelabelinfo", "x"]),
            st.sampled_from(["image", "id", "label", "check_sum", "output", "limit_cases"]),
            *[name.map(_quoted)] * 2,
        ),
        st.builds(
            lambda root, rest, query: f"/{root}/{rest}{query}",
            st.sampled_from(
                [
                    "activelearning",
                    "model",
                    "model/info",
                    "session",
                    "proxy/dicom",
                    "proxy/dicom/wado",
                    "ohif",
                    "static",
                ]
            ),
            name.map(_quoted),
            st.sampled_from(["", "?expiry=x", "?uncompress=true", "?lines=-1", "?text=2"]),
        ),
        st.builds(
            lambda root, rest: f"/{root}/{rest}",
            # what exists would start processes
            st.sampled_from(["train", "scoring", "batch/infer", "logs", "info", "auth", "infer/wsi", "infer/wsi_v2"]),
            st.sampled_from(["nope", "..", "gpu", "?all=x", "?run_sync=maybe", "%00", "a/b/c"]),
        ),
    )
    own = st.builds(
        lambda place, rest: f"/{place}{rest}",
        st.sampled_from(["health", "sa2va/adapters", "sa2va/rollback", "sa2va", "sa2va/nope"]),
        st.sampled_from(["", "/", "?number=-1", "?to=..", "/..", "/1", "%00", "?a=%ff", ";x"]),
    )
    paths = st.one_of(paths, own)
    kinds = st.sampled_from(["form", "file", "json", "raw", "none"])
    methods = st.sampled_from(["GET", "POST", "POST", "POST", "PUT", "HEAD", "OPTIONS", "PATCH"])
    return st.fixed_dictionaries(
        {"method": methods, "path": paths, "kind": kinds, "body": raw, "name": name, "bytes": st.binary(max_size=40)}
    )


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe="")


def _content(odd: dict[str, Any]) -> dict[str, Any]:
    if odd["kind"] == "form":
        return {"data": {"params": odd["body"].encode("utf-8", "replace")}}
    if odd["kind"] == "file":
        key = "label" if len(odd["bytes"]) % 2 else "file"
        files = {key: (odd["name"], io.BytesIO(odd["bytes"])), "files": (odd["name"], io.BytesIO(odd["bytes"]))}
        return {"files": files, "data": {"params": odd["body"].encode("utf-8", "replace"), "info": "{}"}}
    if odd["kind"] == "json":
        return {
            "content": odd["body"].encode("utf-8", "replace"),
            "headers": {"content-type": "application/json"},
        }
    if odd["kind"] == "raw":
        return {"content": odd["bytes"], "headers": {"content-type": "multipart/form-data; boundary=x"}}
    return {}


def _send_all(server: Any, studies: Path, count: int) -> None:
    folder = studies.parent / SECRET
    folder.mkdir(exist_ok=True)
    secret = folder / "secret.nii.gz"
    secret.write_bytes((studies / "ct.nii.gz").read_bytes())
    if not _WATCHING:
        sys.addaudithook(_watch)
    _WATCHING.append(True)
    seen: list[int] = []

    async def send(odd: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app=server)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(odd["method"], odd["path"], **_content(odd))

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(odd=odd_requests(str(secret)))
    def run(odd: dict[str, Any]) -> None:
        response = asyncio.run(send(odd))
        seen.append(response.status_code)
        assert response.status_code < 500, (response.status_code, response.text)
        if response.status_code >= 400 and odd["method"] != "HEAD":
            assert len(response.text.splitlines()) <= 1

    try:
        run()
    finally:
        _WATCHING.clear()
    assert _OPENED == []
    # the server lives
    assert asyncio.run(send({"method": "GET", "path": "/health", "kind": "none"})).status_code == 200
    # they are not all refused by one and the same check
    assert {200, 400, 404} <= set(seen)


def test_a_hundred_odd_requests(server: Any, studies: Path) -> None:
    _send_all(server, studies, 100)


@pytest.mark.slow
def test_two_thousand_odd_requests(server: Any, studies: Path) -> None:
    _send_all(server, studies, 2000)
