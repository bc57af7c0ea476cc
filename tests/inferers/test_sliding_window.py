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

"""Pictures drawn in windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.sliding_window import SeenLogits, SlidingWindows
from monai_sa2va.networks.sa2va import Sa2VA


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


def _bright(window: Image.Image, presence: float = 0.9) -> SeenLogits:
    """Two objects: what is bright, and what is dark."""
    values = torch.from_numpy(np.array(window)[..., 0].astype(np.float32)) - 127.5
    return SeenLogits(torch.stack([values, -values]), torch.full((2,), presence), torch.tensor([0.8, 0.6]))


@pytest.mark.parametrize(("size", "roi", "windows"), [((40, 64), 32, 6), ((20, 70), (32, 32), 3), ((16, 16), 64, 1)])
def test_windows_together_draw_what_each_sees(size: tuple[int, int], roi: int | tuple[int, int], windows: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    picture, seen = Image.fromarray(np.stack([values] * 3, axis=-1)), []

    def look(window: Image.Image) -> SeenLogits:
        seen.append(window.size)
        return _bright(window)

    masks, presence, ious = SlidingWindows(roi, overlap=0.25)(picture, look, 0.5)
    np.testing.assert_array_equal(masks.numpy(), [values > 127, values <= 127])
    assert len(seen) == windows
    torch.testing.assert_close(presence, torch.tensor([0.9, 0.9]))
    torch.testing.assert_close(ious, torch.tensor([0.8, 0.6]))


def test_a_window_without_the_object_votes_against_it() -> None:
    picture = Image.fromarray(np.full((32, 32, 3), 255, np.uint8))
    number = iter(range(4))

    def look(window: Image.Image) -> SeenLogits:
        return _bright(window, 0.9 if next(number) == 0 else 0.1)

    masks, presence, _ = SlidingWindows(16, overlap=0.0)(picture, look, 0.5)
    assert masks[0, :16, :16].all()
    assert int(masks.sum()) == 256
    torch.testing.assert_close(presence, torch.tensor([0.9, 0.9]))


def test_no_object_is_no_mask() -> None:
    picture = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    nothing = SeenLogits(torch.zeros((0, 32, 32)), torch.zeros(0), torch.zeros(0))
    masks, presence, ious = SlidingWindows(32)(picture, lambda _: nothing, 0.5)
    assert (masks.shape, presence.shape, ious.shape) == ((0, 40, 40), (0,), (0,))


def test_the_inferer_names_by_the_whole_and_draws_by_windows(network: Sa2VA) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    whole = ImageInferer()(picture, network, ["Segment the liver and the spleen."])
    parts = ImageInferer(roi_size=32)(picture, network, ["Segment the liver and the spleen."])
    assert parts.names == whole.names
    assert parts.answers == whole.answers
    assert parts.masks.shape == (2, 40, 60)
    assert parts.language is None
    # one window that holds all is the whole picture
    same = ImageInferer(roi_size=64, presence_threshold=None)(picture, network, ["Segment the liver and the spleen."])
    torch.testing.assert_close(same.presence, whole.presence)


@pytest.mark.parametrize(
    ("roi", "overlap", "message"),
    [(8, 0.25, "roi_size is 8; give one or two sides"), ((32, 32, 32), 0.25, "roi_size"), (32, 1.0, "overlap is 1.0")],
)
def test_refused(roi: int | tuple[int, ...], overlap: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlidingWindows(roi, overlap)
