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

"""Phantoms as DICOM are valid, lie where they should, and look as they were drawn."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import highdicom
import numpy as np

from monai_sa2va.data.phantom_stacks import make_stack
from monai_sa2va.data.phantoms import LABEL_VALUES, make_phantom
from monai_sa2va.data.read_image import read_image
from monai_sa2va.dicom.series import Layout
from monai_sa2va.errors import ConfigError
from monai_sa2va.writers.phantom_dicom import write_dicom_phantoms


def entries(folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    datalist = write_dicom_phantoms(folder, size=48, splits={"testing": 1}, **arguments)
    written: list[dict[str, Any]] = json.loads(datalist.read_text())["testing"]
    return written


def test_a_volume_and_its_truth(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path / "out", count=1, seed=4, kind="volume", slices=9)
    stack = make_stack(4, "volume", "ct", 48, 9)
    source = read_image(tmp_path / "out" / entry["image"])
    assert source.series.layout is Layout.VOLUME
    np.testing.assert_allclose(np.linalg.norm(source.grid.affine[:3, :3], axis=0), stack.spacing, atol=1e-6)
    # the file's own window shows what was drawn, but for the rounding to whole Hounsfield units
    shown = source.window(source.pixels)[0].numpy().transpose(2, 1, 0)
    assert np.abs(shown - stack.image).max() <= 0.5
    seg = highdicom.seg.segread(tmp_path / "out" / entry["label"])
    names = {seg.get_segment_description(number).segment_label: number for number in seg.segment_numbers}
    assert tuple(names) == stack.names
    for name, number in names.items():
        volume = seg.get_volume(segment_numbers=[number])
        # highdicom counts slices against the normal
        slices = volume.array.squeeze(-1)[:: int(np.sign(volume.affine[2, 0]))]
        np.testing.assert_array_equal(slices > 0, stack.label == LABEL_VALUES[name])


def test_a_fundus_photograph_keeps_its_colours(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path / "out", count=1, seed=7, looks=["fundus"])
    source = read_image(tmp_path / "out" / entry["image"])
    np.testing.assert_array_equal(source.pixels[..., 0].numpy().transpose(2, 1, 0), make_phantom(7, "fundus", 48).image)
    assert entry["image"] == "images/fundus_000007"


@pytest.mark.parametrize("look", ["fundus", "ct", "ultrasound"])
def test_a_film_knows_its_times(tmp_path: Path, look: str) -> None:
    (entry,) = entries(tmp_path / "out", count=1, looks=[look], kind="cine", slices=8)
    series = read_image(tmp_path / "out" / entry["image"]).series
    assert series.layout is Layout.CINE
    seconds = [frame.seconds for frame in series.frames]
    np.testing.assert_allclose(seconds, np.arange(8) * entry["frame_seconds"], atol=1e-5)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        entries(tmp_path / folder, count=2, seed=3)
    files = [sorted((tmp_path / folder).rglob("*.dcm")) for folder in ("a", "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_an_ultrasound_volume_has_no_dicom(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="look is 'ultrasound'; a volume as DICOM can be ct"):
        entries(tmp_path / "out", count=1, looks=["ultrasound"], kind="volume")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("kind", ["image", "volume", "cine"])
def test_dciodvfy_finds_no_error(tmp_path: Path, kind: str) -> None:
    entries(tmp_path / "out", count=1 if kind == "volume" else 3, kind=kind, slices=8)
    for path in [*(tmp_path / "out").rglob("0001.dcm"), *(tmp_path / "out" / "labels").iterdir()]:
        told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == []
