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

"""Starts the server, and says how the stock clients reach it."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from monai_sa2va.cli.main import DISCLAIMER
from monai_sa2va.errors import ConfigError
from monai_sa2va.label.dicomweb import check_server
from monai_sa2va.label.repair import check_monailabel
from monai_sa2va.label.server import ServerSettings, is_local, make_server

__all__ = ["check_port", "check_studies", "default_state", "serve", "steps"]

_USER, _PASSWORD = "MONAI_LABEL_DICOMWEB_USERNAME", "MONAI_LABEL_DICOMWEB_PASSWORD"


def default_state() -> Path:
    """Folder for what the server keeps: ``$XDG_STATE_HOME/monai-sa2va/label``, by default below ``~/.local/state``."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "monai-sa2va" / "label"


def serve(settings: ServerSettings, allow_remote: bool = False) -> None:
    """Serve until interrupted.

    Args:
        settings: of the server.
        allow_remote: whether other machines may reach it without MONAI Label's own authentication.

    Raises:
        ConfigError: when the studies, the host or the port can't be used.
        CheckpointError: when the weights can't be loaded.
    """
    check_monailabel()
    check_studies(settings.studies, settings.modality)
    if not is_local(settings.host) and not allow_remote and not _auth_enabled():
        raise ConfigError(
            f"host is {settings.host}, so other machines could read all studies; switch on MONAI Label's "
            "authentication (MONAI_LABEL_AUTH_ENABLE=true), or give --allow-remote"
        )
    check_port(settings.host, settings.port)

    import uvicorn

    app = make_server(settings)
    print(steps(settings), flush=True)
    # no access log: addresses name images
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, log_level="warning")


def check_studies(studies: str, modality: str = "CT") -> None:
    """Refuse studies that are no DICOMweb server that answers, and no folder in which MONAI Label would find images.

    Args:
        studies: folder or address.
        modality: of the series that the server is asked for.

    Raises:
        ConfigError: when they are neither, or the folder holds DICOM files and no other image.
    """
    if "://" in studies:
        if not studies.startswith(("http://", "https://")):
            raise ConfigError("studies is an address of another kind; give http:// or https://")
        check_server(studies, os.environ.get(_USER, ""), os.environ.get(_PASSWORD, ""), modality)
    elif not Path(studies).is_dir():
        raise ConfigError(f"studies names no folder ({Path(studies).name!r}); make it, or give a DICOMweb address")
    elif _only_dicom(Path(studies)):
        raise ConfigError(
            "studies is a folder of DICOM files, which the server takes from a DICOMweb server alone: load them into "
            "one, such as Orthanc, and give its address; or convert them to NIfTI"
        )


def _only_dicom(folder: Path) -> bool:
    from monai_sa2va.data.headers import image_suffix
    from monai_sa2va.dicom.image import looks_like_dicom

    found = False
    for place, _, names in os.walk(folder):
        if any(image_suffix(name) for name in names):
            return False
        found = found or any(looks_like_dicom(Path(place, name)) for name in names)
    return found


def check_port(host: str, port: int) -> None:
    """Refuse a port that can't be listened at.

    Raises:
        ConfigError: when another program has it, or the system doesn't give it.
    """
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError) as error:
        raise ConfigError(f"host is {host!r}, which is no address of this machine") from error
    with socket.socket(kind[0], socket.SOCK_STREAM) as probe:
        # as uvicorn does: a port that was left a moment ago is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(kind[4])
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is taken by another program" if taken else f"can't be used ({error.strerror})"
            raise ConfigError(f"port {port} of {host} {why}; give another with --port") from error


def steps(settings: ServerSettings) -> str:
    """What to do next, for people."""
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{settings.port}"
    ohif = f"{address}/ohif/"
    if "://" not in settings.studies:
        ohif += "  (needs a DICOMweb server as --studies; a folder is for 3D Slicer)"
    return "\n".join(
        [
            f"monai-sa2va serves at {address}",
            DISCLAIMER,
            f"OHIF: open {ohif}",
            "3D Slicer: install the extension MONAILabel, open the module MONAI Label,",
            f"  MONAI Label server: {address}, then Next Sample;",
            "  Options > infer > sa2va_text: type the sentence into 'text'; Auto Segmentation > Run;",
            "  SmartEdit > sa2va_click: choose a segment and click.",
            f"Health: {address}/health   Stop: Ctrl+C",
        ]
    )


def _auth_enabled() -> bool:
    return os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").strip().lower() in ("1", "true", "yes", "on")
