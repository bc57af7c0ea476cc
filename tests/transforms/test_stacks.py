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

"""All planes of a volume and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy
from monai.data import MetaTensor

from monai_sa2va.errors import DataError
from monai_sa2va.transforms.planes import ToPlane
from monai_sa2va.transforms.stacks import StackPlanes, StackPlanesd


@given(data=st.data())
def test_stack_and_back(data: st.DataObject, affines: Strategy, shapes: Strategy, axes: Strategy) -> None:
    affine, shape, axis = (data.draw(strategy) for strategy in (affines, shapes, axes))
    values = torch.arange(2 * int(np.prod(shape))).reshape(2, *shape)
    volume = MetaTensor(values, affine=torch.as_tensor(affine))
    transform = StackPlanesd("image", axis)
    planes = transform({"image": volume})["image"]
    back = transform.inverse({"image": planes})["image"]
    assert torch.equal(back.as_tensor(), values)
    np.testing.assert_array_equal(back.affine.numpy(), affine)
    # the affine places (row, column, slice)
    d, _, h, w = planes.shape
    voxel = (values[0] == int(planes[d - 1, 0, h - 1, w - 1])).nonzero()[0].tolist()
    np.testing.assert_allclose(planes.affine.numpy() @ [h - 1, w - 1, d - 1, 1], affine @ [*voxel, 1], atol=1e-9)


def test_slices_keep_the_sources_order() -> None:
    values = torch.arange(24).reshape(1, 2, 3, 4)
    volume = MetaTensor(values, affine=torch.diag(torch.tensor([-1.0, -1.0, -1.0, 1.0])))
    planes = StackPlanes()(volume)
    assert planes[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    # the same slice, counted in LPS order
    assert torch.equal(planes[0].as_tensor(), ToPlane(index=3)(volume).as_tensor())


def test_masks_of_several_objects_go_back() -> None:
    volume = MetaTensor(torch.zeros(1, 2, 3, 4), affine=torch.eye(4))
    transform = StackPlanes("sagittal")
    planes = transform(volume)
    assert planes.shape == (2, 1, 4, 3)
    masks = MetaTensor(torch.zeros(2, 5, 4, 3, dtype=torch.bool)).copy_meta_from(planes)
    masks[1, 4, 0, 0] = True
    # top row: superior; first column: anterior; both are the last of a RAS volume
    assert transform.inverse(masks).nonzero().tolist() == [[4, 1, 2, 3]]


def test_a_picture_is_a_stack_of_one() -> None:
    transform = StackPlanes()
    planes = transform(torch.arange(6).reshape(1, 3, 2))
    assert planes.tolist() == [[[[0, 2, 4], [1, 3, 5]]]]
    assert transform.inverse(planes).shape == (1, 3, 2)


def test_missing_slices_are_refused() -> None:
    transform = StackPlanes()
    planes = transform(MetaTensor(torch.zeros(1, 2, 3, 4), affine=torch.eye(4)))
    with pytest.raises(DataError, match="planes has 3 slices, but its source has 4"):
        transform.inverse(MetaTensor(torch.zeros(3, 1, 3, 2)).copy_meta_from(planes))
    with pytest.raises(DataError, match="without an affine"):
        transform(torch.zeros(1, 2, 3, 4))
