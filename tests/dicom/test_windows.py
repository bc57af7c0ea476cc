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

"""A series is shown with the window that its own files ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
import numpy as np
import torch
from pydicom import Dataset

from monai_sa2va.data.read_image import read_image
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.pictures import PictureReader
from monai_sa2va.transforms.intensity import as_window
from monai_sa2va.transforms.stacks import StackPlanes

VALUES = np.array([[0, 100, 200, 300, 400]])


def source(folder: Path, pixels: np.ndarray = VALUES, **more: Any) -> SourceImage:
    arguments = {"sop_class": made.DX, "modality": "DX", "bits_stored": 12, **more}
    return read_image(made.write(folder, [made.image(pixels, **arguments)]))


def shown(image: SourceImage) -> list[float]:
    return image.window(image.pixels)[0, :, 0, 0].tolist()


def table(values: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(values), first, bits], values
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # the standard's linear function: ((v - 199.5) / 400 + 0.5) * 255
        ({"WindowCenter": 200, "WindowWidth": 401}, [0.31875, 64.06875, 127.81875, 191.56875, 255]),
        ({"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, [0, 63.75, 127.5, 191.25, 255]),
        # 255 / (1 + exp(-4 * (v - 200) / 200))
        (
            {"WindowCenter": 200, "WindowWidth": 200, "VOILUTFunction": "SIGMOID"},
            [4.58654, 30.39659, 127.5, 224.60341, 250.41346],
        ),
        # the first of several
        ({"WindowCenter": [200.5, 50], "WindowWidth": [401, 10]}, [0, 63.75, 127.5, 191.25, 255]),
        # darker is more: 4095 - v is what is stored here
        ({"WindowCenter": 3895.5, "WindowWidth": 401, "photometric": "MONOCHROME1"}, [0, 63.75, 127.5, 191.25, 255]),
        ({"VOILUTSequence": [table([0, 51, 255], 100, 8)]}, [0, 0, 255, 255, 255]),
    ],
)
def test_window_of_the_file(tmp_path: Path, more: dict, expected: list[float]) -> None:
    pixels = 4095 - VALUES if "photometric" in more else VALUES
    np.testing.assert_allclose(shown(source(tmp_path / "in", pixels, **more)), expected, atol=2e-2)


def test_a_table_in_full(tmp_path: Path) -> None:
    image = source(tmp_path / "in", np.array([[99, 100, 101, 102, 103]]), VOILUTSequence=[table([0, 51, 255], 100, 8)])
    assert shown(image) == [0, 0, 51, 255, 255]


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_mr_has_no_scale_and_is_shown_by_percentiles(tmp_path: Path, modality: str) -> None:
    folder = made.write(tmp_path / "in", made.series(modality=modality, WindowCenter=40, WindowWidth=400))
    assert (read_image(folder).window is None) == (modality == "MR")


@pytest.mark.parametrize("more", [{}, {"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": 40}])
def test_what_is_no_window(tmp_path: Path, more: dict) -> None:
    assert source(tmp_path / "in", **more).window is None


def test_functional_groups_have_their_own(tmp_path: Path) -> None:
    def each(z: int, frame: Dataset) -> None:
        item = Dataset()
        item.WindowCenter, item.WindowWidth = 10.5 + z, 21
        frame.FrameVOILUTSequence = [item]

    window = read_image(made.write(tmp_path / "in", [made.enhanced(3, each=each)])).window
    assert (window.lower, window.upper) == (1, 21)


def test_who_asks_for_a_window_gets_it(tmp_path: Path) -> None:
    image = source(tmp_path / "in", WindowCenter=200.5, WindowWidth=401)
    stack = StackPlanes("auto")
    assert PictureReader(as_window("auto"), stack).window_of(image) is image.window
    lung = as_window("lung")
    assert PictureReader(lung, stack).window_of(image) is lung


def test_it_is_applied_to_what_the_network_sees(tmp_path: Path) -> None:
    image = source(tmp_path / "in", WindowCenter=200.5, WindowWidth=401)
    picture = PictureReader(as_window("auto"), StackPlanes("auto")).picture(image)
    assert picture.shape == (3, 1, 5)
    assert torch.allclose(picture[0, 0], torch.tensor([0, 63.75, 127.5, 191.25, 255]))
