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

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.data.pairing import find_images, pair_by_name
from monai_sa2va.errors import DatalistError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def paired(images: Path, masks: Path, **options: str) -> tuple[dict[str, str], dict[str, str]]:
    pairs, left_out = pair_by_name(images, masks, **options)
    return (
        {pair.image.relative_to(images).as_posix(): pair.mask.relative_to(masks).as_posix() for pair in pairs},
        {left.file.name: left.reason for left in left_out},
    )


def test_files_are_found_in_folders_and_upper_case_and_not_hidden(tmp_path):
    touch(tmp_path, "b.PNG", "p1/a.nii.gz", "p1/.cache/c.png", "._b.png", "notes.txt", "z.JPeG")
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "b.PNG",
        "p1/a.nii.gz",
        "z.JPeG",
    ]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a.png"),
        ("A01.JPG", "a01.PNG"),
        ("a.png", "a_mask.png"),
        ("a.png", "a-label.png"),
        ("ISIC_1.jpg", "ISIC_1_Segmentation.png"),
        ("Image_01L.jpg", "Image_01L_1stHO.png"),
        ("21_training.tif", "21_manual1.png"),
        ("t1w.nii.gz", "t1w_seg-manual.nii.gz"),
        ("brain1_image.nrrd", "brain1_label.nrrd"),
        ("liver_001_0000.nii.gz", "liver_001.nii.gz"),
        ("case1.png", "case1_vessels.png"),
        ("case1_t2.nii", "case1.nii"),
        ("p1/s1/001.png", "p1/s1/001.png"),
        ("p1/001.png", "001.png"),
        ("001.png", "p1/001_gt.png"),
        ("p1/image.nii.gz", "p1/mask.nii.gz"),
        ("benign (1).png", "benign (1)_mask.png"),
    ],
)
def test_names_that_belong_together(tmp_path, image, mask):
    images, masks = touch(tmp_path / "i", image, "other9.png"), touch(tmp_path / "m", mask, "other9.png")
    assert paired(images, masks) == ({image: mask, "other9.png": "other9.png"}, {})


@pytest.mark.parametrize(("image", "mask"), [("case1.png", "case10.png"), ("a_b.png", "a_c.png"), ("b.png", "xb.png")])
def test_names_that_do_not_belong_together(tmp_path, image, mask):
    images, masks = touch(tmp_path / "i", image), touch(tmp_path / "m", mask)
    assert paired(images, masks) == ({}, {image: "no mask has its name", mask: "no image has its name"})


def test_the_longest_beginning_wins(tmp_path):
    images = touch(tmp_path / "i", "case_1.png", "case_1_2.png", "case_1_20.png")
    masks = touch(tmp_path / "m", "case_1_2_x.png", "case_1_x.png", "case_1_20_x.png")
    assert paired(images, masks) == (
        {"case_1.png": "case_1_x.png", "case_1_2.png": "case_1_2_x.png", "case_1_20.png": "case_1_20_x.png"},
        {},
    )


def test_the_own_folder_comes_first(tmp_path):
    images = touch(tmp_path / "i", "p1/001.png", "p2/001.png")
    masks = touch(tmp_path / "m", "p1/001.png", "p2/001.png")
    assert paired(images, masks) == ({"p1/001.png": "p1/001.png", "p2/001.png": "p2/001.png"}, {})


def test_two_readers_are_refused_unless_one_is_named(tmp_path):
    images = touch(tmp_path / "i", "a.png")
    masks = touch(tmp_path / "m", "a_1stHO.png", "a_2ndHO.png")
    assert paired(images, masks) == (
        {},
        {
            "a.png": "several masks have its name: a_1stHO.png, a_2ndHO.png",
            "a_1stHO.png": "shares a.png with a_2ndHO.png",
            "a_2ndHO.png": "shares a.png with a_1stHO.png",
        },
    )
    assert paired(images, masks, mask_suffix="_2ndHO") == ({"a.png": "a_2ndHO.png"}, {})


def test_one_mask_of_two_images_is_refused(tmp_path):
    images = touch(tmp_path / "i", "a.png", "a.jpg", "b.png")
    masks = touch(tmp_path / "m", "a.png", "b.png")
    pairs, left_out = paired(images, masks)
    assert pairs == {"b.png": "b.png"}
    assert left_out["a.jpg"] == "shares a.png with a.png"
    assert sorted(left_out) == ["a.jpg", "a.png"]


def test_one_folder_may_hold_both(tmp_path):
    touch(tmp_path, "a.png", "a_mask.png", "b.png", "b_mask.png", "c.png")
    pairs = {"a.png": "a_mask.png", "b.png": "b_mask.png"}
    assert paired(tmp_path, tmp_path) == (pairs, {"c.png": "no mask has its name"})


def test_masks_inside_the_images_folder_are_no_images(tmp_path):
    touch(tmp_path, "a.png", "masks/a.png")
    assert paired(tmp_path, tmp_path / "masks") == ({"a.png": "a.png"}, {})
    assert paired(tmp_path / "masks", tmp_path) == ({"a.png": "a.png"}, {})


def test_folders_without_files_are_named(tmp_path):
    images = touch(tmp_path / "i", "a.png")
    with pytest.raises(DatalistError, match="none does not exist"):
        pair_by_name(images, tmp_path / "none")
    (tmp_path / "m").mkdir()
    with pytest.raises(DatalistError, match=r"m holds no mask; known kinds: \.png"):
        pair_by_name(images, tmp_path / "m")
    with pytest.raises(DatalistError, match="m holds no image"):
        pair_by_name(tmp_path / "m", images)
    with pytest.raises(DatalistError, match="holds no mask ending in '_x'"):
        pair_by_name(images, touch(tmp_path / "n", "a.png"), mask_suffix="_x")


_name = st.lists(st.sampled_from(["a", "b1", "case", "mask", "seg"]), min_size=1, max_size=3).map("_".join)


@given(images=st.sets(_name, min_size=1, max_size=8), masks=st.sets(_name, min_size=1, max_size=8))
def test_every_file_is_paired_once_or_has_its_reason(tmp_path_factory, images, masks):
    root = tmp_path_factory.mktemp("pairs")
    touch(root / "i", *(f"{name}.png" for name in images))
    touch(root / "m", *(f"{name}.png" for name in masks))
    pairs, left_out = pair_by_name(root / "i", root / "m")
    files = [pair.image for pair in pairs] + [pair.mask for pair in pairs] + [left.file for left in left_out]
    assert len(files) == len(set(files)) == len(images) + len(masks)
    assert {pair.name for pair in pairs} >= images & masks
