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

"""A DICOMweb server as the studies: asked within a time, and what it fails with in one line."""

from __future__ import annotations

import shutil
from http import HTTPStatus
from pathlib import Path
from typing import Any

from monai_sa2va.errors import ConfigError

__all__ = [
    "CONNECT_SECONDS",
    "READ_SECONDS",
    "check_server",
    "explain_failure",
    "fetch_series",
    "find_series",
    "limit_time",
    "with_limit",
]

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
"""Longest wait for a DICOMweb server to take a connection, and between two pieces of what it sends."""

_SERIES, _INSTANCES = "0020000E", "00201209"
_LIMITS = (CONNECT_SECONDS, READ_SECONDS)
_LOGIN = "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"


def limit_time(session: Any) -> None:
    """Give up on a server that doesn't answer, where a caller sets no limit of its own.

    Args:
        session: of requests.
    """
    from requests.adapters import HTTPAdapter

    class Limited(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("timeout") is None:
                kwargs["timeout"] = _LIMITS
            return super().send(request, *args, **kwargs)

    for kind in ("http://", "https://"):
        session.mount(kind, Limited())


def find_series(client: Any, uid: str) -> dict[str, Any] | None:
    """What a DICOMweb server says of a series; ``None`` where it has none.

    Args:
        client: of the package dicomweb_client.
        uid: SeriesInstanceUID.
    """
    found = client.search_for_series(search_filters={"SeriesInstanceUID": uid}, fields=[_SERIES, _INSTANCES])
    # a server may not know the filter
    return next((series for series in found if series.get(_SERIES, {}).get("Value") == [uid]), None)


def fetch_series(store: Any, uid: str) -> Path:
    """A series as files, fetched anew where the server has more or fewer of them than were kept.

    It is read as DICOM, with its windows and places: the stock conversion knows neither, and is left to the stock code.

    Args:
        store: MONAI Label's datastore of a DICOMweb server; nobody else may fetch from it meanwhile.
        uid: SeriesInstanceUID, one that the server has.

    Returns:
        Folder of the files.
    """
    folder = Path(store._datastore.image_path()) / uid
    told = (find_series(store._client, uid) or {}).get(_INSTANCES, {}).get("Value")
    if folder.is_dir() and told and len(list(folder.iterdir())) != int(told[0]):
        # it grew, or the last fetch was cut off
        shutil.rmtree(folder)
        folder.with_name(f"{uid}.nii.gz").unlink(missing_ok=True)
    store.get_image_uri(uid)
    return folder


def with_limit() -> Any:
    """What MONAI Label's proxy takes for the module ``requests``: ``get`` and ``post`` that give up in time."""
    import requests

    class Limited:
        @staticmethod
        def get(address: str, **kwargs: Any) -> Any:
            return requests.get(address, timeout=_LIMITS, **kwargs)

        @staticmethod
        def post(address: str, **kwargs: Any) -> Any:
            return requests.post(address, timeout=_LIMITS, **kwargs)

    return Limited


def check_server(address: str, user: str = "", password: str = "", modality: str = "CT") -> None:
    """Refuse to start on a DICOMweb server that doesn't answer.

    Args:
        address: of its DICOMweb services.
        user: for the login, if it asks for one.
        password: likewise.
        modality: of series to ask for.

    Raises:
        ConfigError: when it can't be reached, doesn't answer in time, asks for a login, or is no DICOMweb server.
    """
    import requests

    query = {"Modality": modality, "limit": "1"}
    try:
        with requests.get(
            f"{address.rstrip('/')}/series",
            params=query,
            headers={"Accept": "application/dicom+json"},
            auth=(user, password) if user and password else None,
            timeout=_LIMITS,
        ) as answer:
            answer.raise_for_status()
            if answer.status_code != HTTPStatus.NO_CONTENT and not isinstance(answer.json(), list):
                raise ValueError("no list")
    except requests.exceptions.RequestException as error:
        raise ConfigError(f"studies: {explain_failure(error)[1]}") from error
    except ValueError as error:
        raise ConfigError(f"studies: {_NO_DICOMWEB}") from error


_NO_DICOMWEB = "what answers is no DICOMweb server; give the root of its DICOMweb services, e.g. http://HOST/dicom-web"


def explain_failure(error: BaseException) -> tuple[int, str]:
    """Status for the client and line for the user of what requests raised; neither names the server.

    Args:
        error: of the package requests.
    """
    import requests

    if isinstance(error, requests.exceptions.Timeout):
        return 504, "the DICOMweb server doesn't answer in time; try again, or look at its load"
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return 502, _NO_DICOMWEB
    if isinstance(error, requests.exceptions.ConnectionError):
        return 502, "the DICOMweb server can't be reached; check that it runs, and the address given as --studies"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return 502, f"the DICOMweb server refuses the login ({int(status)}); set {_LOGIN}"
    if status == HTTPStatus.NOT_FOUND:
        return 502, f"the DICOMweb server has no such address (404): {_NO_DICOMWEB}"
    told = f" ({status})" if status is not None else ""
    return 502, f"the DICOMweb server doesn't answer as expected{told}; its log may say why"
