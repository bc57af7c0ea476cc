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

"""Files to pixels, once for all slices of a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose
from PIL import Image

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.transforms.augment import AugmentPlanesd
from monai_sa2va.transforms.intensity import Windowd
from monai_sa2va.transforms.labels import LabelToMasksd
from monai_sa2va.transforms.load import KeepLastd, LoadPixelsd
from monai_sa2va.transforms.planes import ToPlaned


def _volume(folder: Path, name: str) -> str:
    values = np.random.default_rng(len(name)).integers(0, 900, (4, 5, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / name)
    return str(folder / name)


class _Counted(LoadPixelsd):
    """Counts how often it reads."""

    reads = 0

    def __call__(self, data: Any) -> Any:
        self.reads += 1
        return super().__call__(data)


def test_files_keep_their_types(tmp_path: Path) -> None:
    nib.save(
        nib.Nifti1Image(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), np.diag([2.0, 3, 4, 1])), tmp_path / "a.nii"
    )
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "label.png")
    found = LoadPixelsd(["image", "label"])(
        {"image": str(tmp_path / "a.nii"), "label": tmp_path / "label.png", "prompts": {"1": "vessels"}}
    )
    assert found["image"].dtype == torch.uint8
    assert found["image"].tolist() == [[[[0], [1], [2]], [[3], [4], [5]]]]
    assert found["image"].affine.diagonal().tolist() == [2, 3, 4, 1]
    assert found["label"].tolist() == [[[True], [False]]]
    assert found["prompts"] == {"1": "vessels"}


def test_a_list_of_masks_is_stacked(tmp_path: Path) -> None:
    for name, shape in (("a.png", (2, 3)), ("b.png", (2, 3)), ("wide.png", (2, 4)), ("colour.png", (2, 3, 3))):
        Image.fromarray(np.full(shape, 255 * (name != "a.png"), np.uint8)).save(tmp_path / name)
    load = LoadPixelsd("label")
    stacked = load({"label": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]})["label"]
    assert isinstance(stacked, MetaTensor)
    assert stacked.tolist() == [[[0, 0]] * 3, [[255, 255]] * 3]
    for other in ("wide.png", "colour.png"):
        with pytest.raises(DataError, match=rf"label is a list, of which {other} is .* expected \(1, 3, 2\)"):
            load({"label": [str(tmp_path / "a.png"), str(tmp_path / other)]})


def test_a_missing_file_and_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file 'gone\.png' in its folder"):
        LoadPixelsd("image")({"image": str(tmp_path / "gone.png")})
    with pytest.raises(KeyError):
        LoadPixelsd("image")({})
    assert KeepLastd("image", [LoadPixelsd("image", True)], allow_missing_keys=True)({"slice": 1}) == {"slice": 1}


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32])
def test_augmentation_takes_labels_of_any_type(dtype: type) -> None:
    image = torch.full((3, 8, 8), 100.0)
    label = np.zeros((1, 8, 8), dtype)
    label[0, 2:6, 2:6] = 1
    augment = AugmentPlanesd(flip_prob=1.0, affine_prob=1.0, rotate=0.0, scale=0.0)
    entry = {"image": MetaTensor(image), "label": MetaTensor(torch.from_numpy(label)), "prompts": {"1": ["vessels"]}}
    masks = LabelToMasksd()(augment(entry))[Keys.MASKS]
    assert masks.dtype == torch.uint8
    assert masks.tolist() == label.astype(int).tolist()


def test_a_volume_is_read_once_for_all_its_slices(tmp_path: Path) -> None:
    first, second = _volume(tmp_path, "a.nii"), _volume(tmp_path, "bb.nii")
    load = _Counted("image")
    keep = KeepLastd("image", [load, Windowd("image", "percentile")])
    entries = [{"image": path, "slice": index, "id": index} for path in (first, second) for index in range(6)]
    cached = CacheDataset(entries, Compose([keep, ToPlaned("image", "axial")]), progress=False, num_workers=1)
    assert load.reads == 2
    for entry, found in zip(entries, cached, strict=True):
        alone = ToPlaned("image", "axial")(Windowd("image", "percentile")(LoadPixelsd("image")(entry)))
        assert found["id"] == entry["id"]
        assert torch.equal(found["image"], alone["image"])
        assert torch.equal(found["image"].affine, alone["image"].affine)
        assert found["image"].meta["filename_or_obj"] == entry["image"]
        # a plane of its own: a view would keep its volume in memory
        assert found["image"].untyped_storage().nbytes() == 4 * 5 * 4
    keep(entries[0])
    assert load.reads == 3


def test_other_files_beside_the_same_image_are_read(tmp_path: Path) -> None:
    image, first, second = (_volume(tmp_path, name) for name in ("a.nii", "bb.nii", "ccc.nii"))
    keep = KeepLastd(["image", "label"], [LoadPixelsd(["image", "label"])])
    one = keep({"image": image, "label": first})["label"]
    assert not torch.equal(one, keep({"image": image, "label": second})["label"])


def test_built_from_a_configuration(tmp_path: Path) -> None:
    config = {
        "load": {"_target_": "monai_sa2va.transforms.LoadPixelsDict", "keys": "image"},
        "keep": {"_target_": "monai_sa2va.transforms.KeepLastD", "keys": "image", "transforms": ["@load"]},
    }
    keep = ConfigParser(config).get_parsed_content("keep")
    assert keep({"image": _volume(tmp_path, "a.nii")})["image"].shape == (1, 4, 5, 6)
