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
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Compose
from PIL import Image

from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.slices import expand_slices
from monai_sa2va.errors import ConfigError, DatalistError
from monai_sa2va.transforms.load import LoadPixelsd
from monai_sa2va.transforms.planes import ToPlaned

LPS = np.diag([-1.0, -1.0, 2.0, 1.0])


def volume(folder: Path, label: np.ndarray, affine: np.ndarray = LPS, name: str = "v") -> dict[str, object]:
    for kind, data in (("image", np.zeros(label.shape, dtype=np.int16)), ("label", label.astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(data, affine), folder / f"{name}_{kind}.nii.gz")
    return {
        "image": str(folder / f"{name}_image.nii.gz"),
        "label": str(folder / f"{name}_label.nii.gz"),
        "prompts": {"1": ["vessels", "blood vessels"], "2": ["tumour"]},
        "absent": ["stent"],
        "id": 7,
    }


@pytest.fixture
def label() -> np.ndarray:
    """(3, 4, 6): vessels in slices 1 to 4, tumour in 3, something without a name in 5."""
    values = np.zeros((3, 4, 6))
    values[0, 0, 1:5] = 1
    values[2, 3, 3] = 2
    values[1, 1, 5] = 9
    return values


def test_labelled_slices_hold_what_they_show(tmp_path, label):
    entry = volume(tmp_path, label)
    before = repr(entry)
    slices = expand_slices([entry])
    assert [piece["slice"] for piece in slices] == [1, 2, 3, 4]
    assert [sorted(piece["prompts"]) for piece in slices] == [["1"], ["1"], ["1", "2"], ["1"]]
    assert [piece["absent"] for piece in slices] == [["tumour", "stent"]] * 2 + [["stent"], ["tumour", "stent"]]
    assert slices[0]["prompts"] == {"1": ["vessels", "blood vessels"]}
    assert all(piece["id"] == 7 and piece["image"] == entry["image"] for piece in slices)
    assert repr(entry) == before


def test_all_slices_and_every_second(tmp_path, label):
    entry = volume(tmp_path, label)
    everything = expand_slices([entry], keep="all")
    assert [piece["slice"] for piece in everything] == [0, 1, 2, 3, 4, 5]
    assert everything[5]["prompts"] == {}
    assert everything[5]["absent"] == ["vessels", "tumour", "stent"]
    assert [piece["slice"] for piece in expand_slices([entry, entry], every=2)] == [1, 3, 1, 3]


def test_other_planes(tmp_path, label):
    entry = volume(tmp_path, label)
    assert [piece["slice"] for piece in expand_slices([entry], axis="sagittal")] == [0, 2]
    assert [piece["slice"] for piece in expand_slices([entry], axis="coronal")] == [0, 3]
    assert [piece["slice"] for piece in expand_slices([entry], axis=1)] == [0, 3]


def test_auto_slices_across_thick_voxels(tmp_path, label):
    thick = np.diag([-1.0, -3.0, 2.0, 1.0])
    slices = expand_slices([volume(tmp_path, label, thick)])
    assert [piece["slice"] for piece in slices] == [0, 3]
    assert [sorted(piece["prompts"]) for piece in slices] == [["1"], ["2"]]


def test_a_single_slice_is_one_entry_however_it_lies(tmp_path):
    """A coronal radiograph: along the file's z it is an entry like a picture's, else it has slice 0."""
    coronal = np.array([[-0.2, 0, 0, 0], [0, 0, 1, 0], [0, 0.2, 0, 0], [0, 0, 0, 1]])
    values = np.zeros((5, 4, 1))
    values[1, 2] = 1
    load = Compose([LoadPixelsd(["image", "label"]), ToPlaned(["image", "label"])])
    for name, entry in (
        ("z", volume(tmp_path, values, coronal, "z")),
        ("y", volume(tmp_path, values.swapaxes(1, 2), coronal[:, [0, 2, 1, 3]], "y")),
    ):
        (piece,) = expand_slices([entry])
        assert ("slice" in piece) == (name == "y")
        plane = load(piece)["label"]
        # rows from the head to the feet
        assert plane.shape == (1, 4, 5)
        assert np.argwhere(np.asarray(plane[0])).tolist() == [[1, 1]]


def test_pictures_stay_and_volumes_without_label_give_all(tmp_path, label):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    picture = {"image": str(tmp_path / "a.png"), "prompts": {"1": ["vessels"]}}
    entry = {key: value for key, value in volume(tmp_path, label).items() if key != "label"}
    slices = expand_slices([picture, entry], keep="all")
    assert slices[0] == picture
    assert [piece["slice"] for piece in slices[1:]] == [0, 1, 2, 3, 4, 5]
    assert slices[3]["prompts"] == entry["prompts"]


def test_255_is_the_foreground_of_a_label_without_other_values(tmp_path, label):
    entry = volume(tmp_path, np.where(label == 1, 255, 0))
    assert [piece["slice"] for piece in expand_slices([entry])] == [1, 2, 3, 4]
    entry["prompts"] = {"255": ["vessels"]}
    assert [piece["slice"] for piece in expand_slices([entry])] == [1, 2, 3, 4]


def test_a_volume_without_any_slice_is_warned_of(tmp_path, label, caplog):
    assert expand_slices([{**volume(tmp_path, label), "prompts": {"4": ["cyst"]}}]) == []
    (message,) = caplog.messages
    assert message.endswith("v_image.nii.gz: its label holds no value that a prompt names, so no slice is kept")


def test_what_can_not_be_sliced_is_named(tmp_path, label):
    entry = volume(tmp_path, label)
    unlabelled = {key: value for key, value in entry.items() if key != "label"}
    other = volume(tmp_path, label[:, :, :5], name="w")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 6, 2)), LPS), tmp_path / "t.nii")
    for bad, message in (
        (unlabelled, r"v_image\.nii\.gz: give one label file, not none"),
        ({**entry, "label": [entry["label"]]}, "give one label file, not a list;"),
        (
            {**entry, "label": other["label"]},
            r"label .*w_label\.nii\.gz doesn't fit: shape 3 x 4 x 6 of the image is not",
        ),
        ({**entry, "image": str(tmp_path / "t.nii")}, r"t\.nii: has 4 axes and an orientation"),
    ):
        with pytest.raises(DatalistError, match=message):
            expand_slices([bad])
    with pytest.raises(ConfigError, match="keep is 'some'"):
        expand_slices([entry], keep="some")
    with pytest.raises(ConfigError, match="every is 0"):
        expand_slices([entry], every=0)
    with pytest.raises(ConfigError, match="axis is 'oblique'"):
        expand_slices([entry], axis="oblique")


