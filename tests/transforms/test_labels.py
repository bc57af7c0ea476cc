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

"""Labels to masks: what a label may be, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError, DatalistError
from monai_sa2va.transforms.labels import LabelToMasks, LabelToMasksd
from monai_sa2va.transforms.planes import ToPlaned

MAP = torch.tensor([[[0, 1, 2], [3, 1, 0]]])
WHITE = torch.tensor([[[0, 255], [255, 0]]])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
def test_label_map(dtype: torch.dtype) -> None:
    result = LabelToMasks()(MAP.to(dtype), {"2": "optic disc", "1": ["vessels", "blood vessels"]})
    assert result.masks.dtype == torch.uint8
    assert result.masks.tolist() == [[[0, 1, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]
    assert result.phrases == [["vessels", "blood vessels"], ["optic disc"]]
    assert result.names == ["vessels", "optic disc"]
    assert result.present == [True, True]


def test_a_value_that_does_not_occur_gives_an_empty_absent_mask() -> None:
    result = LabelToMasks()(MAP, {"1": "vessels", "7": "tumour"}, absent=["pacemaker"])
    assert result.masks.sum((1, 2)).tolist() == [2, 0, 0]
    assert result.names == ["vessels", "tumour", "pacemaker"]
    assert result.present == [True, False, False]
    assert LabelToMasks(include_absent=False)(MAP, {"1": "a"}, absent=["pacemaker"]).names == ["a"]


@pytest.mark.parametrize("key", ["1", "255"])
def test_black_and_white(key: str) -> None:
    assert LabelToMasks()(WHITE, {key: "vessels"}).masks.tolist() == [[[0, 1], [1, 0]]]
    assert LabelToMasks()(torch.zeros(1, 2, 2), {key: "vessels"}).present == [False]


def test_booleans() -> None:
    assert LabelToMasks()(WHITE > 0, {"1": "vessels"}).masks.tolist() == [[[0, 1], [1, 0]]]


def test_a_stack_may_overlap_and_counts_from_1() -> None:
    stack = torch.tensor([[[0, 255]], [[0, 0]], [[1, 1]]])
    result = LabelToMasks()(stack, {"3": "lung", "1": "lesion", "2": "effusion"})
    assert result.masks.tolist() == [[[0, 1]], [[0, 0]], [[1, 1]]]
    assert result.names == ["lesion", "effusion", "lung"]
    assert result.present == [True, False, True]


def test_threshold_for_pictures_saved_with_loss() -> None:
    jpeg = torch.tensor([[[3, 250], [128, 127]]])
    assert LabelToMasks(threshold=127)(jpeg, {"1": "spleen"}).masks.tolist() == [[[0, 1], [1, 0]]]
    with pytest.raises(DataError, match="takes one prompt"):
        LabelToMasks(threshold=127)(jpeg, {"1": "spleen", "2": "liver"})


def test_unlisted_values() -> None:
    assert LabelToMasks()(MAP, {"1": "a"}).names == ["a"]
    with pytest.raises(DataError, match="label has values 2, 3 that no prompt names"):
        LabelToMasks(unlisted="error")(MAP, {"1": "a"})
    with pytest.raises(DataError, match="label has masks 2 that no prompt names"):
        LabelToMasks(unlisted="error")(torch.ones(2, 1, 1), {"1": "a"})
    assert LabelToMasks(unlisted="error")(MAP, {"1": "a", "2": "b", "3": "c"}).present == [True] * 3


@pytest.mark.parametrize(
    ("label", "prompts", "message"),
    [
        (MAP + 0.5, {"1": "a"}, "values that are no integers"),
        (torch.full((1, 2, 2), torch.nan), {"1": "a"}, "values that are no integers"),
        (torch.full((1, 2, 2), torch.inf), {"1": "a"}, "values that are no integers"),
        (-MAP, {"1": "a"}, "negative values"),
        (MAP[0], {"1": "a"}, r"shape \(2, 3\); expected \(1, H, W\)"),
        (torch.zeros(0, 2, 2), {"1": "a"}, "expected"),
        # neither a label map with 1 nor black and white
        (torch.tensor([[[0, 254, 255, 3]]]), {"1": "a"}, "values 3, 254, 255, none of which is a prompt's key"),
        (WHITE, {"1": "a", "2": "b"}, "values 255, none of which"),
        (WHITE // 255, {"255": "a"}, "values 1, none of which"),
        (torch.tensor([[[1]], [[2]]]), {"1": "a"}, "2 channels, number 2 of which has values 2"),
        (torch.ones(2, 1, 1), {"3": "a"}, "2 masks, but a prompt is for number 3"),
        (torch.arange(9).reshape(1, 3, 3) + 247, {"1": "a"}, r"247, 248, 249, 250, 251, 252 ... \(9 in all\)"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(label: torch.Tensor, prompts: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelToMasks()(label, prompts)


@pytest.mark.parametrize(
    ("prompts", "absent", "message"),
    [
        ({}, [], "neither prompts nor absent"),
        ({"0": "background"}, [], "key '0' is no label value"),
        ({"vessels": "1"}, [], "key 'vessels'"),
        ({"1": ""}, [], "a phrase is text that is not empty"),
        ({"1": "a"}, [""], "absent of label"),
        (["a"], [], "give a mapping"),
    ],
)
def test_bad_phrases_are_refused(prompts: object, absent: list, message: str) -> None:
    with pytest.raises(DatalistError, match=message):
        LabelToMasks()(MAP, prompts, absent)


def _load(
    folder: Path, label: Image.Image | list[Image.Image], size: tuple[int, int] = (4, 3), **entry: object
) -> dict:
    Image.new("L", size, 9).save(folder / "image.png")
    labels = label if isinstance(label, list) else [label]
    for number, picture in enumerate(labels):
        picture.save(folder / f"label{number}.png")
    names = [str(folder / f"label{number}.png") for number in range(len(labels))]
    keys = ["image", "label"]
    d = {"image": str(folder / "image.png"), "label": names if isinstance(label, list) else names[0], **entry}
    parser = ConfigParser({"t": {"_target_": "monai_sa2va.transforms.LabelToMasksDict"}})
    chain = Compose([LoadImaged(keys, ensure_channel_first=True), ToPlaned(keys), parser.get_parsed_content("t")])
    result: dict = chain(d)
    return result


def _picture(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8))


def test_files_and_the_way_back(tmp_path: Path) -> None:
    d = _load(tmp_path, _picture([[0, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]]), prompts={"1": "a", "2": ["b", "c"]})
    assert d["gt_masks"].tolist() == [
        [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
    ]
    assert (d["phrases"], d["names"]) == ([["a"], ["b", "c"]], ["a", "b"])
    assert isinstance(d["gt_masks"], MetaTensor)
    assert len(d["gt_masks"].applied_operations) == 1
    # the subset and order that prompts may ask for
    assert d["gt_masks"][[1, 0]].sum().item() == 2


def test_a_list_of_files_is_a_stack(tmp_path: Path) -> None:
    d = _load(tmp_path, [_picture([[0, 255, 0, 0]] * 3), _picture([[1, 1, 0, 0]] * 3)], prompts={"1": "a", "2": "b"})
    assert d["gt_masks"].sum((1, 2)).tolist() == [3, 6]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_saved_as_colour_is_grey(tmp_path: Path, mode: str) -> None:
    d = _load(tmp_path, _picture([[0, 255, 0, 0]] * 3).convert(mode), prompts={"1": "a"})
    assert d["gt_masks"].shape == (1, 3, 4)
    assert int(d["gt_masks"].sum()) == 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    # MONAI's Compose wraps what its transforms raise
    with pytest.raises(RuntimeError) as error:
        _load(tmp_path, Image.new(mode, (4, 3), "red"), prompts={"1": "a"})
    assert isinstance(error.value.__cause__, DataError)
    assert f"label (label0.png) is a colour picture ({mode}); expected one channel" in str(error.value.__cause__)


def test_colours_are_known_without_a_mode() -> None:
    # as ITK reads a TIFF: no mode, channels last in the file
    label = MetaTensor(torch.tensor([[[255, 0]], [[0, 0]], [[0, 0]]]))
    label.meta.update(filename_or_obj="label.tif", original_channel_dim=-1)
    with pytest.raises(DataError, match=r"label \(label.tif\) is a colour picture; expected"):
        LabelToMasks()(label, {"1": "a"})
    # a list of files
    label.meta["original_channel_dim"] = 0
    assert LabelToMasks()(label, {"1": "a", "2": "b"}).present == [True, False]


def test_a_label_of_another_size_is_refused() -> None:
    label = MetaTensor(torch.zeros(1, 3, 5))
    label.meta["filename_or_obj"] = "/data/Doe John/mask.png"
    entry = {"image": torch.zeros(1, 3, 4), "label": label, "prompts": {"1": "a"}}
    with pytest.raises(DataError, match=r"label \(mask.png\) doesn't fit image: shape 3 x 4 .* 3 x 5") as error:
        LabelToMasksd()(entry)
    assert "Doe" not in str(error.value)


def test_without_a_label_only_absent_phrases_make_sense() -> None:
    entry = {"image": torch.zeros(3, 2, 5), "prompts": {}, "absent": ["pacemaker"]}
    d = LabelToMasksd()(entry)
    assert d["gt_masks"].shape == (1, 2, 5)
    assert d["names"] == ["pacemaker"]
    with pytest.raises(DataError, match="label is missing, but prompts name its values"):
        LabelToMasksd()({**entry, "prompts": {"1": "a"}})
    with pytest.raises(DataError, match="no 'image'"):
        LabelToMasksd()({"label": MAP, "prompts": {"1": "a"}})


def test_volumes_have_masks_as_well() -> None:
    assert LabelToMasks()(torch.ones(1, 2, 3, 4), {"1": "a"}).masks.shape == (1, 2, 3, 4)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="unlisted is 'drop'"):
        LabelToMasks(unlisted="drop")
    with pytest.raises(ConfigError, match="give one label"):
        LabelToMasksd(["a", "b"])
