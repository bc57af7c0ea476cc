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

"""``multi_gpu_train.json`` as it is started: torchrun, two processes, gloo where there is no GPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.phantoms import write_phantoms

# handlers that decide what all processes do, and so are built in all of them
_EVERYWHERE = ("FinalValidationHandler", "ResumableCheckpoint", "EarlyStop", "PresenceTuner")
_TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


@pytest.fixture(scope="module")
def configs(repository: Path) -> Path:
    return repository / "bundle" / "configs"


@pytest.fixture(scope="module")
def micro(micro_config: Sa2VAConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay with a network that trains in no time, and next to no learning rate: weights stay comparable."""
    file = tmp_path_factory.mktemp("micro") / "micro.json"
    settings = {
        "network_def#config": micro_config.to_dict(),
        "device": "$torch.device('cpu')",
        "learning_rate": 1e-12,
        "num_workers": 0,
        "log_interval": 1,
        "warmup_steps": 0,
        "max_epochs": 2,
        "total_steps": "$@max_epochs * @steps_per_epoch",
        "augmentation": {"_target_": "Identityd", "keys": "image"},
    }
    file.write_text(json.dumps(settings))
    return file


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(folder, 13, 0, 64, splits={"training": 10 / 13, "validation": 3 / 13})
    return folder


def _command(folder: Path, data: Path, files: list[Path], launcher: tuple[str, ...]) -> list[str]:
    where = ("--dataset_dir", str(data), "--ckpt_dir", str(folder / "models"), "--output_dir", str(folder / "eval"))
    names = json.dumps([str(file) for file in files])
    return [sys.executable, "-m", *launcher, "monai.bundle", "run", "training", "--config_file", names, *where]


