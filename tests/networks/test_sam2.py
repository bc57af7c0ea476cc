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

"""Prompts and memory of SAM2, against sam2's own code on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_sa2va.config import GroundingConfig, Sa2VAConfig
from monai_sa2va.errors import DataError
from monai_sa2va.networks.memory import Memory, MemoryBank, MemoryEntry
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sam2 import LanguageSAM2

STOCK = {"rtol": 1e-5, "atol": 1e-5}
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def _network(config: GroundingConfig) -> LanguageSAM2:
    torch.manual_seed(0)
    network = LanguageSAM2(config).eval()
    with torch.no_grad():
        # a layer scale of 1e-6 would hide the memory encoder, and so would scores that all have one sign
        for layer in network.memory_encoder.fuser.layers:
            layer.gamma.fill_(1.0)
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(1.0)
    return network


@pytest.fixture(scope="module")
def stock(micro_config: Sa2VAConfig) -> LanguageSAM2:
    """In float32, as sam2's own code knows nothing else; not to be changed."""
    return _network(micro_config.grounding)


@pytest.fixture(scope="module")
def precise(micro_config: Sa2VAConfig) -> LanguageSAM2:
    """The same in float64; not to be changed."""
    return _network(micro_config.grounding).double()


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _maps(network: LanguageSAM2, number: int, seed: int = 0) -> list[Tensor]:
    with torch.no_grad():
        return network.image_features(_random(number, 3, 64, 64, seed=seed).to(network.no_mem_embed.dtype))


def _mixture(dtype: torch.dtype = torch.float64) -> GroundingPrompts:
    """Language; a click; two clicks and language; a box; a mask; a mask, a box, a click and language; nothing."""
    points = torch.rand(7, 2, 2, generator=torch.Generator().manual_seed(1)) * 63
    labels = torch.tensor([[-1, -1], [1, -1], [1, 0], [-1, -1], [-1, -1], [0, -1], [-1, -1]])
    boxes = torch.tensor([[3.0, 5.0, 40.0, 50.0]] * 7)
    yes = torch.tensor
    return (
        GroundingPrompts.empty(7, dtype=torch.float64)
        .with_boxes(boxes, yes([False, False, False, True, False, True, False]))
        .with_points(points, labels)
        .with_masks(3 * _random(7, 16, 16, dtype=dtype), yes([False, False, False, False, True, True, False]))
        .with_language(_random(7, 32, dtype=dtype), yes([True, False, True, False, False, True, False]))
    )


