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

"""A request as it came in: read within a limit, parsed once, and handed on as it was."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import IO, Any

from starlette.datastructures import Headers, QueryParams, UploadFile
from starlette.requests import Request

__all__ = ["Incoming", "Message", "Receive", "RefusedError", "Scope", "Send", "parse_object", "read_incoming"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_IN_MEMORY = 16 * 2**20
_CHUNK = 2**20
_LONGEST_TEXT = 10_000
_LONGEST_FORM = ("multipart/form-data", "application/x-www-form-urlencoded")


class RefusedError(Exception):
    """A request that is answered with a status and one line.

    Args:
        status: of HTTP.
        message: for the user.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Incoming:
    """A request.

    Attributes:
        method: in capitals.
        parts: of the path, without empty ones.
        query: of the address.
        content_type: without parameters, in lower case.
        size: of the body, bytes.
        body: the body itself, to be read again.
        fields: text fields of a form.
        files: names of a form's files, by field.
    """

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    content_type: str
    size: int
    body: IO[bytes]
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_form(self) -> bool:
        """Whether the body is a form."""
        return self.content_type in _LONGEST_FORM

    def text(self) -> bytes:
        """The body, which is not a form's.

        Raises:
            RefusedError: when it is longer than any JSON of a client.
        """
        if self.size > _CHUNK:
            raise RefusedError(413, f"the body has {self.size} bytes of JSON; at most {_CHUNK} are taken")
        self.body.seek(0)
        return self.body.read()

    def replay(self) -> Receive:
        """What hands the body on."""
        self.body.seek(0)
        left, begun = self.size, False

        async def receive() -> Message:
            nonlocal left, begun
            if begun and not left:
                # a response that streams waits here for the client to go away, until it is done itself
                await asyncio.get_running_loop().create_future()
            begun = True
            chunk = self.body.read(_CHUNK)
            left -= len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": left > 0}

        return receive


async def read_incoming(scope: Scope, receive: Receive, limit: int) -> Incoming:
    """Read and parse a request.

    Args:
        scope: of ASGI, of type ``http``.
        receive: of ASGI.
        limit: longest body, bytes.

    Raises:
        RefusedError: when it is too long, or a part of it is malformed.
    """
    told = Headers(scope=scope).get("content-length", "0")
    if told.isdecimal() and int(told) > limit:
        raise _too_long(limit)
    query = QueryParams(scope.get("query_string", b""))
    pairs = query.multi_items()
    if len(pairs) != len(query):
        raise RefusedError(400, "the address gives a parameter twice; give each once")
    for text in (str(scope["path"]), *(part for pair in pairs for part in pair)):
        _check_text(text, "the address")
    body: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by the middleware
    try:
        size = await _copy(receive, body, limit)
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        parts = tuple(part for part in str(scope["path"]).split("/") if part)
        incoming = Incoming(str(scope["method"]).upper(), parts, dict(pairs), kind, size, body)
        if incoming.is_form and size:
            await _parse_form(scope, incoming)
    except BaseException:
        body.close()
        raise
    return incoming


def parse_object(text: str | bytes, name: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        text: as it was sent; nothing, or ``null``, is an empty object.
        name: what a message calls it.

    Raises:
        RefusedError: when it is none, is nested too deeply, or holds a number or text that JSON has no place for.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"{name} is no JSON; send an object such as {{}}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RefusedError(400, f"{name} is no JSON object; send one such as {{}}")
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str):
            _check_text(item, name, controls=True)
        elif isinstance(item, float) and item in (float("inf"), float("-inf")):
            raise RefusedError(400, f"{name} holds a number that is too large")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _check_text(text: str, name: str, controls: bool = False) -> None:
    if len(text) > _LONGEST_TEXT:
        raise RefusedError(400, f"{name} holds a text of {len(text)} characters; at most {_LONGEST_TEXT} are taken")
    if not controls and not text.isprintable():
        raise RefusedError(400, f"{name} holds characters that are no text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, f"{name} holds half a character") from error


async def _copy(receive: Receive, body: IO[bytes], limit: int) -> int:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the client went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_long(limit)
        body.write(chunk)
        more = message.get("more_body", False)
    return size


async def _parse_form(scope: Scope, incoming: Incoming) -> None:
    try:
        # a scope without the application: errors come as they are
        request = Request({key: value for key, value in scope.items() if key != "app"}, incoming.replay())
        async with request.form() as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    incoming.files.setdefault(name, []).append(value.filename or "")
                elif name in incoming.fields:
                    raise RefusedError(400, "the form gives a field twice; give each once")
                else:
                    incoming.fields[name] = value
    except RefusedError:
        raise
    # its parser has errors of its own, and more than one kind
    except Exception as error:
        raise RefusedError(400, "the form can't be read; send multipart/form-data") from error


def _too_long(limit: int) -> RefusedError:
    return RefusedError(413, f"the body has more than {limit} bytes; start the server with a larger --max-upload")
