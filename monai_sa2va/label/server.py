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

"""The stock server with this package's app in it and its guard around it."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_sa2va.label.repair import check_monailabel, repair_pydicom

__all__ = ["APP_MAIN", "ServerSettings", "is_local", "make_server"]

_ORIGINS = "MONAI_LABEL_CORS_ORIGINS"

APP_MAIN = '''"""The MONAI Label app; written by monai-sa2va serve."""

from monai_sa2va.label.app import Sa2VALabelApp

__all__ = ["Sa2VALabelApp"]
'''


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with.

    Attributes:
        studies: folder of images, or address of a DICOMweb server.
        state: folder for the app, sessions and what training writes.
        host: address to listen at.
        port: number to listen at.
        max_upload: longest body of a request, bytes.
        conf: as :class:`~monai_sa2va.label.app.Sa2VALabelApp` takes it.
        modality: of a DICOMweb server's series, e.g. ``"MR"``.
    """

    studies: str
    state: Path
    host: str = "127.0.0.1"
    port: int = 8000
    max_upload: int = 1024**3
    conf: Mapping[str, str] = field(default_factory=dict)
    modality: str = "CT"


def make_server(settings: ServerSettings) -> Any:
    """Build the ASGI app: MONAI Label's own, with ``/health``, behind :class:`~monai_sa2va.label.middleware.Guard`.

    What MONAI Label logs of requests names images, so only its errors are kept.

    Args:
        settings: of the server.

    Raises:
        ConfigError: when MONAI Label isn't installed, or the settings can't be used.
        CheckpointError: when the weights can't be loaded.
    """
    check_monailabel()
    repair_pydicom()
    app_dir = settings.state / "app"
    app_dir.mkdir(parents=True, exist_ok=True)
    (app_dir / "main.py").write_text(APP_MAIN, encoding="utf-8")
    _configure(settings, app_dir)
    logging.getLogger("monailabel").setLevel(logging.ERROR)

    from monailabel.app import app as stock
    from monailabel.config import settings as stock_settings
    from monailabel.datastore import dicom as stock_store
    from monailabel.endpoints import infer as stock_infer
    from monailabel.endpoints import proxy as stock_proxy
    from monailabel.interfaces.utils.app import app_instance

    from monai_sa2va.label.dicom_seg import label_to_dicom_seg, raw_label
    from monai_sa2va.label.dicomweb import with_limit
    from monai_sa2va.label.endpoints import make_router
    from monai_sa2va.label.middleware import Guard
    from monai_sa2va.label.origins import Origins

    # where the stock conversion would call a tool of its own
    stock_store.nifti_to_dicom_seg = stock_infer.nifti_to_dicom_seg = label_to_dicom_seg
    stock_store.binary_to_image = raw_label
    stock_proxy.requests = with_limit()
    # loaded before the first request, so that bad weights stop the start
    app_instance().model.about()
    if not getattr(stock.state, "has_sa2va", False):
        stock.include_router(make_router(app_instance))
        stock.state.has_sa2va = True
    origins = Origins(stock_settings.MONAI_LABEL_CORS_ORIGINS, is_local(settings.host))
    return Guard(stock, app_instance, settings.max_upload, origins)


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens at a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _configure(settings: ServerSettings, app_dir: Path) -> None:
    """Tell MONAI Label, and through the environment the processes that it starts; a user's own variables win."""
    fixed = {
        "MONAI_LABEL_APP_DIR": str(app_dir),
        "MONAI_LABEL_STUDIES": settings.studies,
        "MONAI_LABEL_APP_CONF": dict(settings.conf),
        "MONAI_LABEL_SERVER_PORT": settings.port,
    }
    defaults: dict[str, Any] = {
        "MONAI_LABEL_SESSION_PATH": str(settings.state / "sessions"),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(settings.state / "dicomweb"),
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": {"Modality": settings.modality},
        # else series and labels that came since are not seen for two hours
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": 5,
        # any page of the web could read images through the user's browser
        _ORIGINS: [f"http://{host}:{settings.port}" for host in ("127.0.0.1", "localhost")],
        # a process that runs the network over all studies, at each start and each next sample
        "MONAI_LABEL_AUTO_UPDATE_SCORING": False,
    }
    chosen = {**fixed, **{key: value for key, value in defaults.items() if key not in os.environ}}
    for key, value in chosen.items():
        # the stock processes can't print addresses, which they do at their start
        if key != _ORIGINS:
            os.environ[key] = value if isinstance(value, str) else json.dumps(value)
    os.environ.setdefault("PYTHONPATH", "")

    from monailabel.config import settings as stock

    for key, value in chosen.items():
        setattr(stock, key, value)
