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

"""Pure ASGI around the stock server: requests are checked, queued, and answered in one line where they fail."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai_sa2va.errors import ConfigError, DataError, PromptError, Sa2VAError
from monai_sa2va.label.app import NotKnownError
from monai_sa2va.label.dicomweb import explain_failure
from monai_sa2va.label.incoming import Incoming, Message, Receive, RefusedError, Scope, Send, read_incoming
from monai_sa2va.label.infer_click import LABEL_UPLOADED
from monai_sa2va.label.infer_task import BY_PLACE
from monai_sa2va.label.options import RequestError
from monai_sa2va.label.origins import Origins
from monai_sa2va.label.rules import check

__all__ = ["MAX_UPLOAD", "Guard", "explain"]

MAX_UPLOAD = 1024**3
"""Longest body of a request, bytes, unless the server is started with another."""

_LOG = logging.getLogger(__name__)
_SLOW = ("infer", "batch", "train", "scoring", "activelearning")
_REMOTE = ("proxy", "info", "datastore")
_WORKERS, _MOST_WAITING = 8, 128


class Guard:
    """ASGI app around the stock one.

    Requests that may take long run in threads, so that the server goes on answering; the network itself is used by one
    at a time. Where the stock endpoints would answer 500, a line says what is wrong.

    Args:
        app: the stock ASGI app.
        instance: gives the MONAI Label app.
        max_upload: longest body, bytes.
        origins: which pages may ask; by default any that calls the server by its own name.
    """

    def __init__(
        self,
        app: Any,
        instance: Callable[[], Any],
        max_upload: int = MAX_UPLOAD,
        origins: Origins | None = None,
    ) -> None:
        self.app, self.instance, self.max_upload = app, instance, max_upload
        self.origins = origins or Origins((), local=False)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="sa2va")
        # of its own, or what waits for the network would keep everything else from being looked at
        self._checking = ThreadPoolExecutor(_WORKERS, thread_name_prefix="sa2va_check")
        self._remote = ThreadPoolExecutor(_WORKERS, thread_name_prefix="sa2va_remote")
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send)
        incoming: Incoming | None = None
        try:
            self.origins.check(scope)
            incoming = await read_incoming(scope, receive, self.max_upload)
            await self._check(incoming)
            if self._may_wait(incoming):
                await self._in_thread(scope, incoming, answer)
            else:
                await self.app(scope, incoming.replay(), answer)
            await answer.finish()
        # whatever the stock endpoints raise becomes a line
        except Exception as error:
            status, line = explain(error)
            if status == 500:
                # frames alone: messages may hold what names a patient
                frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
                _LOG.error("%s at %s", type(error).__name__, " < ".join(reversed(frames[-8:])))
            await answer.refuse(status, line, scope["method"] == "HEAD")
        finally:
            if incoming is not None:
                incoming.body.close()

    async def _check(self, incoming: Incoming) -> None:
        app = self.instance()
        if "://" in app.studies:
            # it asks the DICOMweb server
            await asyncio.get_running_loop().run_in_executor(self._checking, check, incoming, app)
        else:
            check(incoming, app)

    def _may_wait(self, incoming: Incoming) -> bool:
        """Whether a request runs the network, or waits for a DICOMweb server."""
        first = incoming.parts[0] if incoming.parts else ""
        return (incoming.method == "POST" and first in _SLOW) or ("://" in self.instance().studies and first in _REMOTE)

    async def _in_thread(self, scope: Scope, incoming: Incoming, answer: _Answer) -> None:
        if self._waiting >= _MOST_WAITING:
            raise RefusedError(503, f"{self._waiting} requests are waiting; try again later")
        loop = asyncio.get_running_loop()

        async def send(message: Message) -> None:
            asyncio.run_coroutine_threadsafe(answer(message), loop).result()

        def work() -> None:
            LABEL_UPLOADED.set("label" in incoming.files)
            # these two outputs are a file alone
            BY_PLACE.set(incoming.query.get("output") in ("image", "dicom_seg"))
            asyncio.run(self.app(scope, incoming.replay(), send))

        # what asks the DICOMweb server alone doesn't queue behind the network
        pool = self._pool if incoming.parts[:1] and incoming.parts[0] in _SLOW else self._remote
        self._waiting += 1
        try:
            await loop.run_in_executor(pool, contextvars.copy_context().run, work)
        finally:
            self._waiting -= 1


class _Answer:
    """What the stock app sends, held back where it is an error until it is known why."""

    def __init__(self, send: Send) -> None:
        self._send, self._begun = send, False
        self._held: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in (422, 500):
            self._held = message
        elif self._held is not None:
            self._body += message.get("body", b"")
        else:
            self._begun = True
            await self._send(message)

    async def finish(self) -> None:
        """Send a held answer as one line: it was refused by the stock app on purpose."""
        if self._held is not None:
            await self.refuse(400 if self._held["status"] == 500 else 422, _line(self._body), False)

    async def refuse(self, status: int, line: str, head: bool) -> None:
        """Answer with a line, unless an answer has begun."""
        if self._begun:
            return
        self._begun = True
        content = json.dumps({"detail": line}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if head else content})


def explain(error: BaseException) -> tuple[int, str]:
    """Status and line for an error.

    Args:
        error: that ended a request.
    """
    line = " ".join(str(error).split())
    if isinstance(error, RefusedError):
        return error.status, error.message
    if isinstance(error, NotKnownError):
        return 404, line
    if isinstance(error, (RequestError, PromptError, DataError, ConfigError)):
        return 400, line
    if isinstance(error, Sa2VAError):
        return 503, line
    name = type(error).__name__
    if name in ("ImageNotFoundException", "LabelNotFoundException", "MONAILabelException"):
        return 404, " ".join(str(getattr(error, "msg", "not found")).split())
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return 503, "the server has too little memory for this image"
    if type(error).__module__.startswith("requests."):
        return explain_failure(error)
    return 500, f"the server failed ({name}); its log says where"


def _line(body: bytes) -> str:
    """One line of what FastAPI says: a text, or a list of fields with what is wrong."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return "the request can't be answered"
    if isinstance(detail, list) and detail:
        where = ".".join(map(str, detail[0].get("loc", ())))
        detail = f"{where}: {detail[0].get('msg', 'is not as expected')}"
    return " ".join(str(detail).split())
