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

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.metrics import CumulativeIterationMetric

from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.segmentation import PromptSegmentationMetric

# Two hits, one false alarm, two misses: Dice 4/7, IoU 2/5, precision 2/3, recall 1/2.
PRED = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0]]) * 8 - 4
TRUTH = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])
EMPTY_PRED, EMPTY_TRUTH = torch.full((3, 3), -4.0), torch.zeros(3, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("metric", "expected"), [("dice", 4 / 7), ("iou", 2 / 5), ("precision", 2 / 3), ("recall", 1 / 2)]
)
def test_hand_computed(metric: str, expected: float) -> None:
    fn = PromptSegmentationMetric(metric)
    values = fn(
        torch.stack([PRED, EMPTY_PRED, PRED]),
        torch.stack([TRUTH, EMPTY_TRUTH, EMPTY_TRUTH]),
        names=["vessels", "vessels", "lesion"],
    )
    assert values.flatten().tolist() == pytest.approx([expected, 1.0, 0.0])
    assert values.shape == (3, 1)
    scores = fn.scores()
    assert scores.by_name == pytest.approx({"lesion": 0.0, "vessels": (expected + 1) / 2})
    assert scores.counts == {"lesion": 1, "vessels": 2}
    assert scores.mean == pytest.approx((expected + 1) / 4)
    assert scores.object_mean == pytest.approx((expected + 1) / 3)
    assert fn.aggregate().item() == scores.mean
    assert isinstance(fn, CumulativeIterationMetric)


def test_accumulates_and_resets() -> None:
    fn = PromptSegmentationMetric()
    fn(PRED[None], TRUTH[None], names=["a"])
    assert fn.scores().counts == {"a": 1}
    fn([], [], names=[])
    fn(EMPTY_PRED[None], EMPTY_TRUTH[None], names=["b"])
    assert fn.scores().by_name == pytest.approx({"a": 4 / 7, "b": 1.0})
    assert fn.get_buffer().shape == (2, 1)
    fn.reset()
    with pytest.raises(DataError, match="no object was scored"):
        fn.scores()
    fn(PRED[None], TRUTH[None], names=["c"])
    assert fn.scores().counts == {"c": 1}


def test_lists_of_masks_of_any_size() -> None:
    fn = PromptSegmentationMetric()
    volume = torch.stack([PRED, EMPTY_PRED])
    values = fn(
        [PRED, torch.full((5, 4), 9.0), volume.numpy()],
        [TRUTH, torch.ones(5, 4), torch.stack([TRUTH, EMPTY_TRUTH])],
        names=["a", "b", "c"],
    )
    assert values.flatten().tolist() == pytest.approx([4 / 7, 1.0, 4 / 7])


def test_ranges_and_threshold() -> None:
    for pred, arguments in (
        (PRED.sigmoid(), {"input_range": "probabilities"}),
        ((PRED > 0) * 255, {"input_range": "image"}),
        (PRED + 100, {"threshold": 100.0}),
    ):
        fn = PromptSegmentationMetric("iou", **arguments)
        assert fn(pred[None], TRUTH[None], names=["a"]).item() == pytest.approx(0.4)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=20), st.integers(1, 5))
def test_batches_do_not_matter(objects: list[tuple[str, int]], size: int) -> None:
    pred = torch.stack([torch.arange(10).reshape(2, 5) - 9.5 + n for _, n in objects])
    truth = (torch.arange(10) > 6).reshape(1, 2, 5).expand_as(pred)
    names = [name for name, _ in objects]
    whole, split = PromptSegmentationMetric(), PromptSegmentationMetric()
    whole(pred, truth, names=names)
    for start in range(0, len(names), size):
        part = slice(start, start + size)
        split(pred[part], truth[part], names=names[part])
    assert whole.scores() == split.scores()


def test_built_from_json() -> None:
    target = {"_target_": "monai_sa2va.metrics.PromptSegmentationMetric", "metric": "iou", "input_range": "image"}
    fn = ConfigParser({"fn": target}).get_parsed_content("fn")
    assert (str(fn.metric), str(fn.input_range)) == ("iou", "image")


@pytest.mark.parametrize(
    ("pred", "truth", "names", "words"),
    [
        (PRED[None], TRUTH[None], [], "1 predicted masks, 1 true masks and 0 names"),
        (PRED[None], TRUTH[None].expand(2, 3, 3), ["a"], "2 true masks"),
        (PRED[None], None, ["a"], "none true masks"),
        (PRED[None], TRUTH[None], [" "], "names holds ' '"),
        (PRED[None], TRUTH[None], [3], "names holds 3"),
        (PRED[None], TRUTH[None, :2], ["a"], "one grid"),
        (PRED[None], TRUTH[None] * 255, ["a"], "gt holds 255"),
        (PRED[:1], TRUTH[:1], ["a"], r"\(M, H, W\)"),
        (PRED[None] * torch.nan, TRUTH[None], ["a"], "NaN"),
        (["x"], TRUTH[None], ["a"], "pred is a str"),
    ],
)
def test_refuses_data(pred: Any, truth: Any, names: list[Any], words: str) -> None:
    fn = PromptSegmentationMetric()
    with pytest.raises(DataError, match=words):
        fn(pred, truth, names=names)
    fn(PRED[None], TRUTH[None], names=["kept"])
    assert fn.scores().counts == {"kept": 1}


def test_refuses_arguments() -> None:
    with pytest.raises(ConfigError, match="metric is 'accuracy'"):
        PromptSegmentationMetric("accuracy")
    with pytest.raises(ConfigError, match="input_range"):
        PromptSegmentationMetric(input_range="auto")
    with pytest.raises(TypeError, match="spacing"):
        PromptSegmentationMetric()(PRED[None], TRUTH[None], names=["a"], spacing=1.0)


RANK = """
import json, sys
import torch
import torch.distributed as dist
from monai_sa2va.metrics import PromptSegmentationMetric
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
fn = PromptSegmentationMetric()
results = []
# The second rank has no object at first, then one of a name that the first does not know.
if rank == 0:
    fn(torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]]), torch.tensor([[[1, 0]], [[1, 0]]]), names=["a", "b\\tb"])
else:
    fn([], [], names=[])
results.append(fn.scores())
if rank == 1:
    fn(torch.tensor([[[-1.0, -1.0]]]), torch.tensor([[[1, 0]]]), names=["Gefäße"])
else:
    fn([], [], names=[])
results.append(fn.scores())
dist.destroy_process_group()
print(json.dumps([result._asdict() for result in results]))
"""


@pytest.mark.slow
def test_ranks_are_gathered(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True, cwd=repository
        )
        for rank in range(2)
    ]
    outputs = [json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks]
    assert outputs[0] == outputs[1]
    first, second = outputs[0]
    assert first["by_name"] == pytest.approx({"a": 2 / 3, "b\tb": 1.0})
    assert second["by_name"] == pytest.approx({"Gefäße": 0.0, "a": 2 / 3, "b\tb": 1.0})
    assert second["mean"] == pytest.approx(5 / 9)
