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

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_sa2va.data.datalist import SECTIONS, load_datalist
from monai_sa2va.data.phantom_scene import STRUCTURES
from monai_sa2va.data.phantom_stacks import STACK_LOOKS, make_stack
from monai_sa2va.data.phantoms import LABEL_VALUES, SYNONYMS, make_phantom, write_phantoms
from monai_sa2va.data.read_image import read_image
from monai_sa2va.data.slices import expand_slices
from monai_sa2va.errors import ConfigError
from monai_sa2va.transforms.geometry import PlaneGeometry

EVERY = [(kind, look) for kind in ("volume", "cine") for look in ("fundus", "ct", "ultrasound")]


@pytest.fixture(scope="module")
def many():
    return {(kind, look): [make_stack(seed, kind, look, 64) for seed in range(4)] for kind, look in EVERY}


def runs(there: np.ndarray) -> int:
    """Number of unbroken runs of true values."""
    return int(there[0]) + int((~there[:-1] & there[1:]).sum())


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    which=st.sampled_from(EVERY),
    size=st.sampled_from([32, 48]),
    slices=st.integers(8, 12),
)
def test_stack_is_whole_and_repeatable(seed, which, size, slices):
    kind, look = which
    stack, again = make_stack(seed, kind, look, size, slices), make_stack(seed, kind, look, size, slices)
    np.testing.assert_array_equal(stack.image, again.image)
    np.testing.assert_array_equal(stack.label, again.label)
    assert stack.spacing == again.spacing
    assert stack.image.shape == stack.label.shape == (slices, size, size)
    assert stack.image.dtype == stack.label.dtype == np.uint8
    family = STRUCTURES[look]
    assert set(stack.names) | set(stack.absent) == set(family)
    assert not set(stack.names) & set(stack.absent)
    assert set(np.unique(stack.label)) <= {0, *(LABEL_VALUES[name] for name in family)}
    assert (stack.frame_seconds is None) == (kind == "volume")


def test_areas_of_a_volume_and_a_cine_stay_what_they_are():
    # Published figures rest on these; rounding may differ between machines by a pixel or two, the drawing may not.
    volume = make_stack(1, "volume", "ct")
    assert [int((plane == 6).sum()) for plane in volume.label[::4]] == pytest.approx([0, 0, 336, 519, 523, 380], abs=4)
    cine = make_stack(2, "cine", "ultrasound")
    areas = [int((plane == 9).sum()) for plane in cine.label]
    assert areas[9:16] == pytest.approx([0, 237, 275, 285, 297, 282, 0], abs=4)
    assert areas[:10] + areas[15:] == [0] * 19


def test_seeds_kinds_and_looks_differ_from_each_other_and_from_the_single_image():
    stacks = [make_stack(seed, kind, look, 32, 8) for seed in range(3) for kind, look in EVERY]
    assert len({stack.image.tobytes() for stack in stacks}) == 18
    single = make_phantom(0, "ct", 32).image[..., 0]
    assert not any((plane == single).all() for stack in stacks for plane in stack.image)


@pytest.mark.parametrize("which", EVERY)
def test_structures_begin_and_end_smoothly(many, which):
    kind = which[0]
    for stack in many[which]:
        assert "vessels" in stack.names
        changing = 0
        for name in stack.names:
            areas = np.array([(plane == LABEL_VALUES[name]).sum() for plane in stack.label], dtype=float)
            there = areas > 0
            changing += not there.all()
            if name in ("cyst", "nodule") and kind == "volume":
                assert there.sum() <= 13
                assert runs(there) == 1
            if name in ("lesion", "cyst", "nodule") and kind == "volume":
                assert 1 <= there.sum() < 24
            # from slice to slice what is there changes by less than half of the largest area, but at its ends
            inner = there[:-1] & there[1:]
            if name not in ("lesion", "kidney"):  # they have several parts, which begin on their own
                assert np.abs(np.diff(areas))[inner].max(initial=0) <= 0.5 * areas.max(), (name, areas)
        assert changing >= 1


def test_neighbouring_slices_are_alike_and_their_grain_is_not(many):
    for stacks in many.values():
        for stack in stacks[:2]:
            near = np.mean(stack.label[1:] == stack.label[:-1])
            far = np.mean(stack.label[12:] == stack.label[:12])
            assert near > 0.96
            assert near > far
            assert not (stack.image[1:] == stack.image[:-1]).all()