class TestDecode:
    def test_everything_that_is_offered(self, precise: LanguageSAM2) -> None:
        features = precise.without_memory(_maps(precise, 7))
        with torch.no_grad():
            three, one = precise.decode(features, _mixture()), precise.decode(features, _mixture(), multimask=False)
        assert three.masks.shape == (7, 3, 16, 16)
        assert three.iou_scores.shape == (7, 3)
        assert three.object_scores.shape == (7,)
        assert three.pointers.shape == (7, 32)
        assert one.masks.shape == (7, 1, 16, 16)
        masks, ious = three.best()
        for row in range(7):
            best = max(range(3), key=lambda k: three.iou_scores[row, k].item())
            assert torch.equal(masks[row], three.masks[row, best])
            assert ious[row] == three.iou_scores[row, best]

    def test_every_mixture_alone_and_beside_others(self, precise: LanguageSAM2) -> None:
        features, prompts = precise.without_memory(_maps(precise, 7)), _mixture()
        with torch.no_grad():
            together = precise.decode(features, prompts)
            for row in range(7):
                one = torch.tensor([row])
                alone = precise.decode([level[one] for level in features], prompts.select(one))
                for found, expected in zip(together, alone, strict=True):
                    assert torch.allclose(found[one], expected, **EXACT), row

    def test_what_an_object_does_not_have_changes_nothing(self, precise: LanguageSAM2) -> None:
        features = [level[:1] for level in precise.without_memory(_maps(precise, 1))]
        click = GroundingPrompts.empty(1).with_points(torch.tensor([[[9.0, 7.0]]]), torch.tensor([[1]]))
        no = torch.tensor([False])
        more = (
            click.with_language(_random(1, 32, dtype=torch.float64), no)
            .with_masks(_random(1, 16, 16, dtype=torch.float64), no)
            .with_boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0]]), no)
        )
        with torch.no_grad():
            plain, padded = precise.decode(features, click), precise.decode(features, more)
        for found, expected in zip(padded, plain, strict=True):
            assert torch.allclose(found, expected, **EXACT)

    def test_every_prompt_moves_the_mask(self, precise: LanguageSAM2) -> None:
        features = [level.expand(7, -1, -1, -1) for level in precise.without_memory(_maps(precise, 1))]
        with torch.no_grad():
            masks = precise.decode(features, _mixture()).masks
        for first in range(7):
            for second in range(first):
                assert not torch.allclose(masks[first], masks[second], rtol=1e-3), (first, second)

    def test_language_is_a_special_case_bit_by_bit(self, stock: LanguageSAM2) -> None:
        features, language = stock.without_memory(_maps(stock, 3)), _random(3, 32)
        seen: list[Tensor] = []
        hook = stock.sam_mask_decoder.register_forward_pre_hook(
            lambda _, __, given: seen.append(given["sparse_prompt_embeddings"]), with_kwargs=True
        )
        with torch.no_grad():
            masks, ious, scores = stock.decode_language(features, language)
            decoded = stock.decode(features, GroundingPrompts.of_language(language))
        hook.remove()
        padding = stock.sam_prompt_encoder.not_a_point_embed.weight.expand(3, 2, -1)
        assert torch.equal(seen[0], torch.cat([padding, language[:, None]], dim=1))
        assert torch.equal(masks, decoded.best()[0])
        assert torch.equal(ious, decoded.best()[1])
        assert torch.equal(scores, decoded.object_scores)

    @pytest.mark.parametrize("case", ["clicks", "box", "mask", "clicks and mask", "nothing"])
    @pytest.mark.parametrize("multimask", [True, False])
    def test_as_sam2_does_it(self, stock: LanguageSAM2, case: str, multimask: bool) -> None:
        features = stock.without_memory(_maps(stock, 2))
        prompts, point_inputs, mask_inputs = GroundingPrompts.empty(2), None, None
        if "clicks" in case or case == "box":
            points = torch.tensor([[[3.0, 5.0], [40.0, 50.5]], [[9.0, 60.0], [63.0, 62.0]]])
            labels = torch.tensor([[1, 0], [0, 1]]) if case != "box" else torch.tensor([[2, 3], [2, 3]])
            prompts = prompts.with_points(points, labels)
            point_inputs = {"point_coords": points, "point_labels": labels.int()}
            if case == "box":
                prompts = GroundingPrompts.empty(2).with_boxes(points.reshape(2, 4))
        if "mask" in case:
            mask_inputs = 3 * _random(2, 1, 16, 16)
            prompts = prompts.with_masks(mask_inputs)
        with torch.no_grad():
            found = stock.decode(features, prompts, multimask)
            masks, _, ious, best, _, pointers, scores = stock._forward_sam_heads(
                features[-1], point_inputs, mask_inputs, features[:-1], multimask
            )
        # sam2 overwrites the masks of absent objects, which Sa2VA doesn't
        present = scores[:, 0] > 0
        assert present.any()
        assert torch.allclose(found.masks[present], masks[present], **STOCK)
        assert torch.allclose(found.best()[0][present], best[present, 0], **STOCK)
        assert torch.allclose(found.iou_scores, ious, **STOCK)
        assert torch.allclose(found.object_scores, scores[:, 0], **STOCK)
        assert torch.allclose(found.pointers, pointers, **STOCK)

    def test_an_absent_object_has_the_pointer_of_none(self, micro_config: Sa2VAConfig) -> None:
        network = _network(micro_config.grounding)
        with torch.no_grad():
            network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-1000)
            found = network.decode(network.without_memory(_maps(network, 2)), GroundingPrompts.empty(2))
        assert torch.equal(found.pointers, network.no_obj_ptr.expand(2, -1))
        assert (found.masks > -1000).all()

    def test_bfloat16_weights(self, micro_config: Sa2VAConfig) -> None:
        network = _network(micro_config.grounding)
        prompts = _mixture(torch.float32)
        with torch.no_grad():
            exact = network.decode(network.without_memory(_maps(network, 7)), prompts)
            network.bfloat16()
            features = network.without_memory(_maps(network, 7))
            assert prompts.language is not None
            found = network.decode(features, prompts.with_language(prompts.language.bfloat16(), prompts.has_language))
        assert found.masks.dtype == torch.bfloat16
        scale = exact.masks.abs().max()
        assert (found.masks.float() - exact.masks).abs().max() < 0.1 * scale
        assert (found.iou_scores.float() - exact.iou_scores).abs().max() < 0.1

    def test_no_objects(self, precise: LanguageSAM2) -> None:
        features = [level[:0] for level in precise.without_memory(_maps(precise, 1))]
        for prompts in (GroundingPrompts.empty(0), GroundingPrompts.of_language(torch.zeros(0, 32))):
            found = precise.decode(features, prompts)
            assert [tuple(part.shape) for part in found] == [(0, 3, 16, 16), (0, 3), (0,), (0, 32)]
            assert found.best()[0].shape == (0, 16, 16)

    def test_shapes_that_do_not_fit(self, precise: LanguageSAM2) -> None:
        features = precise.without_memory(_maps(precise, 1))
        with pytest.raises(DataError, match="prompts of 2 objects, feature maps of 1; give one an object"):
            precise.decode(features, GroundingPrompts.empty(2))
        with pytest.raises(DataError, match=r"masks has shape \(1, 1, 64, 64\); expected S/4, \(16, 16\)"):
            precise.decode(features, GroundingPrompts.empty(1).with_masks(torch.zeros(1, 64, 64)))

    def test_gradients_reach_every_prompt(self, micro_config: Sa2VAConfig) -> None:
        network = _network(micro_config.grounding).double()
        prompts = _mixture()
        network.decode(network.without_memory(_maps(network, 7)), prompts).masks.square().mean().backward()
        encoder = network.sam_prompt_encoder
        weights = [*(e.weight for e in encoder.point_embeddings), *encoder.mask_downscaling.parameters()]
        weights += [encoder.not_a_point_embed.weight, encoder.no_mask_embed.weight]
        for weight in weights:
            assert weight.grad is not None
            assert weight.grad.isfinite().all()
        assert all(e.weight.grad.abs().max() > 0 for e in encoder.point_embeddings)
        assert encoder.mask_downscaling[0].weight.grad.abs().max() > 0