def _validation(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for file in sorted((folder / "eval" / "tensorboard").iterdir()):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    return {tag: values for tag, values in found.items() if tag.startswith("validation/")}


def test_overlay_changes_what_it_has_to(configs: Path) -> None:
    base, overlay = (json.loads((configs / f"{name}.json").read_text()) for name in ("train", "multi_gpu_train"))
    added = {"timeout_minutes", "find_unused_parameters", "parallel_network", "finalize"}
    changed = {"device", "main_process", "initialize"}
    assert {key for key in overlay if key[0] != "+" and "#" not in key} == added | changed
    assert not added & set(base)
    # the recipe, bfloat16 among it, is that of train.json
    parser = ConfigParser()
    parser.read_config([str(configs / "train.json"), str(configs / "multi_gpu_train.json")])
    assert parser["amp"] == base["amp"]
    assert parser["train"]["trainer"]["network"] == "@parallel_network"
    # what is saved and validated has no wrapper around it
    savers = [handler for handler in parser["train"]["handlers"] if "save_dict" in handler]
    assert {saver["save_dict"]["model"] for saver in savers} == {"@saved_weights"}
    assert parser["saved_weights"] == "@network"
    assert parser["validate"]["evaluator"]["network"] == "@network"


def test_what_writes_or_logs_is_built_in_one_process(configs: Path) -> None:
    train = json.loads((configs / "train.json").read_text())
    for handler in [*train["train"]["handlers"], *train["validate"]["handlers"]]:
        if not handler["_target_"].endswith(_EVERYWHERE):
            assert "not @main_process" in handler["_disabled_"], handler["_target_"]


@pytest.mark.slow
class TestTwoProcesses:
    def test_train_like_one(self, configs: Path, micro: Path, phantoms: Path, tmp_path: Path) -> None:
        files = [configs / "train.json", configs / "multi_gpu_train.json", micro]
        # data that is not there is made by one of the two
        made = tmp_path / "made"
        command = [*_command(tmp_path / "two", made, files, _TORCHRUN), "--phantom_count", "20", "--max_epochs", "1"]
        two = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert two.returncode == 0, two.stderr[-3000:]
        text = two.stdout + two.stderr
        assert "2 processes, joined over gloo" in text
        # 16 images for training: 8 a process, 2 micro-batches, one step
        assert len(re.findall("epoch 1 step 1: loss", text)) == 1
        for once in ("wrote 20 phantoms", "weights at the start", "val_mean_dice [0-9]", "parameters trained"):
            assert len(re.findall(once, text)) == (9 if once == "parameters trained" else 1), once
        assert sorted(path.name for path in (tmp_path / "two" / "models").iterdir()) == [
            "model.pt",
            "resume_00000001.pt",
        ]

    def test_validation_counts_every_object_once(
        self, configs: Path, micro: Path, phantoms: Path, tmp_path: Path
    ) -> None:
        datalist = json.loads((phantoms / "datalist.json").read_text())
        assert sum(len(entry["prompts"]) for entry in datalist["validation"]) % 2 == 1
        found = {}
        for name, launcher, more in (("one", (), []), ("two", _TORCHRUN, [configs / "multi_gpu_train.json"])):
            command = _command(tmp_path / name, phantoms, [configs / "train.json", *more, micro], launcher)
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr[-3000:]
            found[name] = _validation(tmp_path / name)
        assert len(found["one"]["validation/val_mean_dice"]) == 2
        assert found["one"].keys() == found["two"].keys()
        for tag, values in found["one"].items():
            assert found["two"][tag] == pytest.approx(values, abs=1e-4), tag

    @pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by Linux's /proc")
    def test_killed_on_one_the_run_ends_on_all_and_goes_on(
        self, configs: Path, micro: Path, phantoms: Path, tmp_path: Path
    ) -> None:
        files = [configs / "train.json", configs / "multi_gpu_train.json", micro]
        command = [*_command(tmp_path, phantoms, files, _TORCHRUN), "--max_epochs", "10000", "--save_interval", "1"]
        text, ranks = self._run_until(command, "epoch 3 step", tmp_path / "first.txt")
        assert not any(Path(f"/proc/{number}").exists() for number in ranks.values())
        # one line of ours, then torchrun's table; nothing of the other process looks like the cause
        assert text.count("[PROCESS]") == 1
        # by itself, or by torchrun's SIGTERM, whichever comes first
        assert re.search(
            r"\[PROCESS\] another process of this run was killed(, or| or does not answer, so all end)", text
        )
        assert "Signal 9 (SIGKILL) received by PID" in text
        assert re.search(r"Root Cause.*\n(.*\n){3} +rank +: 1 ", text)
        assert text.count("Traceback") == 1  # torchrun's own

        again = [*command, "--resume", "True"]
        text, _ = self._run_until(again, r"going on from[\s\S]*epoch \d+ step", tmp_path / "again.txt")
        # step and epoch go on where they were: one step an epoch
        step = int(re.search(r"going on from resume_(\d+).pt, after", text)[1])
        assert step >= 2
        assert f"epoch {step + 1} step {step + 1}:" in text
        assert f"epoch {step} step {step}:" not in text

    @staticmethod
    def _run_until(command: list[str], line: str, log: Path) -> tuple[str, dict[str, int]]:
        """Start a run, kill its second process when its log has a line; the log, and the processes by rank."""
        with log.open("w") as stream, subprocess.Popen(command, cwd=log.parent, stdout=stream, stderr=stream) as run:
            try:
                _wait_for(lambda: re.search(line, log.read_text()), 180)
                ranks = _processes(run.pid)
                os.kill(ranks["1"], signal.SIGKILL)
                assert run.wait(60) != 0
            finally:
                run.kill()
        return log.read_text(), ranks

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            (["--learning_rat", "1e-3"], "error: process 0: [CONFIG] unknown key learning_rat:"),
            (["--learning_rate", "-1.0"], "error: process 0: [PREFLIGHT] a check before the run failed, parameters: "),
            (["--resume", "True", "--seed", "1"], "[CHECKPOINT] resume_00000001.pt was written with seed 0, and it"),
        ],
        ids=["unknown key", "preflight", "all fail alike"],
    )
    def test_what_stops_a_run_is_said_once(
        self, configs: Path, micro: Path, phantoms: Path, tmp_path: Path, settings: list[str], line: str
    ) -> None:
        files = [configs / "train.json", configs / "multi_gpu_train.json", micro]
        command = [*_command(tmp_path, phantoms, files, _TORCHRUN), "--max_epochs", "1", *settings]
        if "--resume" in settings:
            content: dict[str, Any] = {
                key: {} for key in ("info", "model", "optimizer", "lr_scheduler", "trainer", "validator")
            }
            (tmp_path / "models").mkdir()
            torch.save(
                {**content, "random": [], "settings": {"processes": 2, "seed": 0}},
                tmp_path / "models" / "resume_00000001.pt",
            )
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1
        text = done.stdout + done.stderr
        assert len([said for said in text.splitlines() if said.startswith("error: ") and line in said]) == 1, text
        assert "[PROCESS]" not in text
        assert text.count("Traceback") == 1  # torchrun's own


def _wait_for(done, seconds: float) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def _processes(parent: int) -> dict[str, int]:
    """Process ids of torchrun's children by rank."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [value[5:].decode() for value in environment if value.startswith(b"RANK=")]
        found |= {rank: int(child) for rank in ranks}
    return found