@pytest.mark.parametrize("which", EVERY)
def test_slices_look_like_single_images(many, which):
    """Brightness of the slices and of the structures in them lies where that of single images does."""
    look = which[1]
    grey = {name: [] for name in ("image", *STRUCTURES[look])}
    for seed in range(20):
        phantom = make_phantom(seed, look, 64)
        luminance = phantom.image @ np.array([0.299, 0.587, 0.114])
        grey["image"].append(luminance.mean())
        for name, mask in phantom.masks.items():
            grey[name].append(luminance[mask].mean())
    for stack in many[which]:
        for plane, label in zip(stack.image, stack.label, strict=True):
            found = {"image": plane.mean()}
            found |= {
                n: plane[label == LABEL_VALUES[n]].mean() for n in stack.names if (label == LABEL_VALUES[n]).sum() > 9
            }
            for name, value in found.items():
                assert 0.7 * min(grey[name]) - 5 < value < 1.3 * max(grey[name]) + 5, (name, value)


@pytest.mark.parametrize(("kind", "slices"), [("volume", 10), ("cine", 8)])
def test_written_stacks_keep_spacing_place_and_values(tmp_path, kind, slices):
    datalist = write_phantoms(tmp_path / "set", 5, 7, 48, kind=kind, slices=slices)
    content = json.loads(datalist.read_text())
    assert [len(content[section]) for section in SECTIONS] == [4, 1, 0]
    for seed, entry in enumerate(load_datalist(datalist) + load_datalist(datalist, "validation"), start=7):
        look = STACK_LOOKS[kind][seed % len(STACK_LOOKS[kind])]
        stack = make_stack(seed, kind, look, 48, slices)
        assert entry["image"].endswith(f"images/{look}_{kind}_{seed:06d}.nii.gz")
        assert entry["prompts"] == {str(LABEL_VALUES[name]): list(SYNONYMS[name]) for name in stack.names}
        assert entry["absent"] == list(stack.absent)
        assert entry["foreign"] == [list(SYNONYMS[name]) for name in SYNONYMS if name not in STRUCTURES[look]]
        assert (entry["family"], entry["kind"]) == (look, kind)
        assert entry.get("frame_seconds") == stack.frame_seconds
        for key, planes in (("image", stack.image), ("label", stack.label)):
            nifti = nibabel.load(entry[key])
            assert nifti.shape == (48, 48, slices)
            assert nifti.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(np.asarray(nifti.dataobj).transpose(2, 1, 0), planes)
            np.testing.assert_allclose(nifti.affine, stack.affine, rtol=1e-6)
            np.testing.assert_allclose(nifti.header.get_zooms(), stack.spacing, rtol=1e-6)
            assert nifti.header.get_xyzt_units() == ("mm", "sec")
            assert (b"third axis is time" in nifti.header["descrip"].item()) == (kind == "cine")
        # the middle of the grid lies in the middle of space, x goes to the left, y to the back, z to the head
        np.testing.assert_allclose(stack.affine @ [23.5, 23.5, (slices - 1) / 2, 1], [0, 0, 0, 1], atol=1e-9)
        assert [np.sign(stack.affine[axis, axis]) for axis in range(3)] == [-1, -1, 1]
        # read as a volume, its axial planes are the slices, unturned
        source = read_image(entry["image"])
        geometry = PlaneGeometry.of_volume(source.grid.shape, source.grid.affine)
        np.testing.assert_array_equal(geometry.take(source.pixels.as_tensor(), 3)[0].numpy(), stack.image[3])


def test_slices_of_a_volume_train_like_images(tmp_path):
    entries = load_datalist(
        write_phantoms(tmp_path, 1, 1, 48, ["ct"], kind="volume", slices=12, splits={"training": 1})
    )
    stack = make_stack(1, "volume", "ct", 48, 12)
    expanded = expand_slices(entries)
    assert [entry["slice"] for entry in expanded] == [i for i in range(12) if stack.label[i].any()]
    for entry in expanded:
        held = {str(value) for value in np.unique(stack.label[entry["slice"]]) if value}
        assert set(entry["prompts"]) == held


def test_looks_take_turns():
    assert [make_stack(seed, "volume", size=32, slices=8).look for seed in range(3)] == ["ct", "ultrasound", "ct"]
    assert [make_stack(seed, "cine", size=32, slices=8).look for seed in range(3)] == ["fundus", "ct", "ultrasound"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "film"}, "kind is 'film'; allowed: "),
        ({"kind": "volume", "slices": 7}, "slices is 7; give 8 to 256"),
        ({"kind": "cine", "slices": 257}, "slices is 257; give 8 to 256"),
        ({"kind": "volume", "size": 513}, "size is 513; of a volume give at most 512 pixels"),
        ({"kind": "volume", "size": 8}, "size is 8"),
        ({"kind": "volume", "seed": -1}, "seed is -1"),
        ({"kind": "volume", "looks": ["mri"]}, "look is 'mri'"),
        ({"kind": "volume", "format": "png"}, "format is 'png'; a volume is written as nifti"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(ConfigError, match=words):
        write_phantoms(tmp_path / "new", 1, **arguments)
    assert not (tmp_path / "new").exists()
    if not {"looks", "format"} & set(arguments):
        with pytest.raises(ConfigError, match=words):
            make_stack(**{"seed": 0, **arguments})
