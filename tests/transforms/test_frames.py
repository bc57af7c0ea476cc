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
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose, RandAffined, RandFlipd, RandGaussianNoised

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.augment import AugmentPlanesd
from monai_sa2va.transforms.clips import as_frames
from monai_sa2va.transforms.frames import ClipProcessord, RandPromptFramed, SameForFramesd
from monai_sa2va.transforms.labels import LabelToMasksd
from monai_sa2va.transforms.processor import Sa2VAProcessor, Sa2VAProcessord
from monai_sa2va.transforms.prompts import RandAskd


def clip(frames: int = 3, size: int = 12) -> dict[str, Any]:
    """A square of 200 that moves from frame to frame, and is the label's value 1."""
    label = np.zeros((1, frames, size, size), np.float32)
    for number in range(frames):
        label[0, number, 3:8, 1 + number : 6 + number] = 1
    image = torch.as_tensor(np.repeat(label * 200, 3, axis=0))
    return {
        "image": as_frames(image, None),
        "label": as_frames(torch.as_tensor(label), None),
        "prompts": {"1": ["nodule"]},
        "absent": [],
    }


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), frames=st.integers(1, 4))
def test_labels_fit_images_and_all_frames_move_alike(seed, frames):
    moved = SameForFramesd(
        Compose(
            [
                RandFlipd(("image", "label"), prob=0.5, spatial_axis=1),
                RandAffined(
                    ("image", "label"),
                    prob=1,
                    rotate_range=0.5,
                    translate_range=1,
                    mode="nearest",
                    padding_mode="zeros",
                ),
            ]
        )
    )
    moved.set_random_state(seed=seed)
    d = moved(clip(frames, 16))
    assert d["image"].shape == (3, frames, 16, 16)
    assert d["label"].shape == (1, frames, 16, 16)
    torch.testing.assert_close(d["image"].as_tensor(), 200 * d["label"].as_tensor().expand(3, -1, -1, -1))
    # each frame is what the frame alone becomes by the same chance
    moved.set_random_state(seed=seed)
    whole = clip(frames, 16)
    last = {**whole, "image": whole["image"][:, -1:], "label": whole["label"][:, -1:]}
    torch.testing.assert_close(moved(last)["label"].as_tensor(), d["label"].as_tensor()[:, -1:])


def test_contrast_is_one_and_noise_is_new_in_each_frame():
    still = clip()
    ramp = torch.linspace(0, 200, 12).expand(3, 3, 12, 12)
    still["image"] = as_frames(ramp, None)
    steps = {"flip_prob": 0, "affine_prob": 0, "blur_prob": 0, "contrast_prob": 1, "noise_prob": 0}
    changed = SameForFramesd(AugmentPlanesd(**steps)).set_random_state(seed=3)(still)["image"].as_tensor()
    assert not torch.allclose(changed, ramp, atol=1)
    torch.testing.assert_close(changed[:, 0], changed[:, 2])
    noisy = SameForFramesd(RandGaussianNoised("image", prob=1, std=9), "image").set_random_state(seed=3)(still)["image"]
    assert not torch.equal(noisy.as_tensor()[:, 0], noisy.as_tensor()[:, 2])


def test_seeds_decide():
    transform = SameForFramesd(AugmentPlanesd())
    first = transform.set_random_state(seed=5)(clip())["image"].as_tensor()
    other = transform.set_random_state(seed=6)(clip())["image"].as_tensor()
    torch.testing.assert_close(transform.set_random_state(seed=5)(clip())["image"].as_tensor(), first)
    assert not torch.equal(first, other)


def test_a_lost_channel_is_named():
    def drop(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "image": data["image"][:4]}

    with pytest.raises(DataError, match=r"image has \(4, 12, 12\) after augmentation; a clip's needs 9 channels"):
        SameForFramesd(drop)(clip())


def entry(shows: list[list[int]]) -> dict[str, Any]:
    """Masks of areas (structure, frame)."""
    masks = torch.zeros(len(shows), len(shows[0]), 4, 4, dtype=torch.uint8)
    for structure, areas in enumerate(shows):
        for frame, area in enumerate(areas):
            masks[structure, frame].view(-1)[:area] = 1
    names = [f"s{number}" for number in range(len(shows))]
    return {"gt_masks": masks, "phrases": [[name, name * 2] for name in names], "names": names}


