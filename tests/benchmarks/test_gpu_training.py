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

import importlib
import json
from typing import Any

import pytest
from ignite.engine import Engine

from monai_sa2va.errors import DataError


@pytest.fixture(scope="module")
def training(_benchmarks_on_path: None) -> Any:
    return importlib.import_module("gpu_training")


def test_recorder_counts_steps_samples_and_waits(training: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 100.0}
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock["now"])

    def batches() -> Any:
        for number in range(4):
            clock["now"] += 1.0  # a second of waiting a micro-batch
            yield {"input_ids": [0, 0, 0], "window_end": number % 2 == 1}

    def process(engine: Any, batch: Any) -> None:
        clock["now"] += 4.0
        engine.state.step_losses = {"loss": clock["now"]}

    engine: Any = Engine(process)
    engine.processes = 2
    training.Recorder(str(tmp_path / "record.json")).attach(engine)
    engine.run(batches(), epoch_length=4, max_epochs=1)
    record = json.loads((tmp_path / "record.json").read_text())
    # two micro-batches of 3 samples in each of two processes
    assert [step["samples"] for step in record["steps"]] == [12, 12]
    assert [step["seconds"] for step in record["steps"]] == [10.0, 10.0]
    assert [step["wait"] for step in record["steps"]] == [2.0, 2.0]
    assert [step["loss"] for step in record["steps"]] == [110.0, 120.0]
    found = training.summary(record, skip=1)
    assert found["samples_per_s"] == 1.2
    assert found["waiting_for_data"] == 0.2
    assert found["seconds_an_epoch"] == 20.0
    with pytest.raises(DataError, match="the run has 2 steps; give more than --skip 2"):
        training.summary(record, skip=2)


def test_difference(training: Any) -> None:
    found = training.difference([1.1, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.5], window=2)
    assert found["mean_of_steps"] == pytest.approx((0.1 + 0 + 0 + 0.2) / 4)
    # means of two: 1.05 against 1.0, and 2.0 against 2.25
    assert found["largest_of_means"] == pytest.approx(0.25 / 2.25)
    assert found["whole_run"] == pytest.approx(0.4 / 6.5)
    with pytest.raises(DataError, match="2 and 1 steps"):
        training.difference([1.0, 1.0], [1.0])


def test_children_are_split_as_published(training: Any, data_dir: Any, tmp_path: Any) -> None:
    chase = data_dir / "vessels" / "chase_db1"
    if not chase.is_dir():
        pytest.skip("vessels/chase_db1 is not among the data")
    datalist = json.loads(training.make_data(chase, tmp_path, 3).read_text())
    names = {
        section: [entry["image"].rsplit("_", 1)[1][:2] for entry in datalist[section]]
        for section in datalist
        if isinstance(datalist[section], list)
    }
    assert len(names["training"]) == 60
    assert set(names["training"]) == {f"{child:02}" for child in range(1, 11)}
    assert sorted(set(names["testing"])) == ["11", "12", "13", "14"]
    assert not names.get("validation")


@pytest.fixture
def started(training: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Runs the script without data; gives the overlays of the trainings that it would have started, by their folder."""
    overlays: dict[str, Any] = {}

    def run(module: Any, out: Any, one_gpu: bool) -> None:
        overlays[out.name] = json.loads((out / "overlay.json").read_text())
        step = {"loss": 1.0, "samples": 4, "seconds": 2.0, "wait": 0.5, "epoch": 1}
        record = {"processes": 1 if one_gpu else 2, "device": "CPU", "peak_memory_gib": None, "steps": [step] * 3}
        (out / "record.json").write_text(json.dumps(record))

    monkeypatch.setattr(training, "make_data", lambda *_: None)
    monkeypatch.setattr(training, "_run", run)

    def main(*arguments: str) -> dict[str, Any]:
        command = ["gpu_training.py", str(tmp_path), "--out", str(tmp_path / "out"), "--skip", "1", *arguments]
        monkeypatch.setattr(training.sys, "argv", command)
        overlays.clear()
        training.main()
        return dict(overlays)

    return main


def test_only_the_whole_training_saves_and_goes_on(started: Any, tmp_path: Any) -> None:
    found = started("--parts", "throughput", "train", "--steps", "3", "--train-steps", "3", "--save-interval", "2")
    assert {name: (run["save_interval"], run["resume"]) for name, run in found.items()} == {
        "one": (4, False),
        "gpus-2": (4, False),
        "train": (2, False),
    }
    results = json.loads((tmp_path / "out" / "gpu_training.json").read_text())
    assert results["preset"] == "small"
    assert results["throughput"]["ratio"] == 1.0
    assert results["train"]["samples_per_s"] == 2.0
    assert results["train"]["waiting_for_data"] == 0.25


def test_an_interrupted_script_goes_on(started: Any, tmp_path: Any) -> None:
    started("--parts", "throughput", "--steps", "3")
    with pytest.raises(SystemExit, match=r"out exists; name a new folder, or go on with --resume"):
        started("--parts", "train")
    found = started("--parts", "throughput", "train", "--resume")
    # what is done stays
    assert list(found) == ["train"]
    assert found["train"]["resume"] is True
    assert set(json.loads((tmp_path / "out" / "gpu_training.json").read_text())) == {"preset", "throughput", "train"}


def test_nothing_to_evaluate(started: Any) -> None:
    with pytest.raises(SystemExit, match=r"there is no .*model.pt to evaluate; run the part 'train' first"):
        started("--parts", "evaluate")
