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

"""The programs that the end-to-end tests start, and the pages whose commands they run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SECONDS = 300.0
"""Longest wait for anything: a machine of continuous integration may have two cores and much to do."""

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FENCE = re.compile(r"```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def browser() -> str | None:
    """Path of a Chromium that the system has."""
    return next((path for path in map(shutil.which, _BROWSERS) if path), None)


def missing(with_browser: bool) -> str | None:
    """Why the tests can't run here, in words for people; ``None`` where they can."""
    for module, extra in (("monailabel", "pip install 'monai-sa2va[label]'"), ("playwright", "pip install playwright")):
        if (module != "playwright" or with_browser) and importlib.util.find_spec(module) is None:
            return f"{module} is not installed: {extra}"
    if with_browser and browser() is None:
        return "no Chromium is installed (Debian: chromium)"
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        return "Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)"
    return None


def free_port(wanted: int) -> int:
    """A port that nothing listens at: the wanted one, else any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a page of the documentation."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [match["text"] for match in _FENCE.finditer(text) if match["language"] == language]


def environment(folder: Path) -> dict[str, str]:
    """Variables with which ``monai-sa2va`` and ``python`` are this checkout's, and all is kept in a folder."""
    commands = folder / ".commands"
    commands.mkdir(exist_ok=True)
    for name, arguments in (("python", ""), ("monai-sa2va", "-m monai_sa2va ")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MONAI_")}
    return kept | {
        "PATH": f"{commands}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "XDG_STATE_HOME": str(folder / "state"),
        "CUDA_VISIBLE_DEVICES": "",
        "no_proxy": "127.0.0.1",
    }


def answers(address: str) -> bool:
    """Whether an address is answered, be it with an error."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def remove(orthanc: str, uid: str, kind: str = "series") -> None:
    """Delete a series, or one of its ``instances``, from Orthanc, which DICOMweb has no call for."""
    found = urllib.request.Request(f"{orthanc}/tools/lookup", uid.encode())
    with urllib.request.urlopen(found, timeout=SECONDS) as answer:
        (item,) = json.load(answer)
    urllib.request.urlopen(
        urllib.request.Request(f"{orthanc}/{kind}/{item['ID']}", method="DELETE"), timeout=SECONDS
    ).close()


def wait_for(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something is so, or a program has ended."""
    end = time.monotonic() + SECONDS
    while not ready():
        assert process is None or process.poll() is None, f"{what}: it ended with {process and process.returncode}"
        assert time.monotonic() < end, f"{what}: not within {SECONDS:g} s"
        time.sleep(0.2)


@contextmanager
def running(
    command: str, folder: Path, variables: dict[str, str], address: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of a page in the background, from when an address is answered; what it prints goes to a file."""
    with log.open("wb") as out:
        line = ["bash", "-c", f"exec {command}"]
        process = subprocess.Popen(line, cwd=folder, env=variables, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: answers(address), command.split()[0], process)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
