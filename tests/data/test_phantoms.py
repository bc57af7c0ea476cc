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

import json
import os

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt

from monai_sa2va.data import phantoms as module
from monai_sa2va.data.datalist import SECTIONS, load_datalist
from monai_sa2va.data.phantom_looks import LOOKS
from monai_sa2va.data.phantom_scene import STRUCTURES
from monai_sa2va.data.phantoms import LABEL_VALUES, SYNONYMS, make_phantom, write_phantoms
from monai_sa2va.errors import ConfigError, OutputError

LOOK_NAMES = ("fundus", "ct", "ultrasound")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.fixture(scope="module")
def many():
    return [make_phantom(seed) for seed in range(240)]


def test_names_and_values_are_consistent():
    assert LABEL_VALUES == {
        "vessels": 1,
        "lesion": 2,
        "optic disc": 3,
        "macula": 4,
        "liver": 5,
        "kidney": 6,
        "spine": 7,
        "cyst": 8,
        "nodule": 9,
    }
    assert {name for names in STRUCTURES.values() for name in names} == set(SYNONYMS)
    assert tuple(LOOKS) == LOOK_NAMES
    phrases = [phrase for synonyms in SYNONYMS.values() for phrase in synonyms]
    assert len(set(phrases)) == len(phrases)
    for name, synonyms in SYNONYMS.items():
        assert synonyms[0] == name
        assert 2 <= len(synonyms) <= 4


@given(seed=st.integers(0, 2**31), look=st.sampled_from([*LOOK_NAMES, None]), size=st.sampled_from([32, 96, 128]))
def test_phantom_is_whole_and_repeatable(seed, look, size):
    phantom = make_phantom(seed, look, size)
    again = make_phantom(seed, look, size)
    np.testing.assert_array_equal(phantom.image, again.image)
    np.testing.assert_array_equal(phantom.label, again.label)
    assert phantom.look == (look or LOOK_NAMES[seed % 3])
    assert phantom.image.shape == (size, size, 3)
    assert phantom.image.dtype == np.uint8
    assert phantom.label.dtype == np.uint8
    assert sum(mask.astype(int) for mask in phantom.masks.values()).max() == 1  # disjoint
    assert set(phantom.masks) | set(phantom.absent) == set(STRUCTURES[phantom.look])
    assert not set(phantom.masks) & set(phantom.absent)
    for name, mask in phantom.masks.items():
        np.testing.assert_array_equal(phantom.label == LABEL_VALUES[name], mask)
        assert mask.dtype == np.bool_
        assert mask.any()


def test_seeds_and_looks_give_different_images():
    images = {make_phantom(seed, look).image.tobytes() for seed in range(5) for look in LOOK_NAMES}
    assert len(images) == 15


@pytest.mark.parametrize(
    ("look", "areas"),
    [
        ("fundus", {"macula": 273, "vessels": 1021}),
        ("ct", {"lesion": 261, "vessels": 602, "kidney": 533, "spine": 285}),
        ("ultrasound", {"cyst": 263, "nodule": 289, "vessels": 845}),
    ],
)
def test_seed_seven_stays_what_it_is(look, areas):
    # Published figures rest on these images; rounding may differ between machines by a pixel, the drawing may not.
    found = {name: int(mask.sum()) for name, mask in make_phantom(7, look).masks.items()}
    assert found == pytest.approx(areas, abs=3)


@pytest.mark.parametrize("look", LOOK_NAMES)
def test_structures_are_the_same_at_every_size(look):
    for seed in range(4):
        small, large = make_phantom(seed, look, 128), make_phantom(seed, look, 256)
        assert list(small.masks) == list(large.masks)
        for name, mask in small.masks.items():
            assert dice(mask.repeat(2, 0).repeat(2, 1), large.masks[name]) > 0.85, (seed, name)


def test_grey_looks_are_grey_and_the_fundus_is_red():
    for look in ("ct", "ultrasound"):
        image = make_phantom(3, look).image
        np.testing.assert_array_equal(image[..., 0], image[..., 2])
    red, green, blue = make_phantom(3, "fundus").image.reshape(-1, 3).mean(0)
    assert red > 1.3 * green > 1.3 * blue


def test_images_hold_several_structures_and_lack_some(many):
    for look in LOOK_NAMES:
        chosen = [phantom for phantom in many if phantom.look == look]
        assert len(chosen) == 80
        for name in STRUCTURES[look]:
            missing = sum(name in phantom.absent for phantom in chosen)
            assert missing == 0 if name == "vessels" else 0.08 <= missing / 80 <= 0.33, (look, name)
    assert all(len(phantom.masks) >= 2 for phantom in many)


def test_vessels_are_two_to_eight_pixels_wide(many):
    for phantom in many[:60]:
        radius = distance_transform_edt(phantom.masks["vessels"])
        # half a pixel belongs to the border, and where a vessel splits the widths add up
        assert 2 * np.percentile(radius[radius > 0], 99) - 1 <= 10
        assert radius.max() >= 2


def test_borders_can_be_seen(many):
    """Each structure differs from its surroundings in brightness, by eye and so by number."""
    behind = (0, LABEL_VALUES["liver"])  # what other structures lie on
    weak = []
    for phantom in many[:90]:
        grey = phantom.image.astype(float).mean(2)
        for name, mask in phantom.masks.items():
            around = binary_dilation(mask, iterations=3) & ~mask & np.isin(phantom.label, behind)
            contrast = abs(grey[mask].mean() - grey[around].mean()) / (grey[mask].mean() + grey[around].mean())
            if contrast < 0.05:
                weak.append((phantom.look, phantom.seed, name, round(float(contrast), 3)))
    assert weak == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0, "look": "mri"}, "look is 'mri'; known looks: fundus, ct, ultrasound"),
        ({"seed": 0, "size": 31}, "size is 31; give 32 to 4096 pixels"),
        ({"seed": 0, "size": 4097}, "size is 4097; give 32 to 4096 pixels"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ConfigError, match=words):
        make_phantom(**arguments)