class TestMemory:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("limit", [None, 2])
    def test_tracking_as_sam2_does_it(self, stock: LanguageSAM2, reverse: bool, limit: int | None) -> None:
        """Three clicked frames and nine that memory draws, two objects, against ``SAM2Base.track_step``."""
        frames, objects = 12, 2
        maps = _maps(stock, frames)
        order = [frames - 1 - t for t in range(frames)] if reverse else list(range(frames))
        clicked = order[:3]
        outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        stock.max_cond_frames_in_attn = -1 if limit is None else limit
        bank = MemoryBank(max_conditioned=limit)
        points, labels = torch.tensor([[[9.0, 30.0]], [[50.0, 20.5]]]), torch.tensor([[1], [0]])
        with torch.no_grad():
            for frame in order:
                mine = [level[[frame] * objects] for level in maps]
                position = stock.image_encoder.neck.position_encoding
                kind = "cond" if frame in clicked else "non_cond"
                expected = outputs[f"{kind}_frame_outputs"][frame] = stock.track_step(
                    frame,
                    frame in clicked,
                    [level.flatten(2).permute(2, 0, 1) for level in mine],
                    [position(level).flatten(2).permute(2, 0, 1) for level in mine],
                    [tuple(level.shape[-2:]) for level in mine],
                    {"point_coords": points, "point_labels": labels.int()} if frame in clicked else None,
                    None,
                    outputs,
                    frames,
                    track_in_reverse=reverse,
                )
                if frame in clicked:
                    prompts = GroundingPrompts.empty(objects).with_points(points, labels)
                    found = stock.decode(stock.without_memory(mine), prompts)
                else:
                    last = stock.attend(mine[-1], bank.entries(frame, reverse))
                    found = stock.decode([*mine[:-1], last], GroundingPrompts.empty(objects))
                # of absent objects sam2 remembers an empty mask, Sa2VA what was drawn
                assert (found.object_scores > 0).all()
                masks, _ = found.best()
                assert torch.allclose(masks, expected["pred_masks"][:, 0], **STOCK), frame
                assert torch.allclose(found.pointers, expected["obj_ptr"], **STOCK), frame
                memory = stock.remember(mine[-1], masks, found.object_scores, found.pointers, frame in clicked)
                assert torch.allclose(memory.features, expected["maskmem_features"], **STOCK), frame
                if frame in clicked:
                    bank.condition(frame, memory)
                else:
                    bank.add(frame, memory, reverse)
        stock.max_cond_frames_in_attn = -1

    def test_objects_are_independent(self, precise: LanguageSAM2) -> None:
        maps = _maps(precise, 2)
        masks = 5 * _random(3, 16, 16, seed=4, dtype=torch.float64)
        rows = torch.tensor([0, 0, 0])

        def conditioned(chosen: list[int]) -> Tensor:
            scores = torch.ones(len(chosen), dtype=torch.float64)
            pointers = _random(3, 32, seed=5, dtype=torch.float64)[chosen]
            coarse = maps[-1][rows[: len(chosen)]]
            memory = precise.remember(coarse, masks[chosen], scores, pointers)
            return precise.attend(coarse, [MemoryEntry(0, memory.features, memory.pointers)])

        with torch.no_grad():
            together = conditioned([0, 1, 2])
            for number in range(3):
                # sam2's rotary encoding computes in float32
                assert torch.allclose(together[number], conditioned([number])[0], rtol=1e-5, atol=1e-6)
            assert not torch.allclose(together[0], together[1], rtol=1e-3)

    def test_distance_matters(self, precise: LanguageSAM2) -> None:
        coarse = _maps(precise, 1)[-1]
        masks = _random(1, 16, 16, dtype=torch.float64)
        with torch.no_grad():
            memory = precise.remember(coarse, masks, torch.ones(1).double(), _random(1, 32, dtype=torch.float64))
            maps = [precise.attend(coarse, [MemoryEntry(d, *memory)]) for d in range(7)]
        for first in range(7):
            for second in range(first):
                assert not torch.equal(maps[first], maps[second])

    def test_nothing_to_attend_to(self, precise: LanguageSAM2) -> None:
        coarse = _maps(precise, 1)[-1]
        with pytest.raises(DataError, match="there is no memory to attend to; decode the frame without_memory"):
            precise.attend(coarse, [MemoryEntry(3, None, torch.zeros(1, 32).double())])

    def test_bfloat16_weights(self, micro_config: Sa2VAConfig) -> None:
        network = _network(micro_config.grounding)
        found = []
        with torch.no_grad():
            for dtype in (torch.float32, torch.bfloat16):
                network.to(dtype)
                coarse = _maps(network, 1)[-1]
                pointers = _random(1, 32).to(dtype)
                memory: Memory = network.remember(coarse, 5 * _random(1, 16, 16), torch.ones(1), pointers)
                found.append(network.attend(coarse, [MemoryEntry(0, *memory), MemoryEntry(2, *memory)]).float())
        assert (found[0] - found[1]).abs().max() < 0.1 * found[0].abs().max()

    def test_gradients_reach_the_memory(self, micro_config: Sa2VAConfig) -> None:
        network = _network(micro_config.grounding).double()
        features = _maps(network, 1)
        first = network.decode(network.without_memory(features), GroundingPrompts.of_language(_random(1, 32).double()))
        memory = network.remember(features[-1], first.best()[0], first.object_scores, first.pointers)
        last = network.attend(features[-1], [MemoryEntry(0, *memory)])
        network.decode([*features[:-1], last], GroundingPrompts.empty(1)).masks.square().mean().backward()
        for name in ("memory_attention.layers.0", "memory_encoder", "obj_ptr_proj", "maskmem_tpos_enc"):
            gradients = [p.grad for key, p in network.named_parameters() if key.startswith(name)]
            assert any(g is not None and g.abs().max() > 0 for g in gradients), name
