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
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from torch import nn

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.grounding import ABSENT_LOGIT
from monai_sa2va.networks.sa2va import Sa2VA, Sa2VAModel

EXACT = {"rtol": 1e-9, "atol": 1e-12}
OUTPUTS = ("pred_masks", "object_scores", "iou_scores")


def _calls(module: nn.Module, run: Callable[[], Any]) -> int:
    counted = []
    # before, as a recomputation stops as soon as it has what it needs
    hook = module.register_forward_pre_hook(lambda *_: counted.append(1))
    run()
    hook.remove()
    return len(counted)


def _gradients(network: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def _without_truth(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key not in ("gt_masks", "labels")}


class TestOutputs:
    def test_unequal_numbers_of_objects(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        output = micro_network(micro_batch)
        assert {str(key) for key in output} == {
            *OUTPUTS, "seg_states", "loss", "loss_mask", "loss_dice", "loss_lang",
        }  # fmt: skip
        assert output["pred_masks"].shape == (4, 3, 16, 16)
        assert output["object_scores"].shape == output["iou_scores"].shape == (4, 3)
        assert output["seg_states"].shape == (6, 32)
        for name in ("loss", "loss_mask", "loss_dice", "loss_lang"):
            assert output[name].shape == ()
            assert output[name].isfinite()
        weighted = output["loss_mask"] + output["loss_dice"] + 0.5 * output["loss_lang"]
        assert torch.allclose(output["loss"], weighted)

    def test_padding_slots_hold_the_absent_logit(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        output = micro_network(micro_batch)
        used = torch.tensor([[True, False, False], [True] * 3, [False] * 3, [True, True, False]])
        assert ABSENT_LOGIT == -1024.0
        assert (output["pred_masks"][~used] == ABSENT_LOGIT).all()
        assert (output["pred_masks"][used] > -1000).all()
        for name in ("object_scores", "iou_scores"):
            assert (output[name][~used] == 0).all()
            assert (output[name][used] != 0).all()

    def test_without_truth_there_is_no_loss(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        output = micro_network(_without_truth(micro_batch))
        assert {str(key) for key in output} == {*OUTPUTS, "seg_states"}

    def test_without_labels_no_language_loss(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        del micro_batch["labels"]
        output = micro_network(micro_batch)
        assert output["loss_lang"].item() == 0
        assert output["loss_mask"].item() > 0

    def test_several_frames_a_sample(self, micro_network: Sa2VA, video_batch: dict[str, Any]) -> None:
        output = micro_network(video_batch)
        assert output["pred_masks"].shape == (4, 3, 16, 16)
        assert output["seg_states"].shape == (4, 32)
        assert (output["pred_masks"][0, 1:] == ABSENT_LOGIT).all()
        assert (output["pred_masks"][1:] > -1000).all()
        # every object is drawn in every frame, and frames differ
        assert not torch.allclose(output["pred_masks"][1], output["pred_masks"][2])
        assert micro_network.loss_counts(video_batch)["masks"] == 1 + 3 * 3

    def test_frames_are_independent(self, micro_network: Sa2VA, video_batch: dict[str, Any]) -> None:
        whole = micro_network(video_batch)["pred_masks"]
        first = {**video_batch, "g_pixel_values": video_batch["g_pixel_values"][[0, 3]], "frames_per_batch": [1, 1]}
        first["gt_masks"] = video_batch["gt_masks"][[0, 3]]
        assert torch.allclose(micro_network(first)["pred_masks"], whole[[0, 3]], **EXACT)

    def test_a_batch_equals_its_samples_one_by_one(
        self, micro_network: Sa2VA, micro_samples: list[dict[str, Any]], micro_batch: dict[str, Any]
    ) -> None:
        together = micro_network(micro_batch)
        first = 0
        for number, sample in enumerate(micro_samples[:4]):
            alone = micro_network(sa2va_collate([sample]))
            objects = len(sample["gt_masks"])
            for name in OUTPUTS:
                assert torch.allclose(together[name][number, :objects], alone[name][0], **EXACT)
            assert torch.allclose(together["seg_states"][first : first + objects], alone["seg_states"], **EXACT)
            first += objects

    def test_right_padding_changes_nothing(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        longer = dict(micro_batch)
        for key, value in (("input_ids", 65), ("attention_mask", 0), ("labels", -100)):
            longer[key] = nn.functional.pad(micro_batch[key], (0, 9), value=value)
        first, second = micro_network(micro_batch), micro_network(longer)
        for key in first:
            assert torch.allclose(first[key], second[key], **EXACT), key

    def test_what_follows_a_seg_does_not_change_it(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        ids = micro_batch["input_ids"]
        place = int((ids[1] == micro_network.processor.seg_token_id).nonzero()[0])
        other = ids.clone()
        other[1, place + 1] = 65 if ids[1, place + 1] != 65 else 66
        batch = _without_truth(micro_batch)
        first, second = micro_network(batch), micro_network({**batch, "input_ids": other})
        assert torch.allclose(first["pred_masks"][1, 0], second["pred_masks"][1, 0], **EXACT)
        assert not torch.allclose(first["pred_masks"][1, 1], second["pred_masks"][1, 1], **EXACT)

    def test_each_encoder_runs_once(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        modules = {
            "SAM2's image encoder": micro_network.grounding_encoder.sam2_model.image_encoder,
            "SAM2's mask decoder": micro_network.grounding_encoder.sam2_model.sam_mask_decoder,
            "vision tower": micro_network.vision_tower,
            "language model": micro_network.language_model,
            "projector": micro_network.text_hidden_fcs,
        }
        for name, module in modules.items():
            assert _calls(module, lambda: micro_network(micro_batch)) == 1, name


class TestNoObjects:
    def test_in_one_sample(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        assert micro_network.objects_per_sample(micro_batch["input_ids"]) == [1, 3, 0, 2]
        assert (micro_network(micro_batch)["pred_masks"][2] == ABSENT_LOGIT).all()

    def test_in_all_samples(self, micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]) -> None:
        network = Sa2VA(micro_config, seed=0)
        batch = sa2va_collate([micro_samples[2], micro_samples[2]])
        assert batch["gt_masks"].shape == (2, 0, 24, 24)
        output = network(batch)
        assert output["pred_masks"].shape == (2, 0, 16, 16)
        assert output["object_scores"].shape == output["iou_scores"].shape == (2, 0)
        assert output["seg_states"].shape == (0, 32)
        assert output["loss_mask"].item() == output["loss_dice"].item() == 0
        # the answer is learnt all the same
        assert output["loss_lang"].item() > 0
        gradients = _gradients(network, output["loss"])
        assert gradients["mllm.lm_head.weight"].abs().max() > 0

    def test_and_no_labels_still_has_a_gradient_path(
        self, micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]
    ) -> None:
        batch = sa2va_collate([micro_samples[2]])
        del batch["labels"]
        network = Sa2VA(micro_config, seed=0)
        output = network(batch)
        assert output["loss"].item() == 0
        assert all((g == 0).all() for g in _gradients(network, output["loss"]).values())


class TestImageAndText:
    def test_shape_of_the_image(self, micro_network: Sa2VA) -> None:
        image = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
        logits = micro_network(image, text="Segment the vessels.")
        assert logits.shape == (2, 1, 40, 30)
        assert logits.dtype == image.dtype
        assert logits.isfinite().all()

    def test_default_text(self, micro_network: Sa2VA) -> None:
        image = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
        assert torch.equal(micro_network(image), micro_network(image, text="Segment the vessels."))
        assert not torch.equal(micro_network(image), micro_network(image, text="Segment the optic disc."))

    def test_several_objects_are_united(self, micro_network: Sa2VA) -> None:
        picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(255).round()
        sample = micro_network.processor.prompt(picture, "Segment the vessels and the optic disc.")
        assert sample["names"] == ["vessels", "optic disc"]
        encoding = micro_network.encode_image(sample["pixel_values"], sample["g_pixel_values"])
        ids = sample["input_ids"][None]
        objects, found = micro_network.segment(encoding, ids, torch.ones_like(ids))
        assert objects == [2]
        image = picture.to(torch.float64)[None] / 255
        united = micro_network(image, text="Segment the vessels and the optic disc.")
        expected = nn.functional.interpolate(
            found.masks.amax(0)[None, None], size=(64, 64), mode="bilinear", align_corners=False
        )
        assert torch.allclose(united, expected)

    def test_several_prompts_of_one_encoding(self, micro_network: Sa2VA, micro_samples: list[dict[str, Any]]) -> None:
        sample = micro_samples[0]
        encoding = micro_network.encode_image(sample["pixel_values"], sample["g_pixel_values"])
        assert encoding.tokens.shape == (3, 32)
        other = sample["input_ids"].clone()
        other[other == ord("v") - 33] = ord("w") - 33
        assert not torch.equal(other, sample["input_ids"])
        ids = torch.stack([sample["input_ids"], other])
        objects, found = micro_network.segment(encoding, ids, torch.ones_like(ids))
        assert objects == [1, 1]
        alone = micro_network(_without_truth(sa2va_collate([sample])))
        assert torch.allclose(found.masks[0], alone["pred_masks"][0, 0], **EXACT)
        assert not torch.allclose(found.masks[1], found.masks[0], **EXACT)

    @pytest.mark.parametrize("shape", [(3, 20, 20), (1, 1, 20, 20), (1, 4, 20, 20), (1, 3, 4, 20, 20)])
    def test_bad_image(self, micro_network: Sa2VA, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"the image has shape .* expected \(B, 3, H, W\) with values 0 to 1"):
            micro_network(torch.zeros(shape))


class TestBadBatches:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"input_ids": None}, "holds no tensor input_ids; build it with sa2va_collate"),
            ({"g_pixel_values": None}, "holds no tensor g_pixel_values"),
            ({"input_ids": torch.zeros(7, dtype=torch.long)}, r"input_ids is torch.int64 of shape \(7,\)"),
            ({"input_ids": torch.zeros(4, 7)}, "input_ids is torch.float32"),
            (
                {"attention_mask": torch.ones(4, 5, dtype=torch.long)},
                r"attention_mask has shape \(4, 5\); expected \(4",
            ),
            ({"labels": torch.ones(3, 5, dtype=torch.long)}, r"labels has shape \(3, 5\)"),
            ({"pixel_values": torch.zeros(8, 3, 14, 14)}, r"pixel_values has shape \(8, 3, 14, 14\)"),
            ({"pixel_values": torch.zeros(7, 3, 28, 28)}, "input_ids hold 8 image tokens, pixel_values make 7"),
            ({"pixel_values": None}, "input_ids hold 8 image tokens, pixel_values make 0"),
            ({"g_pixel_values": torch.zeros(4, 3, 32, 32)}, r"g_pixel_values has shape \(4, 3, 32, 32\)"),
            ({"g_pixel_values": torch.zeros(3, 3, 64, 64)}, "adds up to 4 frames, g_pixel_values has 3"),
            ({"frames_per_batch": [1, 1, 1]}, r"frames_per_batch is \[1, 1, 1\]; expected 4 numbers"),
            ({"frames_per_batch": [2, 1, 1, 0]}, r"\[2, 1, 1, 0\]; expected 4 numbers of at least 1"),
            ({"frames_per_batch": [1, 1, 1, 2]}, "adds up to 5 frames, g_pixel_values has 4"),
            ({"gt_masks": torch.zeros(4, 2, 24, 24)}, r"gt_masks has shape .* expected \(4, 3 or more, H, W\)"),
            ({"gt_masks": torch.zeros(3, 3, 24, 24)}, "gt_masks has shape"),
            ({"gt_masks": torch.zeros(4, 24, 24)}, "gt_masks has shape"),
            ({"gt_masks": torch.full((4, 3, 24, 24), 255)}, "gt_masks has values from 255 to 255"),
        ],
    )
    def test_one_line_names_the_entry(
        self, micro_network: Sa2VA, micro_batch: dict[str, Any], changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            micro_network({**micro_batch, **changes})

    def test_frames_default_to_one(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        expected = micro_network(micro_batch)["pred_masks"]
        del micro_batch["frames_per_batch"]
        assert torch.equal(micro_network(micro_batch)["pred_masks"], expected)
        micro_batch["frames_per_batch"] = torch.ones(4, dtype=torch.long)
        assert torch.equal(micro_network(micro_batch)["pred_masks"], expected)


class TestTraining:
    def test_parts_have_their_names(self, micro_network: Sa2VA) -> None:
        assert micro_network.vision_tower is micro_network.mllm.model.vision_tower
        assert micro_network.language_model is micro_network.mllm.model.language_model
        for name in ("text_hidden_fcs", "grounding_encoder"):
            assert name in dict(micro_network.named_children())
        assert Sa2VAModel is Sa2VA

    def test_counts(self, micro_network: Sa2VA, micro_batch: dict[str, Any]) -> None:
        counts = micro_network.loss_counts(micro_batch)
        assert counts["masks"] == 1 + 3 + 0 + 2
        assert counts["tokens"] == (micro_batch["labels"][:, 1:] != -100).sum().item()
        del micro_batch["labels"]
        assert micro_network.loss_counts(micro_batch)["tokens"] == 0

    def test_language_loss_is_the_cross_entropy_of_the_next_token(
        self, micro_network: Sa2VA, micro_batch: dict[str, Any]
    ) -> None:
        features = micro_network.mllm.encode_image(micro_batch["pixel_values"])
        embedded = micro_network.mllm.embed(micro_batch["input_ids"], features)
        states = micro_network.mllm.hidden_states(embedded, micro_batch["attention_mask"])
        logits = micro_network.mllm.vocabulary_logits(states)
        expected = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), micro_batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
        assert micro_network(micro_batch)["loss_lang"].item() == pytest.approx(expected.item(), rel=1e-9)

    def test_gradients_reach_every_trained_path(self, micro_config: Sa2VAConfig, micro_batch: dict[str, Any]) -> None:
        network = Sa2VA(micro_config, seed=0)
        output = network(micro_batch)
        masks_only = _gradients(network, output["loss_mask"])
        # the sentence reaches the mask through [SEG], the image through both encoders
        for name in (
            "mllm.model.vision_tower.embeddings.patch_embeddings.projection.weight",
            "mllm.model.language_model.layers.0.self_attn.q_proj.weight",
            "text_hidden_fcs.0.weight",
            "grounding_encoder.sam2_model.image_encoder.trunk.patch_embed.proj.weight",
            "grounding_encoder.sam2_model.sam_mask_decoder.mask_tokens.weight",
        ):
            assert masks_only[name].abs().max() > 0, name
        assert "mllm.lm_head.weight" not in masks_only

    def test_checkpointing_gives_equal_gradients(self, micro_config: Sa2VAConfig, micro_batch: dict[str, Any]) -> None:
        network = Sa2VA(micro_config, seed=0).double().train()
        plain = _gradients(network, network(micro_batch)["loss"])
        network.gradient_checkpointing_enable()
        layer = network.language_model.layers[0]
        loss = network(micro_batch)["loss"]
        recomputed = _calls(layer.mlp, lambda: loss.backward())
        assert recomputed == 1
        again = _gradients(network, network(micro_batch)["loss"])
        assert plain.keys() == again.keys()
        for name, gradient in plain.items():
            assert torch.allclose(gradient, again[name], rtol=1e-9, atol=1e-13), name

    def test_monai_loss_as_criterion(self, micro_config: Sa2VAConfig, micro_batch: dict[str, Any]) -> None:
        network = Sa2VA(micro_config, criterion=DiceCELoss(sigmoid=True), seed=0).double()
        output = network(micro_batch)
        pairs = [(0, 0), (1, 0), (1, 1), (1, 2), (3, 0), (3, 1)]
        logits = torch.stack([output["pred_masks"][f, n] for f, n in pairs])[:, None]
        truth = torch.stack([micro_batch["gt_masks"][f, n] for f, n in pairs])[:, None].double()
        resized = nn.functional.interpolate(logits, size=(24, 24), mode="bilinear", align_corners=False)
        assert output["loss_mask"].item() == pytest.approx(DiceCELoss(sigmoid=True)(resized, truth).item(), rel=1e-6)
        assert output["loss_dice"].item() == 0
        assert _gradients(network, output["loss"])["text_hidden_fcs.2.weight"].abs().max() > 0

    def test_iou_and_object_scores_can_be_trained(self, micro_config: Sa2VAConfig, micro_batch: dict[str, Any]) -> None:
        network = Sa2VA(micro_config, criterion=Sa2VALoss(iou_weight=1.0, object_weight=1.0), seed=0)
        output = network(micro_batch)
        head = "grounding_encoder.sam2_model.sam_mask_decoder."
        gradients = _gradients(network, output["loss_iou"] + output["loss_object"])
        assert gradients[f"{head}iou_prediction_head.layers.2.weight"].abs().max() > 0
        assert gradients[f"{head}pred_obj_score_head.layers.2.weight"].abs().max() > 0

    def test_bfloat16_autocast(self, micro_config: Sa2VAConfig, micro_batch: dict[str, Any]) -> None:
        network = Sa2VA(micro_config, seed=0)
        exact = network(micro_batch)["loss"].item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(micro_batch)
        assert output["loss"].item() == pytest.approx(exact, rel=0.02)
        output["loss"].backward()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


class TestConstruction:
    def test_from_preset_mapping_and_config(self, micro_config: Sa2VAConfig) -> None:
        first, second = Sa2VA(micro_config, seed=1), Sa2VA(micro_config.to_dict(), seed=1)
        for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
            assert torch.equal(a, b), name
        assert Sa2VA("tiny", seed=0).config.name == "tiny"

    def test_a_seed_leaves_torchs_generator_alone(self, micro_config: Sa2VAConfig) -> None:
        before = torch.random.get_rng_state()
        Sa2VA(micro_config, seed=1)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_from_json(self, micro_config: Sa2VAConfig) -> None:
        parser = ConfigParser(
            {
                "network_def": {
                    "_target_": "monai_sa2va.Sa2VA",
                    "config": micro_config.to_dict(),
                    "criterion": {"_target_": "DiceFocalLoss", "sigmoid": True},
                    "seed": 0,
                }
            }
        )
        network = parser.get_parsed_content("network_def")
        assert isinstance(network, Sa2VA)
        assert network.config == micro_config
        assert type(network.criterion.segmentation_loss).__name__ == "DiceFocalLoss"

    def test_bad_configurations(self) -> None:
        with pytest.raises(ConfigError, match="no preset 'big'"):
            Sa2VA("big")
        with pytest.raises(ConfigError, match="unknown configuration key colour"):
            Sa2VA({"colour": 1})
        with pytest.raises(ConfigError, match="criterion is a str"):
            Sa2VA("tiny", criterion="dice")  # type: ignore[arg-type]
