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

from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.engines.evaluator import Sa2VAEvaluator
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.metrics.functional import calculate_dice
from monai_sa2va.metrics.handler import PromptMetricHandler
from monai_sa2va.metrics.segmentation import PromptSegmentationMetric
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.sentences import answer_segments


@pytest.fixture(scope="module")
def network() -> Sa2VA:
    return Sa2VA("tiny", seed=0)


def _sample(network: Sa2VA, names: list[str], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    turns = [(f"Segment the {name}.", answer_segments([name])) for name in names]
    sample = dict(network.processor(picture, turns))
    sample[Keys.MASKS] = torch.from_numpy(rng.integers(0, 2, (len(names), 40, 40), dtype=np.uint8))
    sample[Keys.FRAMES_PER_BATCH] = 1
    sample[Keys.NAMES] = names
    return sample


def test_masks_names_and_dice_go_together(network: Sa2VA) -> None:
    samples = [_sample(network, ["vessels", "cyst"], 1), _sample(network, ["cyst"], 2), _sample(network, ["liver"], 3)]
    loader = [sa2va_collate(samples[:2]), sa2va_collate(samples[2:])]
    evaluator = Sa2VAEvaluator(
        "cpu", loader, network, {"dice": PromptMetricHandler(PromptSegmentationMetric("dice"))}, epoch_length=2
    )
    seen: list[dict[str, Any]] = []
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output))
    evaluator.run()

    assert [output[Keys.NAMES] for output in seen] == [["vessels", "cyst", "cyst"], ["liver"]]
    assert seen[0][Keys.PRED_MASKS].shape == seen[0][Keys.MASKS].shape == (3, 40, 40)
    # the padding slot of the second sample is no object, and its mask belongs to its own image
    assert torch.equal(seen[0][Keys.MASKS][2], samples[1][Keys.MASKS][0])
    masks = [(p, t) for output in seen for p, t in zip(output[Keys.PRED_MASKS], output[Keys.MASKS], strict=True)]
    by_hand = [calculate_dice(p, t, input_range="logits") for p, t in masks]
    metrics = evaluator.state.metrics
    assert metrics["dice/cyst"] == pytest.approx((by_hand[1] + by_hand[2]) / 2)
    assert metrics["dice"] == pytest.approx((by_hand[0] + (by_hand[1] + by_hand[2]) / 2 + by_hand[3]) / 3)
    assert {"loss", "loss_mask", "loss_dice", "loss_lang"} <= set(seen[0])
    with torch.no_grad():
        scores = network(sa2va_collate(samples[:2]))[Keys.OBJECT_SCORES]
    torch.testing.assert_close(seen[0][Keys.OBJECT_SCORES], torch.stack([*scores[0], scores[1, 0]]))


def test_evaluation_leaves_no_gradient_and_no_training_mode(network: Sa2VA) -> None:
    network.train()
    evaluator = Sa2VAEvaluator("cpu", [sa2va_collate([_sample(network, ["vessels"], 1)])], network, epoch_length=1)
    evaluator.run()
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bfloat16_is_used_and_comes_back_as_float32(network: Sa2VA) -> None:
    batch = sa2va_collate([_sample(network, ["vessels"], 1)])
    outputs = {}
    for amp in (False, True):
        evaluator = Sa2VAEvaluator("cpu", [batch], network, amp=amp, epoch_length=1)
        evaluator.run()
        outputs[amp] = evaluator.state.output[Keys.PRED_MASKS]
    assert outputs[True].dtype == torch.float32
    assert not torch.equal(outputs[True], outputs[False])
    assert torch.allclose(outputs[True], outputs[False], atol=0.5)


def test_a_batch_without_truth_is_refused(network: Sa2VA) -> None:
    batch = sa2va_collate([_sample(network, ["vessels"], 1)])
    del batch[Keys.MASKS]
    with pytest.raises(DataError, match="gt_masks"):
        Sa2VAEvaluator("cpu", [batch], network, epoch_length=1).run()
