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

"""Which pages of the web may ask: a browser sends what any page tells it to, to this machine, too."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from monai_sa2va.label.incoming import RefusedError, Scope

__all__ = ["Origins"]

_READING = ("GET", "HEAD", "OPTIONS")


class Origins:
    """Refuses what a page of another site sends.

    Args:
        allowed: origins that may ask, e.g. ``"http://127.0.0.1:8000"``, beside the server's own; ``"*"`` for all.
        local: whether the server listens to its own machine alone: then requests must call it by a name of this machine
            or one of ``allowed``, or a page whose own name was made to lead here could read what it answers.
    """

    def __init__(self, allowed: Sequence[str], local: bool) -> None:
        self._allowed = None if "*" in allowed else {origin.rstrip("/").lower() for origin in allowed}
        names = {urlsplit(origin).hostname for origin in self._allowed or ()}
        self._names = names | {"127.0.0.1", "localhost", "::1"} if local and self._allowed is not None else None

    def check(self, scope: Scope) -> None:
        """Refuse a request of a page that may not ask.

        Raises:
            RefusedError: with the status and a line for the user.
        """
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        if self._names is not None and _name(f"//{host}") not in self._names:
            raise RefusedError(
                403, "the server isn't called by a name of its machine; use 127.0.0.1, or set MONAI_LABEL_CORS_ORIGINS"
            )
        if self._allowed is None or not origin or scope["method"] in _READING or origin in self._allowed:
            return
        if not host or origin.partition("://")[2] != host:
            raise RefusedError(403, "a page of another site asks; set MONAI_LABEL_CORS_ORIGINS to let it")


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
