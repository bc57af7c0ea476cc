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
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va import Sa2VA
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.inferers import correction
from monai_sa2va.inferers.correction import CorrectionInferer
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.stack import StackInferer
from monai_sa2va.inferers.visual_prompts import sort_by_slice
from monai_sa2va.inferers.volume import VolumeInferer

SENTENCE = "Segment the vessels."
SIZE = (9, 24, 40)


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0).eval()


@pytest.fixture
def slices(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 255, (24, 40, 3), dtype=np.uint8) for _ in range(9)]


def _start(network: Sa2VA, slices: list[np.ndarray]) -> SliceResults:
    return VolumeInferer()(slices, network, SENTENCE, ImageInferer())


def _changed(network: Sa2VA, slices: list[np.ndarray], points: Any, **arguments: Any) -> list[int]:
    """Slices that a correction changes."""
    before = _start(network, slices).masks.copy()
    shown = sort_by_slice(SIZE, points)
    found = CorrectionInferer(**arguments)(slices, network, SENTENCE, shown, _start(network, slices))
    return [number for number in range(9) if (found.masks[0, number] != before[0, number]).any()]


class _Drawn:
    """Masks as memory, or clicks, would draw them: slice by slice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, masks: np.ndarray) -> None:
        self.masks, self.carried = masks, 0
        self._order: list[int] = []
        monkeypatch.setattr(correction, "full_size_masks", self._draw)

    def draw_next(self, *numbers: int) -> None:
        self._order += numbers

    def _draw(self, network: Sa2VA, logits: torch.Tensor, size: Any) -> torch.Tensor:
        numbers = [self._order.pop(0) for _ in range(len(logits))]
        self.carried += len(numbers)
        return torch.from_numpy(self.masks[numbers])


def test_a_click_is_drawn_as_in_the_slice_alone(network: Sa2VA, slices: list[np.ndarray]) -> None:
    shown = sort_by_slice(SIZE, [[20, 12, 4, 1], [3, 3, 4, 0]])
    found = CorrectionInferer(reach=0)(slices, network, SENTENCE, shown, _start(network, slices))
    (alone,) = StackInferer()([slices[4]], network, SENTENCE, {0: shown[4]})
    assert torch.equal(found[4].masks, alone.masks)
    torch.testing.assert_close(found[4].presence, alone.presence)


def test_all_else_stays(network: Sa2VA, slices: list[np.ndarray]) -> None:
    points = [[20, 12, 4, 1]]
    assert _changed(network, slices, points, reach=0) == [4]
    # whatever is drawn overlaps by 0 or more
    assert _changed(network, slices, points, agreement=0.0) == [4]
    assert set(_changed(network, slices, points, agreement=1.0, reach=2)) <= {2, 3, 4, 5, 6}
    assert len(_changed(network, slices, points, agreement=1.0)) > 1


def test_only_what_is_connected_to_the_change_changes(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = _start(network, slices)
    start.masks[:] = False
    start.masks[:, :, 2:6, 2:6] = True
    drawn = np.zeros(SIZE, bool)
    # clicked: a second part. Slice 5 has it, too, and lacks the first; 3 has it too small to count; 6 hasn't it
    drawn[4, 2:6, 2:6] = drawn[4, 12:18, 20:30] = True
    drawn[5, 12:18, 20:30] = True
    drawn[3, 2:6, 2:6] = drawn[3, 14, 24] = True
    drawn[6, 2:6, 2:6] = True
    made = _Drawn(monkeypatch, drawn)
    made.draw_next(4, 5, 3, 6)
    shown = sort_by_slice(SIZE, [[25, 15, 4, 1]])
    found = CorrectionInferer(presence_threshold=None)(slices, network, SENTENCE, shown, start)
    expected = np.zeros(SIZE, bool)
    expected[:, 2:6, 2:6] = True
    expected[4:6, 12:18, 20:30] = True
    np.testing.assert_array_equal(found.masks[0], expected)
    assert made.carried == 4


def test_a_click_that_changes_nothing_is_not_carried(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = _start(network, slices)
    made = _Drawn(monkeypatch, start.masks[0].copy())
    made.draw_next(4)
    CorrectionInferer(agreement=1.0)(slices, network, SENTENCE, sort_by_slice(SIZE, [[20, 12, 4, 1]]), start)
    assert made.carried == 1


def test_each_slice_belongs_to_the_nearest_click(
    network: Sa2VA, slices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = _start(network, slices)
    start.masks[:] = False
    drawn = np.zeros(SIZE, bool)
    drawn[:, 5:15, 5:15] = True
    made = _Drawn(monkeypatch, drawn)
    # from slice 2: 3 and 1, then 4 (as near to 6, which is higher) and 0; from 6: 7 and 5, then 8
    made.draw_next(2, 3, 1, 4, 0, 6, 7, 5, 8)
    shown = sort_by_slice(SIZE, [[8, 8, 2, 1], [8, 8, 6, 1]])
    found = CorrectionInferer(presence_threshold=None)(slices, network, SENTENCE, shown, start)
    assert made.carried == 9
    np.testing.assert_array_equal(found.masks[0], drawn)


def test_the_two_ways_do_not_know_of_each_other(network: Sa2VA, slices: list[np.ndarray]) -> None:
    """What lies on one side changes nothing on the other."""
    shown = sort_by_slice(SIZE, [[20, 12, 4, 1]])
    inferer = CorrectionInferer(agreement=1.0)
    whole = inferer(slices, network, SENTENCE, shown, _start(network, slices))
    half = inferer(slices[:5], network, SENTENCE, shown, _start(network, slices[:5]))
    # pairs are drawn in one batch, which rounds otherwise
    assert (whole.masks[0, :5] != half.masks[0]).mean() < 1e-3


def test_refused(network: Sa2VA, slices: list[np.ndarray]) -> None:
    for arguments in ({"agreement": 1.5}, {"reach": -1}, {"recent": 0}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            CorrectionInferer(**arguments)
    two = VolumeInferer()(slices, network, "Segment the vessels and the spine.", ImageInferer())
    with pytest.raises(PromptError, match="names 2 objects"):
        CorrectionInferer()(slices, network, SENTENCE, sort_by_slice(SIZE, [[1, 1, 1, 1]]), two)
    beside, start = sort_by_slice(SIZE, [[1, 1, 1, 0]]), _start(network, slices)
    with pytest.raises(PromptError, match="beside the object"):
        CorrectionInferer()(slices, network, None, beside, start)
