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

import math
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DiceCELoss, DiceFocalLoss, DiceLoss, FocalLoss, SoftDiceclDiceLoss
from torch import Tensor, nn

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.losses import Sa2VALoss, as_criterion

LN3 = math.log(3)  # its sigmoid is 0.75
# One pixel of four is foreground, all are predicted with 0.75 for what they are.
PRED = torch.tensor([[[LN3, -LN3], [-LN3, -LN3]]])
TRUTH = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
BCE = -math.log(0.75)
DICE = 1 - (2 * 0.75 + 1) / (0.75 + 3 * 0.25 + 1 + 1)  # 2 / 7


def test_hand_computed_parts() -> None:
    language_logits = torch.tensor([[LN3, 0.0], [0.0, 0.0]])  # probabilities 0.75, 0.25 and 0.5, 0.5
    losses = Sa2VALoss(1.0, 1.0, 0.5, iou_weight=0.25, object_weight=2.0)(
        PRED,
        TRUTH,
        language_logits=language_logits,
        language_targets=torch.tensor([0, 1]),
        iou_scores=torch.tensor([0.6]),
        object_scores=torch.tensor([LN3]),
    )
    language = (-math.log(0.75) - math.log(0.5)) / 2
    expected = {"loss_mask": BCE, "loss_dice": 2 / 7, "loss_lang": language, "loss_iou": 0.4, "loss_object": BCE}
    expected["loss"] = BCE + 2 / 7 + 0.5 * language + 0.25 * 0.4 + 2 * BCE
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, abs=1e-6), key
    assert pytest.approx(2 / 7) == DICE


def test_parts_are_means_over_objects() -> None:
    pred = torch.cat([PRED, torch.zeros(1, 2, 2)])
    truth = torch.cat([TRUTH, torch.zeros(1, 2, 2, dtype=torch.uint8)])
    losses = Sa2VALoss(object_weight=1.0, iou_weight=1.0)(
        pred, truth, object_scores=torch.zeros(2), iou_scores=torch.zeros(2)
    )
    assert losses["loss_mask"].item() == pytest.approx((BCE + math.log(2)) / 2, abs=1e-6)
    assert losses["loss_dice"].item() == pytest.approx((2 / 7 + 1 - 1 / 3) / 2, abs=1e-6)
    assert losses["loss_object"].item() == pytest.approx(math.log(2), abs=1e-6)
    # Logit 0 is background: the second object's mask is empty like its truth, and its true IoU 1.
    assert losses["loss_iou"].item() == pytest.approx(1.0)
    assert losses["loss_lang"].item() == 0.0


def test_absent_object_wants_a_low_score() -> None:
    loss = Sa2VALoss(object_weight=1.0)
    for score, expected in ((LN3, -math.log(0.25)), (-LN3, -math.log(0.75))):
        losses = loss(PRED, torch.zeros_like(TRUTH), object_scores=torch.tensor([score]))
        assert losses["loss_object"].item() == pytest.approx(expected, abs=1e-6)


def test_parts_without_weight_are_left_out() -> None:
    assert set(Sa2VALoss()(PRED, TRUTH)) == {"loss_mask", "loss_dice", "loss_lang", "loss"}


def test_dice_of_the_batch_sums_first() -> None:
    # Overlap 0.75 + 0, p 1.5 + 2, g 1 + 0.
    pred, truth = torch.cat([PRED, torch.zeros(1, 2, 2)]), torch.cat([TRUTH, torch.zeros_like(TRUTH)])
    value = Sa2VALoss(dice_batch=True)(pred, truth)["loss_dice"].item()
    assert value == pytest.approx(1 - 2.5 / 5.5, abs=1e-6)


def test_empty_pair_is_no_division_by_zero() -> None:
    losses = Sa2VALoss()(torch.full((1, 4, 4), -200.0), torch.zeros(1, 4, 4))
    assert losses["loss"].item() == 0.0


