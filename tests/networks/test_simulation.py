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

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.engines.accumulation import AccumulationWindows
from monai_sa2va.errors import ConfigError
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.grounding import ObjectIndex
from monai_sa2va.networks.interaction import SimulatedInteraction
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks
from monai_sa2va.networks.simulation import Simulation, _Clips, _order, _trained, simulate

TEXT = {"text_prob": 1.0, "point_prob": 0.0, "box_prob": 0.0, "mask_prob": 0.0, "mixed_prob": 0.0}
POINT = {**TEXT, "text_prob": 0.0, "point_prob": 1.0}
SAM2 = "grounding_encoder.sam2_model."


@pytest.fixture
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    """In float64 and training mode, without the dropout of the memory's attention."""
    network = Sa2VA(micro_config, criterion=Sa2VALoss(iou_weight=0.5, object_weight=0.5), seed=0).double().train()
    for module in network.grounding_encoder.sam2_model.memory_attention.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_p"):
            module.dropout_p = 0.0
    return network


def _gradients(network: Sa2VA, batch: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    network.zero_grad()
    output = network(batch)
    output["loss"].backward()
    losses = {name: value.detach() for name, value in output.items() if name.startswith("loss")}
    return losses, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def _calls(module: nn.Module, run: Callable[[], Any]) -> int:
    counted = []
    hook = module.register_forward_pre_hook(lambda *_: counted.append(1))
    run()
    hook.remove()
    return len(counted)


def _simulate(network: Sa2VA, batch: dict[str, Any], seed: int) -> Simulation:
    """What the network's forward pass does after this seed."""
    objects = network.objects_per_sample(batch["input_ids"])
    torch.manual_seed(seed)
    assert network.interaction is not None
    states = network._states(batch["input_ids"], batch["attention_mask"], network._image_tokens(batch))
    return simulate(
        network.grounding_encoder.sam2_model,
        network.interaction,
        network.grounding_encoder.encode(batch["g_pixel_values"]),
        network.text_hidden_fcs(states[batch["input_ids"] == network.processor.seg_token_id]),
        batch["gt_masks"],
        objects,
        batch["frames_per_batch"],
    )


class TestSingleImages:
    def test_language_alone_is_the_plain_training(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        network.criterion = Sa2VALoss()
        plain_losses, plain = _gradients(network, micro_batch)
        network.interaction = SimulatedInteraction(**TEXT, rounds=0)
        losses, gradients = _gradients(network, micro_batch)
        assert losses.keys() == plain_losses.keys()
        for name, value in plain_losses.items():
            assert torch.equal(losses[name], value), name
        assert gradients.keys() == plain.keys()
        for name, value in plain.items():
            assert torch.allclose(gradients[name], value, rtol=1e-9, atol=1e-15), name

    def test_each_round_counts_alike(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        network.interaction = SimulatedInteraction(rounds=2)
        torch.manual_seed(5)
        output = network(micro_batch)
        simulation = _simulate(network, micro_batch, seed=5)
        drawn = simulation.prompted
        # 6 objects, three times
        assert drawn.masks.shape == (18, 16, 16)
        assert simulation.tracked is None
        truth = micro_batch["gt_masks"][drawn.place.frame, drawn.place.slot]
        per_round = [
            network.criterion(
                drawn.masks[rows],
                truth[rows],
                iou_scores=drawn.decoded.iou_scores[rows],
                candidate_masks=drawn.decoded.masks[rows],
                object_scores=drawn.decoded.object_scores[rows],
            )
            for rows in (slice(0, 6), slice(6, 12), slice(12, 18))
        ]
        for name in ("loss_mask", "loss_dice", "loss_iou", "loss_object"):
            mean = sum(losses[name].item() for losses in per_round) / 3
            assert output[name].item() == pytest.approx(mean, rel=1e-9), name
        # the answer counts once
        plain = network.eval()(micro_batch)
        assert output["loss_lang"].item() == pytest.approx(plain["loss_lang"].item(), rel=1e-9)
        last = drawn.decoded.masks[12:][torch.arange(6), drawn.decoded.iou_scores[12:].argmax(1)]
        assert torch.allclose(output["pred_masks"][drawn.place.frame[:6], drawn.place.slot[:6]], last)

    def test_the_decoder_alone_runs_in_every_round(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        network.interaction = SimulatedInteraction(rounds=3)
        sam2 = network.grounding_encoder.sam2_model
        for module, calls in (
            (network.vision_tower, 1),
            (network.language_model, 1),
            (sam2.image_encoder, 1),
            (sam2.sam_mask_decoder, 4),
            (sam2.memory_encoder, 0),
        ):
            assert _calls(module, lambda: network(micro_batch)) == calls

    def test_gradients_go_through_all_rounds(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        # the masks of the first round reach the later ones as prompts only
        network.interaction = SimulatedInteraction(**POINT, rounds=2)
        first: list[torch.Tensor] = []
        head = network.grounding_encoder.sam2_model.sam_mask_decoder
        hook = head.register_forward_hook(lambda *args: first.append(args[2][0]))
        decoded = _simulate(network, micro_batch, seed=0).prompted.decoded.masks
        hook.remove()
        assert len(first) == 3
        (gradient,) = torch.autograd.grad(decoded[12:].square().sum(), first[0])
        assert gradient.abs().max() > 0

    def test_gradients_reach_every_prompt_and_head(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        network.interaction = SimulatedInteraction(rounds=2)
        torch.manual_seed(3)
        _, gradients = _gradients(network, micro_batch)
        for name in (
            *(f"sam_prompt_encoder.point_embeddings.{n}.weight" for n in range(4)),
            "sam_prompt_encoder.mask_downscaling.0.weight",
            "sam_prompt_encoder.no_mask_embed.weight",
            "sam_mask_decoder.iou_prediction_head.layers.2.weight",
            "sam_mask_decoder.pred_obj_score_head.layers.2.weight",
        ):
            assert gradients[SAM2 + name].abs().max() > 0, name

    def test_micro_batches_add_up_exactly(self, network: Sa2VA, micro_samples: list[dict[str, Any]]) -> None:
        # nothing is drawn at random: language first, then the most interior point of each error
        network.interaction = SimulatedInteraction(**TEXT, rounds=2, interior_prob=1.0)
        whole_losses, whole = _gradients(network, sa2va_collate(micro_samples[:4]))
        halves = [sa2va_collate(micro_samples[:2]), sa2va_collate(micro_samples[2:4])]
        network.zero_grad()
        total = 0.0
        for part in AccumulationWindows(halves, 2, network.loss_counts):
            loss = network(part)["loss"]
            loss.backward()
            total += loss.item()
        assert total == pytest.approx(whole_losses["loss"].item(), rel=1e-9)
        for name, parameter in network.named_parameters():
            if name in whole:
                assert parameter.grad is not None
                assert torch.allclose(parameter.grad, whole[name], rtol=1e-7, atol=1e-10), name

    def test_evaluation_knows_no_interaction(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        plain = network.eval()(micro_batch)
        network.interaction = SimulatedInteraction(rounds=2)
        again = network(micro_batch)
        assert torch.equal(again["loss"], plain["loss"])
        assert torch.equal(again["pred_masks"], plain["pred_masks"])

    def test_without_truth_nothing_is_simulated(self, network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        network.interaction = SimulatedInteraction(rounds=2)
        del micro_batch["gt_masks"]
        assert _calls(network.grounding_encoder.sam2_model.sam_mask_decoder, lambda: network(micro_batch)) == 1

    def test_no_objects(self, network: Sa2VA, micro_samples: list[dict[str, Any]]) -> None:
        network.interaction = SimulatedInteraction(rounds=2)
        losses, gradients = _gradients(network, sa2va_collate([micro_samples[2]]))
        assert losses["loss_mask"].item() == 0
        assert losses["loss_lang"].item() > 0
        assert all(g.isfinite().all() for g in gradients.values())

    def test_one_click_trains_the_nearest_of_three_masks(self) -> None:
        truth = torch.zeros(2, 8, 8, dtype=torch.bool)
        truth[:, :4] = True
        right = torch.where(truth[0, ::2, ::2], 9.0, -9.0)
        masks = torch.stack([torch.stack([-right, right, 0 * right])] * 2)
        decoded = DecodedMasks(masks, torch.tensor([[0.9, 0.1, 0.5]] * 2), torch.zeros(2), torch.zeros(2, 4))
        prompts = GroundingPrompts.empty(2).with_points(torch.zeros(2, 1, 2), torch.ones(2, 1))
        language = prompts.with_language(torch.zeros(2, 4), torch.tensor([True, False]))
        trained = _trained(decoded, language, truth)
        # with language the best by predicted IoU, and of the click alone the nearest
        assert torch.equal(trained[0], -right)
        assert torch.equal(trained[1], right)


class TestClips:
    @pytest.mark.parametrize(
        ("chosen", "expected"),
        [
            ([2], [(3, False, True), (4, False, False), (1, True, True), (0, True, False)]),
            ([0], [(1, False, True), (2, False, True), (3, False, True), (4, False, False)]),
            ([4], [(3, True, True), (2, True, True), (1, True, True), (0, True, False)]),
        ],
    )
    def test_forward_and_backward(self, chosen: list[int], expected: list[tuple[int, bool, bool]]) -> None:
        assert list(_order(_Clips(5, ObjectIndex.build([1], [1]), chosen))) == expected

    def test_frames_between_are_reached_from_either_side(self) -> None:
        clips = _Clips(5, ObjectIndex.build([1], [1]), [1, 3])
        torch.manual_seed(0)
        orders = {tuple((frame, reverse) for frame, reverse, _ in _order(clips)) for _ in range(20)}
        assert orders == {((2, False), (4, False), (0, True)), ((4, False), (2, True), (0, True))}

    @pytest.mark.parametrize("seed", range(4))
    def test_every_object_of_every_frame_once(self, network: Sa2VA, video_batch: dict[str, Any], seed: int) -> None:
        network.interaction = SimulatedInteraction(rounds=1)
        simulation = _simulate(network, video_batch, seed)
        assert simulation.tracked is not None
        # one frame with one object, three frames with three
        places = list(zip(simulation.place.frame.tolist(), simulation.place.slot.tolist(), strict=True))
        assert sorted(places) == [(0, 0)] + [(frame, slot) for frame in (1, 2, 3) for slot in (0, 1, 2)]
        prompted, tracked = simulation.prompted.place, simulation.tracked.place
        assert len(prompted.frame) / 2 + len(tracked.frame) == 10
        assert not set(prompted.frame.tolist()) & set(tracked.frame.tolist())
        assert 0 in prompted.frame
        torch.manual_seed(seed)
        output = network(video_batch)
        assert torch.equal(output["pred_masks"][simulation.place.frame, simulation.place.slot], simulation.last.masks)
        assert (output["pred_masks"][0, 1:] == -1024).all()

    def test_losses_count_every_object_once_a_frame(self, network: Sa2VA, video_batch: dict[str, Any]) -> None:
        network.interaction = SimulatedInteraction(rounds=1)
        torch.manual_seed(2)
        output = network(video_batch)
        simulation = _simulate(network, video_batch, seed=2)
        assert simulation.tracked is not None
        expected = 0.0
        for drawn, rounds in ((simulation.prompted, 2), (simulation.tracked, 1)):
            truth = video_batch["gt_masks"][drawn.place.frame, drawn.place.slot]
            for mask, real in zip(drawn.masks, truth, strict=True):
                expected += Sa2VALoss()(mask[None], real[None])["loss_dice"].item() / rounds / 10
        assert output["loss_dice"].item() == pytest.approx(expected, rel=1e-9)

    def test_gradients_reach_the_memory(self, network: Sa2VA, video_batch: dict[str, Any]) -> None:
        # memory draws frames from the one that is prompted
        network.interaction = SimulatedInteraction(**TEXT, rounds=0, max_conditioned=1)
        with torch.no_grad():
            # an absent object has no pointer of its own
            network.grounding_encoder.sam2_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
        _, gradients = _gradients(network, video_batch)
        for name in (
            "memory_attention.layers.0.cross_attn_image.k_proj.weight",
            "memory_encoder.mask_downsampler.encoder.0.weight",
            "memory_encoder.pix_feat_proj.weight",
            "obj_ptr_proj.layers.0.weight",
            "maskmem_tpos_enc",
        ):
            assert gradients[SAM2 + name].abs().max() > 0, name

    def test_without_an_interaction_every_frame_is_prompted(self, network: Sa2VA, video_batch: dict[str, Any]) -> None:
        sam2 = network.grounding_encoder.sam2_model
        assert _calls(sam2.sam_mask_decoder, lambda: network(video_batch)) == 1
        assert _calls(sam2.memory_attention, lambda: network(video_batch)) == 0

    def test_micro_batches_add_up(self, network: Sa2VA, micro_samples: list[dict[str, Any]]) -> None:
        network.interaction = SimulatedInteraction(**TEXT, rounds=1, interior_prob=1.0, max_conditioned=1)
        clips = []
        for number, sample in enumerate([micro_samples[0], micro_samples[3], micro_samples[1]]):
            images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(number))
            # shown in the first frame only, so that it is the one that is prompted
            truth = torch.stack([sample["gt_masks"], torch.zeros_like(sample["gt_masks"])])
            clips.append({**sample, "g_pixel_values": images, "gt_masks": truth, "frames_per_batch": 2})
        torch.manual_seed(0)
        whole_losses, whole = _gradients(network, sa2va_collate(clips))
        network.zero_grad()
        total = 0.0
        for part in AccumulationWindows([sa2va_collate(clips[:1]), sa2va_collate(clips[1:])], 2, network.loss_counts):
            loss = network(part)["loss"]
            loss.backward()
            total += loss.item()
        # sam2's rotary encoding computes in float32
        assert total == pytest.approx(whole_losses["loss"].item(), rel=1e-6)
        for name, gradient in whole.items():
            found = dict(network.named_parameters())[name].grad
            assert found is not None
            assert torch.allclose(found, gradient, rtol=1e-3, atol=1e-6), name

    def test_bfloat16_autocast(self, micro_config: Sa2VAConfig, video_batch: dict[str, Any]) -> None:
        network = Sa2VA(micro_config, seed=0, interaction=SimulatedInteraction(rounds=2)).train()
        for seed in range(3):
            torch.manual_seed(seed)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = network(video_batch)
            output["loss"].backward()
            assert output["loss"].isfinite()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_something_else_as_interaction(micro_config: Sa2VAConfig) -> None:
    with pytest.raises(ConfigError, match="interaction is a dict; give a SimulatedInteraction, or null for none"):
        Sa2VA(micro_config, interaction={"rounds": 3})  # type: ignore[arg-type]
