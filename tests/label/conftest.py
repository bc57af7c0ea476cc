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

"""One server a test run: phantoms as its studies, at a free port of this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

NO_MONAILABEL = "MONAI Label is not installed: pip install 'monai-sa2va[label]'"


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes and two pictures with their truth."""
    from monai_sa2va.data.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder / "volumes", 2, 0, 512, ["ct"], None, {"testing": 1.0}, "volume", 8)
    write_phantoms(folder / "pictures", 2, 0, 128, ["fundus"], None, {"testing": 1.0})
    return folder


@pytest.fixture(scope="session")
def studies(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies: ``ct`` and ``other``, volumes; ``turned``, the first one stored the other way round; ``eye``
    and ``fundus``, pictures; ``junk``, which is no image."""
    folder = tmp_path_factory.mktemp("studies")
    volumes = sorted((phantom_dir / "volumes" / "images").iterdir())
    for name, file in zip(("ct", "other"), volumes, strict=True):
        shutil.copy(file, folder / f"{name}.nii.gz")
    for name, file in zip(("eye", "fundus"), sorted((phantom_dir / "pictures" / "images").iterdir()), strict=True):
        shutil.copy(file, folder / f"{name}.png")
    image = nib.load(volumes[0])
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = [image.shape[0] - 1, image.shape[1] - 1]
    values = np.asanyarray(image.dataobj)[::-1, ::-1]
    nib.save(nib.Nifti1Image(values, image.affine @ flip), folder / "turned.nii.gz")
    (folder / "junk.nii.gz").write_bytes(b"no image at all")
    return folder


@pytest.fixture(scope="session")
def truth(phantom_dir: Path) -> Callable[[str], np.ndarray]:
    """Where a structure of the study ``ct`` is: (X, Y, Z) bool."""
    from monai_sa2va.data.phantoms import LABEL_VALUES

    file = sorted((phantom_dir / "volumes" / "labels").iterdir())[0]
    values = np.asanyarray(nib.load(file).dataobj)
    return lambda name: values == LABEL_VALUES[name]


@pytest.fixture(scope="session")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The ASGI app."""
    if importlib.util.find_spec("monailabel") is None:
        pytest.skip(NO_MONAILABEL)
    before = dict(os.environ)
    from monai_sa2va.label.server import ServerSettings, make_server

    settings = ServerSettings(str(studies), tmp_path_factory.mktemp("state"), conf={"device": "cpu", "labels": "spine"})
    yield make_server(settings)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def address(server: Any) -> Iterator[str]:
    """Where it listens."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(server, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not running.started and time.monotonic() < until:
        time.sleep(0.05)
    assert running.started
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(20)


@pytest.fixture
def client(address: str, tmp_path: Path) -> Any:
    """MONAI Label's own client."""
    from monailabel.client import MONAILabelClient

    return MONAILabelClient(address, str(tmp_path))


@pytest.fixture(scope="session")
def dice() -> Callable[[np.ndarray, np.ndarray], float]:
    """Overlap of two masks, 0 to 1."""
    return lambda first, second: float(2 * (first & second).sum() / (first.sum() + second.sum()))
