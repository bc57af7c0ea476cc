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
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.clips import RandClipd, StackFrames, StackFramesd
from monai_sa2va.transforms.planes import ToPlane

NAMES = {"1": ["vessels", "vasculature"], "2": ["lesion"], "5": ["liver"]}


def volume(values: np.ndarray, affine: np.ndarray | None = None) -> MetaTensor:
    meta = {"filename_or_obj": "folder/case.nii.gz"}
    return MetaTensor(
        torch.as_tensor(values)[None], affine=torch.as_tensor(np.eye(4) if affine is None else affine), meta=meta
    )


def case(slices: int = 10) -> dict[str, Any]:
    """A volume whose slice z (of x, y, z) has the grey value 10 z; vessels in all, a lesion in 3 to 5, no liver."""
    image = np.broadcast_to(10.0 * np.arange(slices), (6, 4, slices)).astype(np.float32)
    label = np.zeros((6, 4, slices), np.uint8)
    label[0] = 1
    label[2, 2, 3:6] = 2
    return {"image": volume(image), "label": volume(label), "prompts": NAMES, "absent": ["cyst"]}


def clip(seed: int, data: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    transform = RandClipd(**settings)
    transform.set_random_state(seed=seed)
    return transform(StackFramesd()(case() if data is None else data))


@given(data=st.data())
def test_frames_are_the_planes_in_lps_order(data, affines, shapes, axes):
    affine, shape, axis = data.draw(affines), data.draw(shapes), data.draw(axes)
    values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    source = volume(values, affine)
    frames = StackFrames(axis)(source)
    take = ToPlane(axis)
    assert frames.ndim == 4
    for index in range(frames.shape[1]):
        torch.testing.assert_close(frames[:, index].as_tensor(), take(source, index=index).as_tensor())


def test_what_each_frame_shows_is_noted():
    d = StackFramesd()(case())
    assert d["image"].shape == (1, 10, 4, 6)
    assert d["label"].shape == (1, 10, 4, 6)
    assert d["shown"].shape == (10, 3)
    assert d["shown"].all(0).tolist() == [True, False, False]
    assert torch.nonzero(d["shown"][:, 1]).flatten().tolist() == [3, 4, 5]
    assert not d["shown"][:, 2].any()
    # the caller's own entry is left alone
    assert "shown" not in case()


def test_of_a_black_and_white_label_one_is_the_foreground():
    data = case()
    data["label"] = volume(np.where(data["label"][0].numpy() == 2, 255, 0).astype(np.uint8))
    data["prompts"] = {"1": ["lesion"]}
    assert StackFramesd()(data)["shown"].flatten().tolist() == [False] * 3 + [True] * 3 + [False] * 4


@given(
    seed=st.integers(0, 2**31),
    slices=st.integers(4, 12),
    length=st.integers(1, 4),
    stride=st.integers(1, 3),
    change=st.sampled_from([0.0, 0.6, 1.0]),
)
def test_a_clip_is_consecutive_and_image_and_label_agree(seed, slices, length, stride, change):
    d = clip(seed, case(slices), length=length, stride=stride, change_prob=change)
    frames = d["frames"]
    assert len(frames) == length
    assert 0 <= min(frames) <= max(frames) < slices
    steps = set(np.diff(frames).tolist())
    assert len(steps) <= 1
    assert all(1 <= abs(step) <= stride for step in steps)
    assert d["image"].shape == (1, length, 4, 6)
    assert d["image"][0, :, 0, 0].tolist() == [10.0 * frame for frame in frames]
    whole = StackFramesd()(case(slices))["label"]
    torch.testing.assert_close(d["label"].as_tensor(), whole.as_tensor()[:, frames])
    lesion = any(3 <= frame <= 5 for frame in frames)
    assert d["prompts"] == ({"1": NAMES["1"], "2": NAMES["2"]} if lesion else {"1": NAMES["1"]})
    assert d["absent"] == (["liver", "cyst"] if lesion else ["lesion", "liver", "cyst"])
    assert "shown" not in d


def test_the_same_seed_gives_the_same_clip():
    assert clip(7)["frames"] == clip(7)["frames"]
    found = [tuple(clip(seed, length=4)["frames"]) for seed in range(60)]
    assert {1, 2} == {abs(frames[1] - frames[0]) for frames in found}
    assert 15 <= sum(frames[1] > frames[0] for frames in found) <= 45


def test_structures_appear_or_vanish_as_often_as_asked():
    def changes(frames: list[int]) -> bool:
        return 0 < sum(3 <= frame <= 5 for frame in frames) < len(frames)

    def share(probability: float) -> float:
        return float(np.mean([changes(clip(seed, length=3, change_prob=probability)["frames"]) for seed in range(80)]))

    assert share(1.0) == 1.0
    assert 0.4 < share(0.0) < 0.95
    assert share(0.0) < share(0.6) < 1.0


def test_empty_clips_are_as_rare_as_asked():
    def shares(**settings: Any) -> float:
        data = case(30)
        data["prompts"] = {"2": ["lesion"]}
        return float(np.mean([not clip(seed, dict(data), length=3, **settings)["prompts"] for seed in range(80)]))

    assert shares() == 0.0
    assert shares(change_prob=0.0) == 0.0
    assert 0.15 <= shares(empty_prob=0.3) <= 0.45
    assert shares(change_prob=0.0, empty_prob=1.0) == 1.0


def test_where_nothing_changes_or_nothing_is_shown_there_still_is_a_clip():
    data = case()
    data["prompts"] = {"1": ["vessels"]}
    assert clip(0, data, change_prob=1.0)["prompts"] == {"1": ["vessels"]}
    data = case()
    data["prompts"] = {"5": ["liver"]}
    d = clip(0, data, change_prob=1.0)
    assert d["prompts"] == {}
    assert d["absent"] == ["liver", "cyst"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": MetaTensor(torch.zeros(1, 6, 4))}, "doesn't fit|don't fit"),
        ({"label": volume(np.zeros((6, 4, 9), np.uint8))}, r"image \(case.nii.gz\) and label .* don't fit: shape"),
        ({"label": MetaTensor(torch.zeros(2, 6, 4, 10))}, "2 channels; give one of label values"),
    ],
)
def test_what_can_t_be_stacked_is_named(change, words):
    with pytest.raises(DataError, match=words):
        StackFramesd()({**case(), **change})


def test_a_picture_is_no_clip():
    with pytest.raises(DataError, match="image is a picture; clips are made of volumes and cines"):
        StackFrames()(MetaTensor(torch.zeros(1, 6, 4)))


def test_a_short_volume_is_named():
    with pytest.raises(DataError, match=r"image \(case.nii.gz\) has 3 slices; a clip needs 4, so lower clip_length"):
        clip(0, case(3), length=4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"length": 0}, "clip_length is 0"),
        ({"stride": True}, "clip_stride is True"),
        ({"length": 2.5}, "clip_length is 2.5"),
        ({"change_prob": 0.8, "empty_prob": 0.3}, "add up to at most 1"),
        ({"change_prob": -0.1}, "change_prob is -0.1"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        RandClipd(**settings)
