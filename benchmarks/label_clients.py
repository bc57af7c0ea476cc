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

"""Ten clients for two minutes against one server: no error, the answers of one client, and memory that stays.

    python benchmarks/label_clients.py
    python benchmarks/label_clients.py --clients 10 --seconds 120 --warm-up 30

Starts ``monai-sa2va serve`` with the shipped weights on made volumes at a free port of this machine, asks alone first,
then with all clients at once, and prints one line of JSON: requests, errors, answers that differ from those of one
client, requests a second, and the server's resident memory after the warm-up and at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from monai_sa2va.data.phantoms import write_phantoms

QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sa2va_text", {"text": "Segment the spine.", "mode": "slice"}),
    ("sa2va_text", {"text": "Segment the vessels and the spine."}),
    ("sa2va_text", {"text": "Segment the kidney.", "mode": "slice", "window": "percentile"}),
    ("sa2va_click", {"foreground": [[64, 64, 3]], "background": [], "mode": "slice"}),
    ("sa2va_click", {"foreground": [[60, 90, 4]], "background": [[5, 5, 4]], "text": "Segment the spine."}),
    ("sa2va_click", {"foreground": [[60, 90, 4], [64, 60, 2]], "background": [], "text": "Segment the spine."}),
    ("sa2va_click", {"foreground": [[64, 64, 3], [66, 66, 5]], "background": [[5, 5, 3]]}),
    ("sa2va_text", {"text": "Segment the liver and the kidney."}),
)


def resident_bytes(process: int) -> int:
    """Memory of a process that is in use, bytes, as Linux counts it."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system doesn't say how much memory a process has")


def ask(address: str, image: str, question: int) -> str:
    """Hash of the mask that a question about an image gets.

    Raises:
        RuntimeError: when the server doesn't answer it.
    """
    model, params = QUESTIONS[question]
    response = requests.post(
        f"{address}/infer/{model}",
        params={"image": image, "output": "image"},
        # without compression, which writes the time
        files={"params": (None, json.dumps({**params, "result_extension": ".nii"}))},
        timeout=600,
    )
    if response.status_code != 200:
        raise RuntimeError(f"{response.status_code}: {response.text[:200]}")
    return hashlib.sha256(response.content).hexdigest()


def run(address: str, images: Sequence[str], process: int, clients: int, seconds: float, warm_up: float) -> Any:
    """Ask from several clients at once.

    Args:
        address: of the server.
        images: ids of its studies.
        process: its number.
        clients: how many ask at once.
        seconds: how long.
        warm_up: seconds after which memory is read first.

    Returns:
        Plain values, as the module says.
    """
    alone = {(image, n): ask(address, image, n) for image in images for n in range(len(QUESTIONS))}
    counts, errors = {"requests": 0, "different": 0}, []
    lock, began = threading.Lock(), time.monotonic()

    def work(client: int) -> None:
        number = client
        while time.monotonic() - began < seconds:
            image, question = images[number % len(images)], number % len(QUESTIONS)
            number += 1
            try:
                same = ask(address, image, question) == alone[image, question]
            except (RuntimeError, requests.RequestException) as error:
                with lock:
                    errors.append(str(error))
                continue
            with lock:
                counts["requests"] += 1
                counts["different"] += not same

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(warm_up)
    warm = resident_bytes(process)
    for thread in threads:
        thread.join()
    last = resident_bytes(process)
    return {
        "clients": clients,
        "seconds": round(time.monotonic() - began, 1),
        **counts,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "per_second": round(counts["requests"] / (time.monotonic() - began), 2),
        "bytes_warm": warm,
        "bytes_last": last,
        "growth": round(last / warm - 1, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--warm-up", type=float, default=30.0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made, studies = Path(folder) / "made", Path(folder) / "studies"
        write_phantoms(made, 3, 0, 512, ["ct"], None, {"testing": 1.0}, "volume", 8)
        studies.mkdir()
        for file in (made / "images").iterdir():
            shutil.copy(file, studies)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = [sys.executable, "-m", "monai_sa2va", "serve", "--studies", str(studies), "--port", str(port)]
        server = subprocess.Popen([*line, "--state", str(Path(folder) / "state")], stdout=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, server)
            images = sorted(file.name.removesuffix(".nii.gz") for file in studies.glob("*.nii.gz"))
            found = run(address, images, server.pid, given.clients, given.seconds, given.warm_up)
        finally:
            server.terminate()
            server.wait(60)
    print(json.dumps(found))


def _wait(address: str, server: Any) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and server.poll() is None:
        try:
            if requests.get(f"{address}/health", timeout=10).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise RuntimeError("the server didn't start")


if __name__ == "__main__":
    main()
