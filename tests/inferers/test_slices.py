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

"""Slices that are asked one by one, the middle one first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.inferers.slices import SliceAsker, ask_everywhere


class _Notes(ImageInferer):
    """Says which slice it was shown, and notes what it was told of the other slices."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, Any, Any]] = []

    def __call__(  # type: ignore[override]
        self, inputs: int, network: Any, prompts: Any, phrases: Any = None, mode: str = "segment", replies: Any = None
    ) -> ImageResult:
        self.told.append((inputs, phrases, replies))
        return ImageResult(
            masks=torch.zeros(1, 2, 2, dtype=torch.bool),
            names=[f"{mode} {inputs}"],
            prompt_indices=[0],
            presence=torch.ones(1),
            iou_scores=torch.ones(1),
            answers=[""],
            phrases=[[f"read in {inputs}"]],
            replies=[f"reply in {inputs}"],  # type: ignore[list-item]
        )


@pytest.mark.parametrize(
    ("mode", "told"),
    [("segment", ([["read in 2"]], None)), ("chat", (None, ["reply in 2"]))],
)
def test_the_middle_slice_is_read_for_all(mode: str, told: tuple[Any, Any]) -> None:
    inferer, steps = _Notes(), []
    asker = SliceAsker(range(4), None, inferer, ["?"], mode)  # type: ignore[arg-type]
    found = ask_everywhere(asker, lambda *step: steps.append(step))
    assert inferer.told == [(2, None, None), (0, *told), (1, *told), (3, *told)]
    assert [result.names for result in found] == [[f"{mode} 2"]] * 4
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
