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

"""MONAI Label's own extension for 3D Slicer asks a server that the command line started.

The extension is the unchanged one of MONAI Label's wheel, the nodes are Slicer's own. Not tried here: Qt, that is what
is drawn, mouse and keys, and how Slicer itself starts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from PIL import Image

pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")

VARIABLE = "MONAI_SA2VA_SLICER_PYTHON"
LABELS = ("spine", "vessels")  # the server adds "object" and so on
VOLUMES = {"ct": "LPS", "turned": "RAS"}
Run = Callable[..., tuple[list[dict[str, np.ndarray]], dict[str, Any]]]
Ask = Callable[..., np.ndarray]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def slicer_python() -> str:
    """An interpreter that has ``slicer-core``."""
    python = os.environ.get(VARIABLE, sys.executable)
    needed = "import slicer_core, SimpleITK, numpy, requests"
    done = subprocess.run([python, "-c", needed], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        pytest.skip(f"no 3D Slicer core in the interpreter that {VARIABLE} names, else in this one ({why})")
    return python


@pytest.fixture(scope="module")
def extension() -> Path:
    """The folder of the extension, which the wheel of MONAI Label carries."""
    distribution = importlib.metadata.distribution("monailabel")
    found = [file for file in distribution.files or [] if file.parts[-2:] == ("MONAILabel", "MONAILabel.py")]
    return Path(str(found[0].locate())).resolve().parent


@pytest.fixture(scope="module")
def studies_here(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volumes of the studies, in a folder that no other test submits to."""
    folder = tmp_path_factory.mktemp("slicer_studies")
    for name in VOLUMES:
        (folder / f"{name}.nii.gz").write_bytes((studies / f"{name}.nii.gz").read_bytes())
    return folder


