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

"""ToPlane and ToPlaned: from files as MONAI loads them to planes, and masks back."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch, list_data_collate, set_track_meta
from monai.transforms import Compose, Invertd, LoadImaged
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.planes import ToPlane, ToPlaned


def _volume(shape: tuple[int, ...], affine: np.ndarray) -> MetaTensor:
    values = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.int32)
    return MetaTensor(values.reshape(shape), affine=torch.as_tensor(affine))


@given(data=st.data())
def test_plane_and_back(data: st.DataObject, affines: Strategy, shapes: Strategy, axes: Strategy) -> None:
    affine, shape, axis = (data.draw(strategy) for strategy in (affines, shapes, axes))
    volume = _volume((1, *shape), affine)
    transform = ToPlane(axis, "middle")
    plane = transform(volume)
    back = transform.inverse(plane)
    kept = back != 0
    assert back.shape == volume.shape
    assert back.dtype == torch.int32
    assert torch.equal(back[kept], volume[kept])
    assert int(kept.sum()) == plane.numel()
    np.testing.assert_array_equal(back.affine.numpy(), affine)
    assert not back.applied_operations
    # the world place of a pixel is that of its voxel
    row, column = (data.draw(st.integers(0, n - 1)) for n in plane.shape[1:])
    voxel = (volume[0] == plane[0, row, column]).nonzero()[0].tolist()
    np.testing.assert_allclose(plane.affine.numpy() @ [row, column, 0, 1], affine @ [*voxel, 1], atol=1e-9)


def test_a_slice_and_a_picture_of_it_look_the_same(tmp_path: Path) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(shown).save(tmp_path / "a.png")
    # RAS: x runs against the columns, y against the rows
    nib.save(nib.Nifti1Image(shown.T[::-1, ::-1, None].copy(), np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.nii.gz")
    load = Compose([LoadImaged("image", ensure_channel_first=True), ToPlaned("image")])
    for name in ("a.png", "a.nii.gz"):
        plane = load({"image": str(tmp_path / name)})["image"]
        np.testing.assert_array_equal(plane[0], shown)
        assert plane.meta["filename_or_obj"].endswith(name)


def test_predictions_go_back_onto_the_volume_after_collation(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 6], [0, 1.0, 0, 7], [0, 0, 0, 1]])
    data = np.zeros((4, 5, 6), np.float32)
    data[2, 3, 1] = 9
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "v.nii.gz")
    chain = Compose([LoadImaged("image", ensure_channel_first=True), ToPlaned("image", "coronal", "middle")])
    sample = chain({"image": str(tmp_path / "v.nii.gz")})
    assert sample["slice"] == 2
    sample["pred"] = torch.cat([sample["image"] > 0] * 2)
    [sample] = decollate_batch(list_data_collate([sample]))
    back = Invertd("pred", chain, orig_keys="image", nearest_interp=False, to_tensor=True)(sample)["pred"]
    # P A runs along source axis 0 (affine -1.5: towards posterior), so slice 2 of LPS is source index 2
    assert back.shape == (2, 4, 5, 6)
    assert back.nonzero().tolist() == [[0, 2, 3, 1], [1, 2, 3, 1]]
    np.testing.assert_allclose(back.affine.numpy(), affine)


def test_masks_of_a_picture_go_back_to_x_first() -> None:
    transform = ToPlane()
    plane = transform(torch.arange(6).reshape(1, 3, 2))
    masks = torch.cat([plane == 1, plane == 4])
    assert transform.inverse(masks).nonzero().tolist() == [[0, 0, 1], [1, 2, 0]]


def test_largest_follows_the_label_and_the_first_of_equals() -> None:
    image = _volume((1, 2, 2, 4), np.diag([-1.0, -1.0, -1.0, 1.0]))
    label = MetaTensor(torch.zeros(1, 2, 2, 4), affine=image.affine)
    label[0, 0, 0, 1] = label[0, 0, 0, 3] = 1
    d = ToPlaned(["image", "label"], "axial", "largest", label_key="label")({"image": image, "label": label})
    # z runs downwards, so source index 3 is slice 0 in LPS order
    assert d["slice"] == 0
    assert int(d["label"].sum()) == 1
    label[:] = 0
    assert ToPlane(index="largest").find(image, label) == 2


def test_the_entrys_slice_comes_first() -> None:
    image = _volume((1, 2, 2, 4), np.diag([-1.0, -1.0, 1.0, 1.0]))
    d = ToPlaned("image", index="middle")({"image": image, "slice": 3})
    assert torch.equal(d["image"].as_tensor(), image.as_tensor()[..., 3].transpose(1, 2))


def test_pictures_and_volumes_may_share_a_configuration() -> None:
    parser = ConfigParser(
        {"t": {"_target_": "monai_sa2va.transforms.ToPlaneD", "keys": "image", "axis": "sagittal", "index": 0}}
    )
    to_plane = parser.get_parsed_content("t")
    assert to_plane({"image": torch.zeros(3, 4, 5)})["image"].shape == (3, 5, 4)
    assert to_plane({"image": _volume((1, 4, 5, 6), np.eye(4))})["image"].shape == (1, 6, 5)


def test_an_affine_in_lps_space_is_read_as_such() -> None:
    lps, ras = (_volume((1, 2, 3, 4), np.diag([d, d, 1.0, 1.0])) for d in (1.0, -1.0))
    lps.meta["space"] = "LPS"
    assert torch.equal(ToPlane(index=0)(lps).as_tensor(), ToPlane(index=0)(ras).as_tensor())


def test_without_tracking_a_plain_tensor_comes_out() -> None:
    set_track_meta(False)
    try:
        assert type(ToPlane()(torch.zeros(1, 2, 3))) is torch.Tensor
    finally:
        set_track_meta(True)


@pytest.mark.parametrize(
    ("image", "index", "message"),
    [
        (torch.zeros(2, 3), None, r"image has shape \(2, 3\); expected \(C, X, Y\)"),
        (torch.zeros(1, 2, 2, 2), 0, "volume without an affine"),
        (_volume((1, 2, 2, 3), np.eye(4)), None, "has 3 slices along 'axial' and no index"),
        (_volume((1, 2, 2, 3), np.eye(4)), 3, "has no slice 3: its slices along 'axial' are 0 to 2"),
        (_volume((1, 2, 2, 3), np.zeros((4, 4))), 0, "image: the affine is singular"),
        (torch.zeros(1, 2, 3), 1, "has no slice 1"),
    ],
)
def test_bad_images_are_refused(image: torch.Tensor, index: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ToPlaned("image", index=None)({"image": image, **({} if index is None else {"slice": index})})


def test_keys_on_different_grids_are_refused() -> None:
    image = _volume((1, 2, 2, 3), np.eye(4))
    image.meta["filename_or_obj"] = "/somewhere/patient name/ct.nii.gz"
    moved = _volume((1, 2, 2, 3), np.diag([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(DataError, match=r"image \(ct.nii.gz\) and label don't fit") as error:
        ToPlaned(["image", "label"], index=0)({"image": image, "label": moved})
    assert "patient" not in str(error.value)
    with pytest.raises(DataError, match="shape"):
        ToPlaned(["image", "label"], index=0)({"image": image, "label": _volume((1, 2, 2, 4), np.eye(4))})


def test_masks_of_another_size_are_refused() -> None:
    transform = ToPlane()
    plane = transform(torch.zeros(1, 3, 2))
    with pytest.raises(DataError, match="plane is 3 x 3, but its source's plane is 2 x 3"):
        transform.inverse(MetaTensor(torch.zeros(1, 3, 3)).copy_meta_from(plane))


@pytest.mark.parametrize(
    "arguments", [{"axis": "up"}, {"axis": 5}, {"index": -1}, {"index": "last"}, {"index": True}, {"index": "largest"}]
)
def test_bad_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        ToPlaned("image", **arguments)


@pytest.mark.parametrize("bad", [-1, 0.5])
def test_bad_slices_of_an_entry_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="slice of image is"):
        ToPlaned("image")({"image": _volume((1, 2, 2, 3), np.eye(4)), "slice": bad})


def test_largest_needs_the_label() -> None:
    with pytest.raises(DataError, match="has no 'label' beside it"):
        ToPlaned("image", index="largest", label_key="label")({"image": _volume((1, 2, 2, 3), np.eye(4))})


def test_a_missing_key_may_be_allowed() -> None:
    d = ToPlaned(["image", "label"], allow_missing_keys=True)({"image": torch.zeros(1, 2, 3)})
    assert set(d) == {"image"}
