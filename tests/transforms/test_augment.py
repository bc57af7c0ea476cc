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

"""Paired augmentation: labels follow images, sides are kept, and everything is reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_sa2va.errors import DataError
from monai_sa2va.transforms.augment import AugmentPlanesd, RandSideAwareFlipd


def _entry(prompts: object, **more: object) -> dict:
    image = torch.arange(6.0).reshape(1, 2, 3)
    return {"image": MetaTensor(image), "label": MetaTensor(image.clone()), "prompts": prompts, **more}


def test_columns_are_flipped_in_image_and_label_alike() -> None:
    flip = RandSideAwareFlipd(["image", "label"], prob=1.0)
    d = flip(_entry({"1": "vessels"}))
    assert d["image"].tolist() == d["label"].tolist() == [[[2, 1, 0], [5, 4, 3]]]
    back = flip.inverse(d)
    assert back["image"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert not back["image"].applied_operations


@pytest.mark.parametrize(
    "entry",
    [
        _entry({"1": ["vessels"], "2": ["lung", "left lung"]}),
        _entry({"1": "vessels"}, absent=["right kidney"]),
        {**_entry({"1": "vessels"}), "missing": [("kidney", "left kidney")]},
    ],
)
def test_no_flip_where_a_side_is_named(entry: dict) -> None:
    flip = RandSideAwareFlipd(["image", "label"], prob=1.0)
    d = flip(entry)
    assert d["image"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert flip.inverse(d)["label"].tolist() == [[[0, 1, 2], [3, 4, 5]]]


@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_inverse_undoes_whatever_was_drawn(seed: int, prob: float) -> None:
    flip = RandSideAwareFlipd(["image", "label"], prob=prob).set_random_state(seed)
    entry = _entry({"1": "vessels"})
    d = flip(entry)
    assert torch.equal(d["image"], d["label"])
    assert torch.equal(flip.inverse(d)["image"], entry["image"])


def test_named_sides_do_not_change_what_later_entries_get() -> None:
    plain, sided = _entry({"1": "vessels"}), _entry({"1": "left lung"})
    runs = []
    for first in (plain, sided):
        flip = RandSideAwareFlipd("image").set_random_state(3)
        runs.append([flip(entry)["image"].tolist() for entry in [first] + [plain] * 20][1:])
    assert runs[0] == runs[1]
    assert len({str(item) for item in runs[0]}) == 2


def test_an_entry_without_prompts_is_refused() -> None:
    with pytest.raises(DataError, match="the entry has no 'prompts'"):
        RandSideAwareFlipd("image")({"image": torch.zeros(1, 2, 3)})


def _disc(rng: np.random.Generator) -> dict:
    y, x = np.mgrid[:48, :64]
    label = (((y - 20) ** 2 + (x - 24) ** 2) < 100).astype(np.float32)
    image = np.stack([label * 200] * 3) + rng.uniform(0, 50, (3, 48, 64)).astype(np.float32)
    return {"image": MetaTensor(image), "label": MetaTensor(label[None] * 2), "prompts": {"2": "disc"}}


def test_label_follows_the_image_and_keeps_its_values(rng: np.random.Generator) -> None:
    parser = ConfigParser(
        {"a": {"_target_": "monai_sa2va.transforms.AugmentPlanesd", "affine_prob": 1.0, "flip_prob": 0.5,
               "translate": 4.0, "contrast_prob": 0.5, "noise_prob": 1.0, "blur_prob": 0.5}}
    )  # fmt: skip
    augment = parser.get_parsed_content("a").set_random_state(0)
    places = set()
    for _ in range(8):
        d = augment(_disc(rng))
        assert d["image"].shape == (3, 48, 64)
        assert 0 <= float(d["image"].min()) <= float(d["image"].max()) <= 255
        assert d["label"].unique().tolist() == [0, 2]
        bright = d["image"].mean(0) > 0.5 * float(d["image"].mean(0).max())
        label = d["label"][0] > 0
        assert float((bright & label).sum() / (bright | label).sum()) > 0.8
        places.add(tuple(label.nonzero().float().mean(0).round().tolist()))
    assert len(places) > 4


def test_augmentation_is_reproducible_and_can_be_switched_off(rng: np.random.Generator) -> None:
    entry = _disc(rng)
    results = [AugmentPlanesd(affine_prob=1).set_random_state(7)(dict(entry))["image"] for _ in range(2)]
    assert torch.equal(*results)
    off = AugmentPlanesd(flip_prob=0, affine_prob=0, contrast_prob=0, blur_prob=0, noise_prob=0)(entry)
    assert torch.equal(off["image"], entry["image"])
    assert torch.equal(off["label"], entry["label"])


def test_noise_leaves_values_that_the_network_takes(rng: np.random.Generator) -> None:
    white = {"image": MetaTensor(torch.full((3, 8, 8), 255.0)), "prompts": {}}
    d = AugmentPlanesd(affine_prob=0, noise_prob=1, noise_std=50).set_random_state(1)(white)
    assert float(d["image"].max()) == 255
    assert float(d["image"].min()) < 250