@given(
    seed=st.integers(0, 2**31),
    shows=st.integers(1, 5).flatmap(
        lambda frames: st.lists(st.lists(st.integers(0, 9), min_size=frames, max_size=frames), min_size=1, max_size=4)
    ),
)
def test_the_prompted_frame_shows_what_is_asked_for(seed, shows):
    choose = RandPromptFramed()
    choose.set_random_state(seed=seed)
    d = choose(entry(shows))
    frame, areas = d["prompt_frame"], np.array(shows)
    assert 0 <= frame < areas.shape[1]
    kept = [int(name[1:]) for name in d["names"]]
    assert d["phrases"] == [[name, name * 2] for name in d["names"]]
    np.testing.assert_array_equal(d["gt_masks"].flatten(2).sum(2), areas[kept])
    # what is there at all is there in this frame, and what is nowhere may be asked for, too
    assert kept == [n for n, area in enumerate(areas) if area[frame] or not area.any()]
    if areas.any():
        assert any(area[frame] and 2 * area[frame] >= area.max() for area in areas)
    ask = RandAskd(max_objects=2)
    ask.set_random_state(seed=seed)
    asked = ask(d)["gt_masks"]
    assert all(mask[frame].any() or not mask.any() for mask in asked)


def test_all_frames_and_structures_are_prompted_by_turns():
    choose = RandPromptFramed()
    choose.set_random_state(seed=0)
    found = [choose(entry([[8, 8, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]])) for _ in range(60)]
    assert {d["prompt_frame"] for d in found} == {0, 1, 3}
    assert {tuple(d["names"]) for d in found} == {("s0", "s2"), ("s1", "s2")}
    # a rim of a structure is no frame to prompt it on
    assert {choose(entry([[9, 4, 5]]))["prompt_frame"] for _ in range(40)} == {0, 2}


def test_a_clip_becomes_network_inputs(micro_config: Sa2VAConfig):
    processor = Sa2VAProcessor(micro_config, byte_tokenizer())
    data = LabelToMasksd()(clip(4, 64))
    data |= {
        "prompt_frame": 2,
        "frames": [9, 8, 7, 6],
        "turns": [("Segment the nodule.", processor.answer("nodule")[0])],
    }
    sample = ClipProcessord(processor, mask_size=16)(data)
    side = micro_config.grounding.image_size
    assert sample["g_pixel_values"].shape == (4, 3, side, side)
    assert sample["gt_masks"].shape == (4, 1, 16, 16)
    assert sample["gt_masks"].dtype == torch.uint8
    assert sample["frames_per_batch"] == 4
    assert sample["prompt_frame"] == 2
    for number in range(4):
        alone = Sa2VAProcessord(processor, mask_size=16)(
            {**data, "image": data["image"][:, number], "gt_masks": data["gt_masks"][:, number], "slice": 9 - number}
        )
        torch.testing.assert_close(sample["g_pixel_values"][number], alone["g_pixel_values"][0])
        torch.testing.assert_close(sample["gt_masks"][number], alone["gt_masks"])
        same = torch.equal(sample["pixel_values"], alone["pixel_values"])
        assert same == (number == 2)
        torch.testing.assert_close(sample["input_ids"], alone["input_ids"])


def test_the_source_names_file_and_slice(micro_config: Sa2VAConfig):
    processor = Sa2VAProcessor(micro_config, byte_tokenizer())
    data = LabelToMasksd()(clip(2, 16))
    data["image"].meta["filename_or_obj"] = "folder/case.nii.gz"
    data |= {"prompt_frame": 1, "frames": [5, 7], "turns": [("nodule", processor.answer("nodule")[0])]}
    assert ClipProcessord(processor)(data)["source"] == "case.nii.gz slice 7"
    with pytest.raises(DataError, match="the answers hold 1 \\[SEG\\]"):
        ClipProcessord(processor)({**data, "gt_masks": data["gt_masks"].repeat(2, 1, 1, 1)})
