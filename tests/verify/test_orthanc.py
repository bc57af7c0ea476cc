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


"""A SEG of ours through a DICOMweb server and back."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
import pydicom
from segmented import find, segmentation, some_masks

from monai_sa2va.verify.run import verify_results
from monai_sa2va.writers.results import write_results

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SECONDS = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Root of DICOMweb on an Orthanc of our own."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.is_file():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    config = tmp_path / "orthanc.json"
    config.write_text(json.dumps(settings))
    process = subprocess.Popen([program, config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = f"http://127.0.0.1:{port}/dicom-web"
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{root}/studies", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.skip("Orthanc did not start")
                time.sleep(0.2)
        yield root
    finally:
        process.terminate()
        process.wait(SECONDS)


def store(root: str, paths: list[Path]) -> None:
    """STOW-RS."""
    border = "border-of-parts"
    parts = [
        f"--{border}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
        for path in paths
    ]
    request = urllib.request.Request(
        f"{root}/studies",
        b"".join(parts) + f"--{border}--\r\n".encode(),
        {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={border}',
            "Accept": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        told = json.load(answer)
    assert len(told["00081199"]["Value"]) == len(paths)
    assert not told.get("00081198", {}).get("Value")


def fetch(root: str, study: str, series: str) -> list[bytes]:
    """WADO-RS: every instance of a series, as it is stored."""
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    request = urllib.request.Request(f"{root}/studies/{study}/series/{series}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        head, body = answer.headers["Content-Type"], answer.read()
    border = re.search(r'boundary="?([^";]+)', head)
    assert border is not None
    parts = body.split(b"--" + border.group(1).encode())[1:-1]
    return [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts]


@pytest.mark.slow
def test_a_seg_that_was_stored_and_fetched_back_verifies(tmp_path: Path, server: str) -> None:
    series = find(tmp_path / "in", made.series(6, orientation=made.oblique(10, 20, 30)))
    found = segmentation(series, some_masks(series), ["liver", "left kidney"])
    folder = tmp_path / "out" / series.study_uid / series.series_uid
    write_results(found, folder, ["nifti", "dicom-seg", "rtstruct"])
    store(server, sorted((tmp_path / "in").iterdir()))
    written = [folder / "seg.dcm", folder / "rtstruct.dcm"]
    store(server, written)

    for path in written:
        uid = pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID
        path.unlink()
        (content,) = fetch(server, series.study_uid, uid)
        path.write_bytes(content)
    (tmp_path / "back").mkdir()
    for number, content in enumerate(fetch(server, series.study_uid, series.series_uid)):
        (tmp_path / "back" / f"{number}.dcm").write_bytes(content)
    (verdict,) = verify_results(tmp_path / "out", [tmp_path / "back"])
    assert verdict.problems == []
    assert verdict.against_source
    assert verdict.corner_mm is not None
    assert verdict.corner_mm < 1e-3
