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

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import DataError
from monai_sa2va.networks.grounding import GroundingEncoder, ObjectIndex


@pytest.fixture(scope="module")
def encoder(micro_config: Sa2VAConfig) -> GroundingEncoder:
    torch.manual_seed(0)
    return GroundingEncoder(micro_config.grounding).double().eval()


def _images(number: int) -> torch.Tensor:
    return torch.randn(number, 3, 64, 64, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def _tokens(number: int) -> torch.Tensor:
    return torch.randn(number, 32, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def test_index_by_sample_then_frame_then_object() -> None:
    index = ObjectIndex.build([2, 0, 1], [2, 1, 2])
    assert index.frame.tolist() == [0, 0, 1, 1, 3, 4]
    assert index.slot.tolist() == [0, 1, 0, 1, 0, 0]
    assert index.embedding.tolist() == [0, 1, 0, 1, 2, 2]


def test_index_of_nothing() -> None:
    index = ObjectIndex.build([0, 0], [1, 3])
    assert [len(column) for column in index] == [0, 0, 0]
    assert index.frame.dtype == torch.int64


def test_index_needs_one_entry_a_sample() -> None:
    with pytest.raises(DataError, match="frames_per_batch has 1 entries for 2 samples"):
        ObjectIndex.build([1, 1], [1])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=5))
def test_index_names_every_object_of_every_frame_once(samples: list[tuple[int, int]]) -> None:
    objects, frames = [o for o, _ in samples], [f for _, f in samples]
    index = ObjectIndex.build(objects, frames)
    owner = [sample for sample, n in enumerate(frames) for _ in range(n)]
    first = [sum(objects[:sample]) for sample in range(len(samples))]
    pairs = list(zip(index.frame.tolist(), index.slot.tolist(), strict=True))
    assert pairs == [(frame, slot) for frame, sample in enumerate(owner) for slot in range(objects[sample])]
    assert index.embedding.tolist() == [first[owner[frame]] + slot for frame, slot in pairs]


def test_batched_decode_equals_one_by_one(encoder: GroundingEncoder) -> None:
    images, tokens = _images(3), _tokens(3)
    with torch.no_grad():
        together = encoder(images, [tokens[:1], tokens[1:]], frames_per_batch=[1, 2])
        single = [
            encoder(images[f : f + 1], tokens[None, e : e + 1]) for f, e in ((0, 0), (1, 1), (1, 2), (2, 1), (2, 2))
        ]
    assert together.masks.shape == (5, 16, 16)
    for name in ("masks", "iou_scores", "object_scores"):
        apart = torch.cat([getattr(output, name) for output in single])
        assert torch.allclose(getattr(together, name), apart, rtol=1e-9, atol=1e-12)


def test_language_moves_the_mask(encoder: GroundingEncoder) -> None:
    with torch.no_grad():
        found = encoder(_images(1), _tokens(2)[None])
    assert not torch.allclose(found.masks[0], found.masks[1])


def test_best_of_three_by_predicted_iou(encoder: GroundingEncoder) -> None:
    seen = []
    hook = encoder.sam2_model.sam_mask_decoder.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        found = encoder(_images(2), _tokens(4).view(2, 2, 32))
    hook.remove()
    masks, ious, _, scores = seen[0]
    assert masks.shape == (4, 3, 16, 16)
    for i in range(4):
        best = max(range(3), key=lambda k: ious[i, k].item())
        assert torch.equal(found.masks[i], masks[i, best])
        assert found.iou_scores[i] == ious[i, best]
        assert found.object_scores[i] == scores[i, 0]
    assert ((found.iou_scores >= 0) & (found.iou_scores <= 1)).all()


def test_a_low_object_score_overwrites_no_mask(encoder: GroundingEncoder) -> None:
    head = encoder.sam2_model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    images, tokens = _images(1), _tokens(1)[None]
    with torch.no_grad():
        before = encoder(images, tokens)
        bias = head.bias.clone()
        head.bias.fill_(-1000)
        after = encoder(images, tokens)
        head.bias.copy_(bias)
    assert after.object_scores.item() < -900
    assert torch.equal(before.masks, after.masks)


def test_no_objects_at_all(encoder: GroundingEncoder) -> None:
    with torch.no_grad():
        found = encoder(_images(2), [_tokens(0), _tokens(0)])
    assert found.masks.shape == (0, 16, 16)
    assert found.iou_scores.shape == found.object_scores.shape == (0,)


def test_float32_images_meet_float64_weights(encoder: GroundingEncoder) -> None:
    maps = encoder.encode(_images(1).float())
    assert [tuple(level.shape) for level in maps] == [(1, 4, 16, 16), (1, 8, 8, 8), (1, 32, 4, 4)]
    assert {level.dtype for level in maps} == {torch.float64}


@pytest.mark.parametrize("shape", [(1, 3, 64, 32), (1, 1, 64, 64), (3, 64, 64), (1, 3, 128, 128)])
def test_images_of_another_shape(encoder: GroundingEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"g_pixel_values has shape .* expected \(frames, 3, 64, 64\)"):
        encoder.encode(torch.zeros(shape, dtype=torch.float64))


def test_frames_that_do_not_add_up(encoder: GroundingEncoder) -> None:
    with pytest.raises(DataError, match="adds up to 3 frames, g_pixel_values has 2"):
        encoder(_images(2), [_tokens(1), _tokens(1)], frames_per_batch=[1, 2])