def test_extreme_logits_stay_finite() -> None:
    pred = torch.full((1, 2, 2), 1e4, requires_grad=True)
    losses = Sa2VALoss()(pred, torch.zeros(1, 2, 2))
    losses["loss"].backward()
    assert losses["loss_mask"].item() == pytest.approx(1e4)
    assert pred.grad is not None
    assert bool(pred.grad.isfinite().all())


def test_small_logits_are_brought_to_the_truth() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[:, :2] = 1
    pred = torch.tensor([[[4.0], [-4.0]]]).expand(1, 2, 2)
    # Rows of a bilinear enlargement without aligned corners: 4, 2, -2, -4.
    rows = torch.tensor([4.0, 2.0, -2.0, -4.0])
    losses = Sa2VALoss(iou_weight=1.0)(pred, truth, iou_scores=torch.tensor([0.0]))
    assert losses["loss_mask"].item() == pytest.approx(nn.functional.softplus(-rows.abs()).mean().item(), abs=1e-6)
    assert losses["loss_iou"].item() == pytest.approx(1.0)


def test_iou_of_all_candidates() -> None:
    truth = torch.zeros(2, 2, 2)
    truth[0, 0] = 1
    yes, no = torch.full((2, 2), 5.0), torch.full((2, 2), -5.0)
    # IoU 1/2, 0 and 1 with the first truth; 0, 1 and 0 with the second, which is empty
    candidates = torch.stack([torch.stack([yes, no, 10 * truth[0] - 5]), torch.stack([yes, no, yes])])
    scores = torch.tensor([[0.5, 0.25, 0.5], [0.0, 1.0, 0.75]], requires_grad=True)
    losses = Sa2VALoss(iou_weight=1.0)(candidates[:, 0], truth, iou_scores=scores, candidate_masks=candidates)
    assert losses["loss_iou"].item() == pytest.approx(((0.25 + 0.5) / 3 + 0.75 / 3) / 2)
    (gradient,) = torch.autograd.grad(losses["loss_iou"], scores)
    assert gradient.sign().tolist() == [[0, 1, -1], [0, 0, 1]]
    none = Sa2VALoss(iou_weight=1.0)(
        candidates[:0, 0], truth[:0], iou_scores=scores[:0], candidate_masks=candidates[:0]
    )
    assert none["loss_iou"].item() == 0
    with pytest.raises(DataError, match=r"iou_scores has the shape \(2,\); give \(2, 3\), one number a candidate mask"):
        Sa2VALoss(iou_weight=1.0)(candidates[:, 0], truth, iou_scores=torch.zeros(2), candidate_masks=candidates)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_truth_of_any_number_type(dtype: torch.dtype) -> None:
    assert Sa2VALoss()(PRED, TRUTH.to(dtype))["loss"].item() == pytest.approx(BCE + 2 / 7, abs=1e-6)


def test_metadata_is_dropped() -> None:
    assert type(Sa2VALoss()(PRED, MetaTensor(TRUTH))["loss"]) is Tensor


def test_gradcheck() -> None:
    torch.manual_seed(0)
    pred = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    iou = torch.rand(2, dtype=torch.float64, requires_grad=True)
    score = torch.randn(2, dtype=torch.float64, requires_grad=True)
    truth = torch.randn(2, 6, 6) > 0
    loss = Sa2VALoss(iou_weight=0.3, object_weight=0.7)

    def total(*values: Tensor) -> Tensor:
        return loss(
            values[0],
            truth,
            language_logits=values[1],
            language_targets=torch.tensor([0, 3, 1]),
            iou_scores=values[2],
            object_scores=values[3],
        )["loss"]

    assert torch.autograd.gradcheck(total, (pred, logits, iou, score))


# --- exact accumulation -------------------------------------------------------------------------------------------

OBJECTS = [3, 0, 1, 5, 2, 1, 4, 1]
TOKENS = [4, 7, 0, 2, 9, 1, 3, 5]