@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    axis=st.sampled_from(["auto", "axial", "coronal", "sagittal"]),
    seed=st.integers(0, 99),
)
def test_the_transform_takes_the_slice_that_was_meant(tmp_path_factory, order, signs, axis, seed):
    """Whatever the orientation of the file: a slice's entry names a value exactly where ToPlaned's slice shows it."""
    values = np.random.default_rng(seed).choice(4, size=(3, 4, 5), p=[0.9, 0.04, 0.03, 0.03])
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs)[:, order]
    entry = volume(tmp_path_factory.mktemp("volume"), values, affine)
    load = Compose([LoadPixelsd(["image", "label"]), ToPlaned(["image", "label"], axis=axis)])
    slices = expand_slices([entry], axis=axis, keep="all")
    seen = [sorted(set(np.unique(np.asarray(load(piece)["label"])).astype(int)) & {1, 2}) for piece in slices]
    assert [sorted(map(int, piece["prompts"])) for piece in slices] == seen
    assert sum(len(values) > 0 for values in seen) == len(expand_slices([entry], axis=axis))


def test_real_volumes(data_dir, tmp_path):
    sct = data_dir / "nifti" / "sct"
    training = [{"image": f"{name}.nii.gz", "label": f"{name}_seg-manual.nii.gz"} for name in ("t2", "t1w")]
    (tmp_path / "d.json").write_text(json.dumps({"prompts": {"1": "spinal cord"}, "training": training}))
    slices = expand_slices(load_datalist(tmp_path / "d.json", base_dir=sct), every=10)
    assert [Path(piece["image"]).name for piece in slices] == ["t2.nii.gz"] * 6 + ["t1w.nii.gz"] * 8
