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

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'monai-sa2va[dicom]'")
import made
import segmented

from monai_sa2va.label.results import describe, label_map
from monai_sa2va.segmentation import Segmentation

Make = Callable[[dict[str, int]], Segmentation]


@pytest.fixture
def found(tmp_path: Path) -> Make:
    """A segmentation of objects with so many voxels, none of them shared."""

    def make(objects: dict[str, int]) -> Segmentation:
        series = segmented.find(tmp_path / "series", made.series())
        masks = np.zeros((len(objects), *series.shape), bool)
        for row, (mask, count) in enumerate(zip(masks, objects.values(), strict=True)):
            mask[:count, row, 0] = True
        return segmented.segmentation(series, masks, list(objects))

    return make


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        # where names are told, the n-th one has the value n: 3D Slicer reads them so, whatever value it is told
        ([], [1, 2, 3]),
        (["spine", "lesion", "vessels"], [3, 4, 1]),
        (["vessels", "object", "object 2"], [1, 2, 3]),
    ],
)
def test_values_of_the_objects(found: Make, labels: list[str], numbers: list[int]) -> None:
    drawn = label_map(found({"vessels": 2, "liver": 0, "spine": 1}), labels)
    assert drawn.numbers == numbers
    values, counts = np.unique(drawn.values, return_counts=True)
    assert dict(zip(values.tolist()[1:], counts.tolist()[1:], strict=True)) == {numbers[0]: 2, numbers[2]: 1}


def test_an_object_without_voxels_keeps_its_place_among_the_names(found: Make) -> None:
    segmentation = found({"liver": 0, "spine": 1, "vessels": 2})
    told = describe(segmentation, label_map(segmentation, []))
    assert list(told["label_names"].items()) == [("liver", 1), ("spine", 2), ("vessels", 3)]
    assert [item["voxels"] for item in told["objects"]] == [0, 1, 2]
    assert told["empty_because"] is None


def test_two_objects_of_one_name_are_told_apart(found: Make) -> None:
    segmentation = found({"spine": 1, "vessels": 1})
    segmentation.labels[:] = ["spine", "spine"]
    told = describe(segmentation, label_map(segmentation, []))
    assert told["label_names"] == {"spine": 1, "spine (2)": 2}
    assert told["scores"] == {"spine": pytest.approx(0.9), "spine (2)": pytest.approx(0.3)}


def test_an_answer_without_objects_names_the_background_alone(found: Make) -> None:
    """3D Slicer takes the server's labels for the names where there are none, and would empty their segments."""
    segmentation = found({})
    told = describe(segmentation, label_map(segmentation, ["spine"]))
    assert told["label_names"] == {"background": 0}
    assert told["empty_because"] == "the model's answer names no object"
