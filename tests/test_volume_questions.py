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

"""What a source is asked: by its layout, and in one plane or three."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_sa2va.data.headers import Grid
from monai_sa2va.data.read_image import read_image
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.dicom.series import DicomSeries, Layout
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.inferers.sliding_window import SlidingWindows
from monai_sa2va.inferers.volume import VolumeInferer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter


@pytest.fixture(scope="module")
def network(micro_config: Any) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


class _Marks(ImageInferer):
    """Masks where a picture is brighter than half."""

    def __call__(self, inputs: Any, *_: Any) -> ImageResult:
        masks, one = torch.as_tensor(inputs)[:1] > 127, torch.ones(1)
        return ImageResult(masks, ["bright"], [0], one, one, ["Sure."], [["bright"]])


class _Noting(VolumeInferer):
    """Notes how it is asked to go through a volume, and asks in each slice."""

    def __init__(self, volume: str = "auto") -> None:
        super().__init__(volume)
        self.ways: list[tuple[Any, Any]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.ways.append(arguments[5:7])
        return super().__call__(*arguments[:5], "slices", None, *arguments[7:], **named)


def _series(layout: Layout) -> DicomSeries:
    return DicomSeries("1", "2", 0, "US", "", None, layout, [], (5, 6, 4), 1, None)


def _source(layout: Layout | None, spacing: float = 1.0) -> SourceImage:
    values = np.random.default_rng(0).integers(0, 2, (1, 5, 6, 4)).astype(np.uint8) * 255
    image = MetaTensor(torch.from_numpy(values), affine=torch.diag(torch.tensor([1.0, 1.0, spacing, 1.0])))
    source = read_image(image)
    return source if layout is None else replace(source, series=_series(layout), grid=Grid((5, 6, 4), None))


@pytest.mark.parametrize(
    ("layout", "own", "asked", "way"),
    [
        (None, "auto", {}, (None, None)),
        (None, "auto", {"volume": "propagate"}, ("propagate", None)),
        (None, "auto", {"context": "uniform"}, (None, "uniform")),
        (Layout.CINE, "auto", {}, ("propagate", None)),
        (Layout.CINE, "slices", {}, (None, None)),
        (Layout.CINE, "propagate", {"volume": "auto"}, ("propagate", None)),
        (Layout.CINE, "auto", {"volume": "slices"}, ("slices", None)),
        (Layout.STACK, "propagate", {}, ("slices", None)),
        (Layout.STACK, "auto", {"context": "sweep"}, ("slices", None)),
    ],
)
def test_the_way_through(network: Sa2VA, layout: Any, own: str, asked: dict[str, str], way: tuple[Any, Any]) -> None:
    noting = _Noting(own)
    segmenter = Segmenter(network, device="cpu", inferer=_Marks(), volume_inferer=noting)
    found = segmenter.segment(_source(layout), "bright", **asked)  # type: ignore[arg-type]
    assert noting.ways == [way]
    np.testing.assert_array_equal(found.on_source_grid()[0], np.asarray(_source(None).pixels)[0] > 127)


@pytest.mark.parametrize("planes", ["majority", "mean"])
def test_three_planes_are_asked_and_agree(network: Sa2VA, planes: str) -> None:
    noting, source = _Noting(), _source(None)
    found = Segmenter(network, device="cpu", inferer=_Marks(), volume_inferer=noting, planes=planes).segment(
        source, "bright"
    )
    assert len(noting.ways) == 3
    np.testing.assert_array_equal(found.on_source_grid()[0], np.asarray(source.pixels)[0] > 127)


def test_planes_of_what_has_one_or_uneven_voxels(network: Sa2VA) -> None:
    noting = _Noting()
    segmenter = Segmenter(network, device="cpu", inferer=_Marks(), volume_inferer=noting, planes="mean")
    segmenter.segment(_source(Layout.CINE), "bright")
    segmenter.segment(np.zeros((4, 5), np.uint8), "bright")
    assert len(noting.ways) == 2
    with pytest.raises(DataError, match="image has voxels of 1 x 1 x 5 mm, too uneven"):
        segmenter.segment(_source(None, 5.0), "bright")


def test_one_slice_has_one_plane(network: Sa2VA) -> None:
    noting = _Noting()
    image = MetaTensor(torch.zeros((1, 5, 6, 1), dtype=torch.uint8), affine=torch.diag(torch.tensor([1.0, 1, 5, 1])))
    segmenter = Segmenter(network, device="cpu", inferer=_Marks(), volume_inferer=noting, planes="majority")
    assert segmenter.segment(read_image(image), "bright").masks.shape == (1, 1, 6, 5)
    assert len(noting.ways) == 1


def test_a_cine_in_windows_is_asked_frame_by_frame(network: Sa2VA) -> None:
    noting, inferer = _Noting(), _Marks()
    inferer.windows = SlidingWindows(64)
    Segmenter(network, device="cpu", inferer=inferer, volume_inferer=noting).segment(_source(Layout.CINE), "bright")
    assert noting.ways == [("slices", None)]


def test_slices_without_a_place_are_shown_as_they_are_stored(network: Sa2VA) -> None:
    found = Segmenter(network, device="cpu", inferer=_Marks(), axis="coronal").segment(_source(Layout.STACK), "bright")
    np.testing.assert_array_equal(found.masks[0, 2], np.asarray(_source(None).pixels)[0, :, :, 2].T > 127)


def test_ways_that_contradict_each_other(network: Sa2VA) -> None:
    segmenter = Segmenter(network, device="cpu", inferer=_Marks())
    for arguments, message in (
        ({"volume": "all"}, "volume is 'all'; allowed: auto, slices, propagate, or none"),
        ({"volume": "slices", "context": "sweep"}, "context is 'sweep', which volume 'slices' has no use for"),
        ({"volume": "propagate", "from_slice": 1}, "volume is 'propagate', which takes sentences alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            segmenter.segment(_source(None), "bright", **arguments)