def test_written_png_hold_the_phantoms(tmp_path):
    datalist = write_phantoms(tmp_path / "deep" / "set", count=10, seed=40, size=64)
    assert datalist == tmp_path / "deep" / "set" / "datalist.json"
    assert sorted(os.listdir(datalist.parent)) == ["datalist.json", "images", "labels"]
    content = json.loads(datalist.read_text())
    assert content["licence"] == "Apache-2.0"
    assert content["labels"]["0"] == "background"
    assert content["labels"]["3"] == "optic disc"
    assert [len(content[section]) for section in SECTIONS] == [8, 1, 1]
    entries = [entry for section in SECTIONS for entry in content[section]]
    for seed, entry in enumerate(entries, start=40):
        phantom = make_phantom(seed, size=64)
        assert entry["image"] == f"images/{phantom.look}_{seed:06d}.png"
        image = Image.open(datalist.parent / entry["image"])
        assert image.mode == ("RGB" if phantom.look == "fundus" else "L")
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), phantom.image)
        np.testing.assert_array_equal(np.asarray(Image.open(datalist.parent / entry["label"])), phantom.label)
        assert entry["prompts"] == {str(LABEL_VALUES[name]): list(SYNONYMS[name]) for name in phantom.masks}
        assert list(entry["prompts"]) == sorted(entry["prompts"])
        assert entry["absent"] == list(phantom.absent)


def test_written_nifti_are_x_first_in_millimetres(tmp_path):
    datalist = write_phantoms(tmp_path, count=3, seed=9, size=48, format="nifti")
    for seed, entry in zip(
        (9, 10, 11),
        load_datalist(datalist)
        + load_datalist(datalist, "validation", optional=True)
        + load_datalist(datalist, "testing", optional=True),
        strict=True,
    ):
        phantom = make_phantom(seed, size=48)
        image, label = nibabel.load(entry["image"]), nibabel.load(entry["label"])
        assert image.shape == label.shape == (48, 48)
        assert image.get_data_dtype() == label.get_data_dtype() == np.uint8
        for nifti in (image, label):
            np.testing.assert_array_equal(nifti.affine, np.diag([-1, -1, 1, 1]))
            assert nifti.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(np.asarray(label.dataobj).T, phantom.label)
        luminance = phantom.image @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(np.asarray(image.dataobj).T, luminance, atol=1.0)


def test_datalist_can_be_loaded(tmp_path):
    datalist = write_phantoms(tmp_path, count=5, size=32, looks=["ct"])
    entries = load_datalist(datalist)
    assert len(entries) == 4
    assert all("ct_" in entry["image"] for entry in entries)


@pytest.mark.parametrize(
    ("count", "splits", "expected"),
    [
        (10, None, [8, 1, 1]),
        (320, None, [256, 32, 32]),
        (7, {"testing": 1.0}, [0, 0, 7]),
        (7, {"testing": 1}, [0, 0, 7]),
        (3, {"training": 0.5, "validation": 0.5}, [2, 1, 0]),
        (1, None, [1, 0, 0]),
    ],
)
def test_sections_get_their_share(count, splits, expected):
    sections = module._sections(count, splits or module.DEFAULT_SPLITS)
    assert [sections.count(name) for name in SECTIONS] == expected
    assert sections == sorted(sections, key=SECTIONS.index)


@given(count=st.integers(1, 500), first=st.integers(0, 100), second=st.integers(0, 100))
def test_every_image_has_one_section(count, first, second):
    training, validation = first / 100, (100 - first) * second / 1e4
    splits = {"training": training, "validation": validation, "testing": 1 - training - validation}
    sections = module._sections(count, splits)
    assert len(sections) == count
    assert sections.count("training") == pytest.approx(count * training, abs=0.51)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count is 0"),
        ({"seed": -3}, "seed is -3"),
        ({"size": 8}, "size is 8"),
        ({"size": 100_000}, "size is 100000"),
        ({"looks": []}, "looks is empty"),
        ({"looks": ["ct", "pet"]}, "look is 'pet'"),
        ({"format": "tiff"}, "format is 'tiff'; allowed: png, nifti"),
        ({"splits": {"train": 1.0}}, "splits names 'train'; allowed: training, validation, testing"),
        ({"splits": {"training": 0.5}}, "add up to 1"),
        ({"splits": {"training": 1.5, "testing": -0.5}}, "add up to 1"),
        ({"splits": {"training": float("nan")}}, "add up to 1"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(ConfigError, match=words):
        write_phantoms(tmp_path / "new", **{"count": 2, **arguments})
    assert not (tmp_path / "new").exists()


def test_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        write_phantoms(tmp_path, count=1, size=32)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_folder_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(OutputError, match=r"can't be written to folder .*file: Not a directory"):
        write_phantoms(path, count=1, size=32)


@pytest.mark.parametrize("existed", [True, False])
def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, existed):
    folder = tmp_path / "set"
    if existed:
        folder.mkdir()
    real = make_phantom

    def stop_at_the_third(seed, *rest):
        if seed == 2:
            raise KeyboardInterrupt
        return real(seed, *rest)

    monkeypatch.setattr(module, "make_phantom", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(folder, count=4, size=32)
    assert folder.exists() is existed
    assert not existed or not list(folder.iterdir())