@pytest.fixture(scope="module")
def served(slicer_python: str, studies_here: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server whose labels stand in another order than any sentence names them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state = tmp_path_factory.mktemp("slicer_state")
    command = [sys.executable, "-m", "monai_sa2va", "serve", "--studies", str(studies_here), "--device", "cpu"]
    command += ["--labels", ",".join(LABELS), "--port", str(port), "--state", str(state)]
    address = f"http://127.0.0.1:{port}"
    with (state / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and server.poll() is None:
                try:
                    requests.get(f"{address}/health", timeout=5).raise_for_status()
                    break
                except requests.RequestException:
                    time.sleep(0.5)
            else:
                pytest.fail((state / "log").read_text()[-2000:])
            yield address
        finally:
            server.terminate()


@pytest.fixture
def run(slicer_python: str, extension: Path, served: str, tmp_path: Path) -> Run:
    """Do steps of ``slicer_side.py``: segments after each, and what was asked and shown."""

    def work(*steps: dict[str, Any]) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
        command = [slicer_python, str(Path(__file__).with_name("slicer_side.py")), str(extension), served]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [*command, str(tmp_path)],
            input=json.dumps(steps),
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        shown = []
        for number in range(len(steps)):
            with np.load(tmp_path / f"{number}.npz") as file:
                shown.append({name: file[name] for name in file})
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return shown, told

    return work


@pytest.fixture
def ask(served: str, tmp_path: Path) -> Ask:
    """The label map that a call of REST answers."""

    def work(model: str, image: str, **params: Any) -> np.ndarray:
        url = f"{served}/infer/{model}?image={image}&output=image"
        answer = requests.post(url, data={"params": json.dumps(params)}, timeout=120)
        assert answer.status_code == 200, answer.text
        (tmp_path / "answer.nii.gz").write_bytes(answer.content)
        return np.asanyarray(nib.load(tmp_path / "answer.nii.gz").dataobj)

    return work


@pytest.fixture
def ras(studies_here: Path) -> Callable[[str, list[int]], list[float]]:
    """Where a voxel of a study lies, mm."""

    def place(image: str, voxel: list[int]) -> list[float]:
        return [float(n) for n in nib.load(studies_here / f"{image}.nii.gz").affine[:3] @ [*voxel, 1]]

    return place


def _opened(image: str, studies_here: Path) -> dict[str, str]:
    return {"do": "sample", "image": image, "path": str(studies_here / f"{image}.nii.gz")}


def _spoken(text: str, **options: str) -> list[dict[str, str]]:
    return [{"do": "option", "model": "sa2va_text", "text": text, **options}, {"do": "sentence"}]


def _inside(mask: np.ndarray) -> list[int]:
    z = int(mask.sum((0, 1)).argmax())
    places = np.argwhere(mask[..., z])
    middle = places[np.linalg.norm(places - places.mean(0), axis=1).argmin()]
    return [int(middle[0]), int(middle[1]), z]


@pytest.fixture
def spine(truth: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
    """The spine of a study, on its own voxels."""
    return lambda image: truth("spine") if image == "ct" else truth("spine")[::-1, ::-1]


@pytest.mark.parametrize("image", VOLUMES)
def test_a_sentence(image: str, run: Run, ask: Ask, studies_here: Path, dice: Any, spine: Any) -> None:
    assert "".join(nib.aff2axcodes(nib.load(studies_here / f"{image}.nii.gz").affine))[:2] == VOLUMES[image][:2]
    both, absent = "Segment the vessels and the spine.", "Segment the kidney and the spine."
    shown, told = run(
        _opened(image, studies_here),
        *_spoken(both),
        *_spoken("Segment the spine.", mode="slice", slice="3"),
        *_spoken(absent),
    )
    assert told["messages"] == []
    assert told["requests"][-2]["text"] == "Segment the spine."
    answered = ask("sa2va_text", image, text=both)
    for name, place in (("spine", 1), ("vessels", 2)):
        assert shown[2][name].any()
        np.testing.assert_array_equal(shown[2][name], answered == place)
    assert dice(shown[2]["spine"], spine(image)) > 0.9
    # a label that is not the server's first; what wasn't asked for stays as it was
    alone = {"text": "Segment the spine.", "mode": "slice", "slice": 3}
    np.testing.assert_array_equal(shown[4]["spine"], ask("sa2va_text", image, **alone) == 1)
    np.testing.assert_array_equal(shown[4]["vessels"], shown[2]["vessels"])
    assert np.flatnonzero(shown[4]["spine"].any((0, 1))).tolist() == [3]
    # an object that isn't there doesn't shift those named after it
    assert not shown[6]["kidney"].any()
    np.testing.assert_array_equal(shown[6]["spine"], ask("sa2va_text", image, text=absent, mode="slice", slice=3) == 1)


@pytest.mark.parametrize("image", VOLUMES)
def test_points(image: str, run: Run, ask: Ask, studies_here: Path, ras: Any, spine: Any, dice: Any) -> None:
    on, beside = _inside(spine(image)), [40, 60, 0]
    beside[2] = on[2]
    shown, told = run(
        _opened(image, studies_here),
        {"do": "option", "model": "sa2va_click", "mode": "slice"},
        {"do": "click", "segment": "spine", "on": [ras(image, on)], "beside": []},
        {"do": "click", "segment": "spine", "on": [], "beside": [ras(image, beside)]},
        {"do": "undo"},
    )
    assert told["messages"] == []
    assert [(request["foreground"], request["background"]) for request in told["requests"]] == [
        ([on], []),
        ([on], [beside]),
        ([on], []),
    ]
    once = ask("sa2va_click", image, label="spine", foreground=[on], background=[], mode="slice") == 1
    twice = ask("sa2va_click", image, label="spine", foreground=[on], background=[beside], mode="slice") == 1
    assert dice(once[..., on[2]], spine(image)[..., on[2]]) > 0.9
    for step, expected in ((2, once), (3, twice), (4, once)):
        np.testing.assert_array_equal(shown[step]["spine"], expected)


@pytest.mark.parametrize("image", VOLUMES)
def test_a_region(image: str, run: Run, ask: Ask, studies_here: Path, ras: Any, spine: Any) -> None:
    axes = [np.flatnonzero(spine(image).any(others)) for others in ((1, 2), (0, 2), (0, 1))]
    first, last = [int(axis.min()) for axis in axes], [int(axis.max()) for axis in axes]
    ends = np.array([ras(image, first), ras(image, last)])
    region = {"center": ends.mean(0).tolist(), "size": np.abs(ends[1] - ends[0]).tolist()}
    shown, told = run(_opened(image, studies_here), {"do": "region", "segment": "spine", **region})
    assert told["messages"] == []
    sent = told["requests"][-1]["roi"]
    assert [sorted(sent[n : n + 2]) for n in (0, 2, 4)] == [list(pair) for pair in zip(first, last, strict=True)]
    # of an image whose axes run against Slicer's the extension sends each pair the other way round
    assert (sent[0] > sent[1]) is (image == "ct")
    roi = [n for pair in zip(first, last, strict=True) for n in pair]
    assert shown[1]["spine"].any()
    np.testing.assert_array_equal(shown[1]["spine"], ask("sa2va_click", image, label="spine", roi=roi) == 1)


def test_a_volume_of_ones_own(run: Run, ask: Ask, studies_here: Path) -> None:
    shown, told = run(
        {"do": "open", "file": str(studies_here / "turned.nii.gz")},
        {"do": "option", "model": "sa2va_text", "text": "Segment the spine.", "mode": "slice", "slice": "4"},
        {"do": "sentence"},
    )
    assert told["messages"] == []
    assert len(told["requests"][-1]["session"]) == 36
    expected = ask("sa2va_text", "turned", text="Segment the spine.", mode="slice", slice=4) == 1
    assert expected.any()
    np.testing.assert_array_equal(shown[2]["spine"], expected)


def test_what_is_submitted_has_the_names_and_the_grid_of_the_image(run: Run, served: str, studies_here: Path) -> None:
    spoken = _spoken("Segment the vessels and the spine.", mode="slice")
    shown, told = run(_opened("turned", studies_here), *spoken, {"do": "submit"})
    assert told["messages"] == []
    label = nib.load(studies_here / "labels" / "final" / "turned.nii.gz")
    np.testing.assert_allclose(label.affine, nib.load(studies_here / "turned.nii.gz").affine, atol=1e-4)
    stored = requests.get(f"{served}/datastore/?output=all", timeout=60).json()["objects"]["turned"]["labels"]["final"]
    info = stored["info"]["label_info"]
    assert {item["name"]: item["idx"] for item in info[:3]} == {"spine": 1, "vessels": 2, "object": 3}
    for item in info:
        np.testing.assert_array_equal(np.asanyarray(label.dataobj) == item["idx"], shown[2][item["name"]])


def test_the_next_sample_comes_from_the_server(run: Run, studies_here: Path) -> None:
    shown, told = run({"do": "next"})
    assert told["messages"] == []
    # empty segments of the server's labels, on the grid of one of the studies
    assert list(shown[0])[:3] == [*LABELS, "object"]
    assert not any(mask.any() for mask in shown[0].values())
    assert shown[0]["spine"].shape == nib.load(studies_here / "ct.nii.gz").shape


def test_what_can_not_be_answered_is_said_in_a_window_and_changes_nothing(run: Run, studies_here: Path) -> None:
    shown, told = run(_opened("ct", studies_here), *_spoken("Segment the spine.", mode="slice"), *_spoken(" "))
    (message,) = told["messages"]
    assert "Status: 400" in message
    assert shown[2]["spine"].any()
    np.testing.assert_array_equal(shown[4]["spine"], shown[2]["spine"])


def test_the_pictures_of_the_tutorial(
    run: Run, served: str, studies_here: Path, repository: Path, ras: Any, truth: Any, dice: Any, tmp_path: Path
) -> None:
    """What docs/tutorial/slicer.md does with its phantom, which is the first one of the studies here.

    With MONAI_SA2VA_PICTURES=docs/images they are written anew.
    """
    page = (repository / "docs" / "tutorial" / "slicer.md").read_text(encoding="utf-8")
    made = next(line for line in page.splitlines() if line.startswith("monai-sa2va phantoms"))
    subprocess.run([sys.executable, "-m", "monai_sa2va", *made.split()[1:]], cwd=tmp_path, check=True, timeout=120)
    (phantom,) = (tmp_path / "study" / "images").iterdir()
    ours = nib.load(studies_here / "ct.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(nib.load(phantom).dataobj), np.asanyarray(ours.dataobj))
    place = [137, 247, 3]
    assert f"`{place[0]}, {place[1]}, {place[2]}`" in page
    folder = Path(os.environ.get("MONAI_SA2VA_PICTURES", tmp_path)).resolve()
    shown, told = run(
        _opened("ct", studies_here),
        *_spoken("Segment the vessels and the spine.", mode="slice", slice="3"),
        {"do": "picture", "path": str(folder / "slicer_sentence.png"), "number": 3},
        {"do": "option", "model": "sa2va_click", "text": "Segment the vessels.", "mode": "slice"},
        {"do": "click", "segment": "vessels", "on": [ras("ct", place)], "beside": []},
        {"do": "picture", "path": str(folder / "slicer_click.png"), "number": 3},
    )
    assert told["messages"] == []
    before, after = (dice(shown[step]["vessels"][..., 3], truth("vessels")[..., 3]) for step in (2, 5))
    assert f"{before:.2f} to {after:.2f}" in page
    assert after > before
    for name in ("slicer_sentence.png", "slicer_click.png"):
        with Image.open(folder / name) as picture, Image.open(repository / "docs" / "images" / name) as kept:
            assert picture.size == kept.size == (320, 320)
            difference = np.abs(np.asarray(picture, float) - np.asarray(kept, float))
            # one pixel in a hundred may differ from machine to machine
            assert (difference.max(-1) > 8).mean() < 0.01
