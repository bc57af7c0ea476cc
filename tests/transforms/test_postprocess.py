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

"""Mask logits to masks: the two bilinear steps in numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_sa2va.errors import CheckpointError, ConfigError, DataError
from monai_sa2va.transforms.postprocess import LogitsToMasks, LogitsToMasksd, binarize, upsample_mask_logits


def test_one_step_by_hand() -> None:
    # align_corners=False: 2 -> 4 samples lie at -0.25, 0.25, 0.75, 1.25, cut to the ends
    result = upsample_mask_logits(torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), 4, (4, 4))
    np.testing.assert_allclose(result[0, 0], [0, 1, 3, 4])


def test_the_square_comes_first() -> None:
    low = torch.tensor([[[-1.0, 8.0], [-1.0, 8.0]]])
    # 2 -> 4: -1, 1.25, 5.75, 8; then 4 -> 2 halves: means of neighbours
    np.testing.assert_allclose(upsample_mask_logits(low, 4, (2, 2))[0, 0], [0.125, 6.875])
    # straight to 2 x 2 the logit would have stayed -1
    assert binarize(upsample_mask_logits(low, 4, (2, 2)))[0, 0].tolist() == [True, True]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.floats(-50, 50, width=32))
def test_a_constant_stays_one(height: int, width: int, objects: int, value: float) -> None:
    result = upsample_mask_logits(torch.full((objects, 4, 4), value), 16, (height, width))
    assert result.shape == (objects, height, width)
    torch.testing.assert_close(result, torch.full_like(result, value))


def test_zero_is_background_and_half_precision_works() -> None:
    assert binarize(torch.tensor([-0.1, 0.0, 0.1])).tolist() == [False, False, True]
    with pytest.raises(CheckpointError, match="mask logits are NaN: the weights hold NaN, or overflow in their type"):
        binarize(torch.tensor([0.1, float("nan")]))
    low = torch.tensor([[[-1.0, 1.0]]], dtype=torch.bfloat16)
    assert upsample_mask_logits(low, 8, (3, 5)).dtype == torch.bfloat16


def test_dictionary_form_takes_the_size_of_the_image() -> None:
    d = {"image": torch.zeros(3, 5, 7), "pred_masks": MetaTensor(torch.ones(2, 4, 4))}
    result = LogitsToMasksd(sam_size=16)(d)["pred_masks"]
    assert result.shape == (2, 5, 7)
    assert result.dtype == torch.bool
    assert bool(result.all())
    assert LogitsToMasks(8)(torch.ones(1, 2, 2)).shape == (1, 8, 8)


def test_against_the_reference(oracle_dir: object) -> None:
    from safetensors.torch import load_file

    case = load_file(f"{oracle_dir}/internvl_qwen2/image_1seg.safetensors")
    height, width = case["image"].shape[:2]
    logits = upsample_mask_logits(case["low_res_logits_cond"][:, 0], 256, (height, width))
    torch.testing.assert_close(logits, case["mask_logits_final"][:, 0].float(), rtol=1e-3, atol=3e-2)
    assert torch.equal(binarize(logits), case["masks"][:, 0].bool())


@pytest.mark.parametrize(
    ("logits", "size", "message"),
    [
        (torch.zeros(4, 4), (2, 2), r"shape \(4, 4\)"),
        (torch.zeros(1, 4, 4, dtype=torch.int32), (2, 2), "int32; expected"),
        (torch.zeros(1, 4, 0), (2, 2), "expected"),
        (torch.zeros(1, 4, 4), (0, 2), "0 x 2 pixels"),
    ],
)
def test_bad_logits_are_refused(logits: torch.Tensor, size: tuple[int, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        upsample_mask_logits(logits, 16, size)


def test_bad_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="sam_size is 0"):
        LogitsToMasks(0)
    with pytest.raises(DataError, match="'image' is missing"):
        LogitsToMasksd()({"pred_masks": torch.zeros(1, 4, 4)})
    with pytest.raises(DataError, match=r"'image' is of shape \(1, 2, 2, 2\)"):
        LogitsToMasksd()({"pred_masks": torch.zeros(1, 4, 4), "image": torch.zeros(1, 2, 2, 2)})