class _Network(nn.Module):
    """One parameter set that all samples share, so that their gradients meet."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(2, 1, 3, padding=1)
        self.head = nn.Linear(5, 11)
        self.scores = nn.Linear(2, 2)

    def forward(self, images: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.mask(images).squeeze(1), self.head(states), self.scores(images.mean(dim=(2, 3)))


def _accumulate(loss: Sa2VALoss, parts: int, counted: bool = True) -> tuple[float, Tensor]:
    """Sum of the losses and gradient, flat, of 8 samples in ``parts`` micro-batches."""
    torch.manual_seed(1)
    network = _Network().double()
    images = [torch.randn(n, 2, 6, 6).double() for n in OBJECTS]
    truths = [torch.rand(n, 12, 12) > 0.6 for n in OBJECTS]
    states = [torch.randn(k, 5).double() for k in TOKENS]
    targets = [torch.randint(11, (k,)) for k in TOKENS]
    counts = {"masks": torch.tensor(sum(OBJECTS)), "tokens": float(sum(TOKENS))} if counted else None
    total = 0.0
    for start in range(0, 8, 8 // parts):
        part = slice(start, start + 8 // parts)
        masks, logits, scores = network(torch.cat(images[part]), torch.cat(states[part]))
        value = loss(
            masks,
            torch.cat(truths[part]),
            language_logits=logits,
            language_targets=torch.cat(targets[part]),
            iou_scores=scores[:, 0],
            object_scores=scores[:, 1],
            counts=counts,
        )["loss"]
        value.backward()
        total += value.item()
    return total, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("segmentation_loss", "tolerance"),
    [
        (None, 1e-9),
        (DiceCELoss(sigmoid=True), 1e-9),
        (DiceFocalLoss(sigmoid=True), 1e-6),  # MONAI's FocalLoss computes in float32 whatever comes in
    ],
)
def test_micro_batches_add_up_exactly(segmentation_loss: nn.Module | None, tolerance: float) -> None:
    loss = Sa2VALoss(iou_weight=0.3, object_weight=0.2, segmentation_loss=segmentation_loss)
    whole, gradient = _accumulate(loss, 1)
    own_count, own_gradient = _accumulate(loss, 1, counted=False)
    assert own_count == pytest.approx(whole, rel=1e-12)
    assert torch.allclose(own_gradient, gradient, rtol=1e-12)
    for parts in (2, 4, 8):
        total, found = _accumulate(loss, parts)
        assert total == pytest.approx(whole, rel=tolerance)
        assert ((found - gradient).norm() / gradient.norm()).item() < tolerance


def test_averaging_micro_batches_would_not_add_up() -> None:
    loss = Sa2VALoss(iou_weight=0.3, object_weight=0.2)
    _, gradient = _accumulate(loss, 1)
    _, averaged = _accumulate(loss, 4, counted=False)
    assert ((averaged / 4 - gradient).norm() / gradient.norm()).item() > 1e-2


# --- nothing to learn from ------------------------------------------------------------------------------------------


def test_no_objects_and_no_tokens_keep_the_gradient_path() -> None:
    pred = torch.zeros(0, 4, 4, requires_grad=True)
    logits = torch.zeros(0, 7, requires_grad=True)
    scores = torch.zeros(0, requires_grad=True)
    losses = Sa2VALoss(iou_weight=1.0, object_weight=1.0)(
        pred,
        torch.zeros(0, 8, 8),
        language_logits=logits,
        language_targets=torch.zeros(0, dtype=torch.int64),
        iou_scores=scores,
        object_scores=scores,
        counts={"masks": 0, "tokens": 0},
    )
    assert all(value.item() == 0.0 and value.requires_grad for value in losses.values())
    losses["loss"].backward()
    assert pred.grad is not None
    assert logits.grad is not None


def test_no_objects_with_a_segmentation_loss() -> None:
    pred = torch.zeros(0, 4, 4, requires_grad=True)
    losses = as_criterion(DiceCELoss(sigmoid=True))(pred, torch.zeros(0, 4, 4))
    assert losses["loss"].item() == 0.0
    losses["loss"].backward()


def test_masks_alone_and_language_alone() -> None:
    pred = torch.zeros(1, 2, 2, requires_grad=True)
    alone = Sa2VALoss()(pred, torch.zeros(1, 2, 2))
    assert alone["loss_lang"].item() == 0.0
    assert alone["loss_lang"].requires_grad
    language = Sa2VALoss()(
        pred[:0], torch.zeros(0, 2, 2), language_logits=torch.zeros(2, 4), language_targets=torch.tensor([1, 2])
    )
    assert language["loss"].item() == pytest.approx(0.5 * math.log(4), abs=1e-6)


# --- precision ------------------------------------------------------------------------------------------------------


def test_half_precision_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    pred, truth = torch.randn(2, 64, 64).bfloat16(), torch.rand(2, 64, 64) > 0.5
    logits, targets = torch.randn(5, 30).bfloat16(), torch.arange(5)
    loss = Sa2VALoss()
    plain = loss(pred.float(), truth, language_logits=logits.float(), language_targets=targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(pred, truth, language_logits=logits, language_targets=targets)
    for key, value in plain.items():
        assert cast[key].dtype == torch.float32
        assert cast[key].item() == value.item()


def test_float64_stays_float64() -> None:
    assert all(value.dtype == torch.float64 for value in Sa2VALoss()(PRED.double(), TRUTH).values())


# --- points ---------------------------------------------------------------------------------------------------------


def test_points_of_a_constant_mask_are_its_pixels() -> None:
    pred, truth = torch.full((2, 8, 8), LN3), torch.ones(2, 32, 32)
    pred.requires_grad_()
    torch.manual_seed(0)
    losses = Sa2VALoss(sample_points=True, num_points=500, importance_sample_ratio=0.0)(pred, truth)
    whole = Sa2VALoss()(pred, truth)
    # Only near the edge, where sampling blends with 0, is there a difference.
    assert losses["loss_mask"].item() == pytest.approx(whole["loss_mask"].item(), abs=0.05)
    losses["loss"].backward()
    assert pred.grad is not None


# --- a loss of MONAI's ----------------------------------------------------------------------------------------------


def test_segmentation_loss_takes_the_place_of_mask_and_dice() -> None:
    torch.manual_seed(0)
    pred, truth = torch.randn(3, 8, 8), (torch.rand(3, 8, 8) > 0.5).float()
    monai_loss = DiceCELoss(sigmoid=True)
    losses = Sa2VALoss(2.0, 5.0, segmentation_loss=monai_loss)(pred, truth, counts={"masks": 6})
    expected = monai_loss(pred[:, None], truth[:, None]).item()
    assert losses["loss_mask"].item() == pytest.approx(expected * 3 / 6, rel=1e-6)
    assert losses["loss_dice"].item() == 0.0
    assert losses["loss"].item() == pytest.approx(2 * expected * 3 / 6, rel=1e-6)


def test_as_criterion() -> None:
    own, monai_loss = Sa2VALoss(), DiceFocalLoss(sigmoid=True)
    assert as_criterion(own) is own
    assert as_criterion(monai_loss).segmentation_loss is monai_loss
    assert as_criterion().weights == {"mask": 1.0, "dice": 1.0, "lang": 0.5, "iou": 0.0, "object": 0.0}
    with pytest.raises(ConfigError, match="criterion is a str"):
        as_criterion("dice")  # type: ignore[arg-type]


def test_built_from_json() -> None:
    parser = ConfigParser(
        {
            "own": {"_target_": "monai_sa2va.losses.Sa2VALoss", "iou_weight": 0.1, "sample_points": True},
            "monai": {
                "_target_": "monai_sa2va.losses.as_criterion",
                "loss": {"_target_": "monai.losses.DiceCELoss", "sigmoid": True},
            },
        }
    )
    assert parser.get_parsed_content("own").weights["iou"] == 0.1
    assert isinstance(parser.get_parsed_content("monai").segmentation_loss, DiceCELoss)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (DiceLoss(sigmoid=True, reduction="sum"), 'reduction="sum"'),
        (DiceCELoss(sigmoid=True, reduction="sum"), 'reduction="sum"'),
        (DiceFocalLoss(sigmoid=True, reduction="none"), 'reduction="none"'),
        (FocalLoss(reduction="sum"), 'reduction="sum"'),
        (nn.BCEWithLogitsLoss(reduction="none"), 'reduction="none"'),
        (DiceCELoss(), "sigmoid=True"),
        (DiceLoss(softmax=True), "sigmoid=True"),
        (SoftDiceclDiceLoss(), "sigmoid=True"),
    ],
)
def test_refuses_segmentation_losses(loss: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        as_criterion(loss)


def test_refuses_a_segmentation_loss_of_many_numbers() -> None:
    class Many(nn.Module):
        def forward(self, pred: Tensor, truth: Tensor) -> Tensor:
            return (pred - truth).flatten(1).mean(dim=1)

    with pytest.raises(ConfigError, match="Many returns no single number"):
        as_criterion(Many())(PRED, TRUTH)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"mask_weight": -1.0}, "mask_weight"),
        ({"language_weight": math.nan}, "language_weight"),
        ({"iou_weight": math.inf}, "iou_weight"),
        ({"dice_smooth": 0.0}, "dice_smooth"),
        ({"num_points": 0}, "num_points"),
        ({"segmentation_loss": DiceLoss(sigmoid=True), "sample_points": True}, "sample_points"),
        ({"segmentation_loss": DiceLoss(sigmoid=True), "dice_batch": True}, "dice_batch"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Sa2VALoss(**settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pred_masks": torch.zeros(1, 1, 2, 2)}, "pred_masks"),
        ({"pred_masks": torch.zeros(1, 2, 2, dtype=torch.int64)}, "pred_masks"),
        ({"gt_masks": torch.zeros(2, 2, 2)}, "gt_masks"),
        ({"gt_masks": torch.zeros(2, 2)}, "gt_masks"),
        ({"gt_masks": 255 * TRUTH}, "0.* to 255"),
        ({"gt_masks": torch.full((1, 2, 2), math.nan)}, "nan"),
        ({"gt_masks": -TRUTH.float()}, "-1"),
        ({"language_logits": torch.zeros(2, 4)}, "language_targets"),
        ({"language_targets": torch.tensor([0])}, "language_logits"),
        ({"language_logits": torch.zeros(2, 4), "language_targets": torch.tensor([0])}, "don't fit"),
        ({"language_logits": torch.zeros(1, 2, 4), "language_targets": torch.tensor([0])}, "don't fit"),
        ({"language_logits": torch.zeros(1, 4), "language_targets": torch.tensor([-100])}, "0 to 3"),
        ({"language_logits": torch.zeros(1, 4), "language_targets": torch.tensor([4])}, "0 to 3"),
        ({"iou_scores": None}, "iou_scores is missing"),
        ({"object_scores": None}, "object_scores is missing"),
        ({"object_scores": torch.zeros(1, 1)}, "object_scores has the shape"),
    ],
)
def test_refuses_data(changes: dict[str, Any], words: str) -> None:
    arguments = {"pred_masks": PRED, "gt_masks": TRUTH, "iou_scores": torch.zeros(1), "object_scores": torch.zeros(1)}
    loss = Sa2VALoss(iou_weight=1.0, object_weight=1.0)
    loss(**arguments)
    with pytest.raises(DataError, match=words):
        loss(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("counts", "words"),
    [({"objects": 1}, "objects"), ({"masks": torch.ones(2)}, "one number"), ({"masks": 0}, "0"), ({"masks": -1}, "-1")],
)
def test_refuses_counts(counts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sa2VALoss()(PRED, TRUTH, counts=counts)
