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
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.engines import distributed
from monai_sa2va.engines.distributed import DistributedSa2VA, unwrap
from monai_sa2va.engines.trainer import Sa2VATrainer
from monai_sa2va.errors import ConfigError

_SCRIPT = Path(__file__).with_name("distributed_runs.py")
_EIGHT = list(range(8))
# by default one step of a rank's samples; sample 2 has no object
SCENARIOS: dict[str, dict[str, Any]] = {
    "one batch": {"samples": _EIGHT, "batch_size": 4, "steps": 1},
    "accumulated": {"samples": _EIGHT, "batch_size": 2, "steps": 2},
    "five steps": {"samples": _EIGHT, "batch_size": 2, "steps": 2, "epochs": 5, "dtype": torch.float32, "lr": 0.05},
    "no object on one": {"samples": [0, 2, 1, 2], "batch_size": 2, "steps": 1},
    "no object at the end": {"samples": [0, 1, 2, 2], "batch_size": 1, "steps": 2},
    "no object at first": {"samples": [2, 2, 0, 1], "batch_size": 1, "steps": 1},
    "AdamW": {"samples": [0, 1, 2, 2], "batch_size": 1, "steps": 1, "lr": 1e-3, "optimizer": torch.optim.AdamW},
    # process 1 has samples 1 and 3
    "not finite": {"samples": [0, 1, 2, 3], "batch_size": 1, "steps": 2, "nan": 3},
    # last: it breaks
    "no search": {"samples": [0, 1, 2, 3], "batch_size": 1, "steps": 1, "parallel": {"find_unused_parameters": False}},
}
for _scenario in SCENARIOS.values():
    _scenario.setdefault("dtype", torch.float64)
    _scenario.setdefault("lr", 0.0)


def _torchrun(processes: int, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def ranks(
    micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of two processes found in all scenarios."""
    folder = tmp_path_factory.mktemp("ranks")
    given = {"config": micro_config.to_dict(), "samples": micro_samples, "scenarios": SCENARIOS}
    torch.save(given, folder / "input.pt")
    result = _torchrun(2, str(_SCRIPT), str(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """A scenario in this process alone, with micro-batches of twice the size."""
    sys.path.insert(0, str(_SCRIPT.parent))
    from distributed_runs import train

    sys.path.pop(0)

    def run(name: str) -> dict[str, Any]:
        scenario = SCENARIOS[name]
        doubled = {**scenario, "batch_size": 2 * scenario["batch_size"]}
        found: dict[str, Any] = train(micro_config, micro_samples, doubled, parallel=False)
        return found

    return run


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Norm of the difference relative to the norm, over all parameters."""
    assert first.keys() == second.keys()
    difference = sum(((first[name] - second[name]) ** 2).sum().item() for name in first)
    return math.sqrt(difference / sum((value**2).sum().item() for value in first.values()))


class TestTwoProcessesAreOne:
    def test_ranks_are_unequal(self, micro_samples: list[dict[str, Any]]) -> None:
        objects, tokens = (
            [sum(len(sample[key]) for sample in micro_samples[rank::2]) for rank in range(2)]
            for key in ("gt_masks", "input_ids")
        )
        assert objects[0] != objects[1]
        assert tokens[0] != tokens[1]

    @pytest.mark.parametrize("name", [name for name in SCENARIOS if SCENARIOS[name]["dtype"] == torch.float64][:-2])
    def test_gradients(self, ranks: list[dict[str, Any]], alone: Callable[[str], dict[str, Any]], name: str) -> None:
        expected = alone(name)
        for rank, found in enumerate(ranks):
            assert len(found[name]["gradients"]) == len(expected["gradients"])
            apart = [_distance(*pair) for pair in zip(expected["gradients"], found[name]["gradients"], strict=True)]
            print(f"{name}, process {rank}: gradients of {len(apart)} steps in float64 differ by {max(apart):.1e}")
            for mine, theirs in zip(expected["gradients"], found[name]["gradients"], strict=True):
                # also the same parameters without any: AdamW would shrink those that get a zero
                assert _distance(mine, theirs) < 1e-9
            assert _distance(expected["weights"], found[name]["weights"]) < 1e-9

    def test_weights_after_five_steps(
        self, ranks: list[dict[str, Any]], alone: Callable[[str], dict[str, Any]], micro_config: Sa2VAConfig
    ) -> None:
        from monai_sa2va.networks.sa2va import Sa2VA

        expected = alone("five steps")["weights"]
        start = {name: p.detach() for name, p in Sa2VA(micro_config, seed=0).named_parameters()}
        assert _distance(start, expected) > 1e-3
        for rank, found in enumerate(ranks):
            weights = found["five steps"]["weights"]
            print(f"process {rank}: weights after 5 steps in float32 differ by {_distance(expected, weights):.1e}")
            assert len(found["five steps"]["gradients"]) == 5
            assert _distance(expected, weights) < 1e-5
            for name, value in expected.items():
                assert torch.allclose(value, weights[name], rtol=1e-5, atol=1e-5), name

    def test_all_ranks_hold_the_same_weights(self, ranks: list[dict[str, Any]]) -> None:
        first, second = (found["five steps"]["weights"] for found in ranks)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_losses_are_those_of_the_whole_step(
        self, ranks: list[dict[str, Any]], alone: Callable[[str], dict[str, Any]]
    ) -> None:
        expected = alone("accumulated")["losses"]
        assert set(expected[-1]) == {"loss", "loss_mask", "loss_dice", "loss_lang"}
        for found in ranks:
            assert found["accumulated"]["losses"][-1] == pytest.approx(expected[-1], rel=1e-12)

    def test_gradients_go_around_once_a_step(self, ranks: list[dict[str, Any]]) -> None:
        first, second = ranks[0]["accumulated"]["reductions"]
        assert first == 0
        assert second > 0

    def test_without_the_search_for_unused_parameters_a_step_fails(self, ranks: list[dict[str, Any]]) -> None:
        for found in ranks:
            assert "Expected to have finished reduction" in found["no search"]


class TestEnding:
    def test_resumed_it_ends_as_an_uninterrupted_one(self, ranks: list[dict[str, Any]]) -> None:
        for found in ranks:
            whole, stopped, resumed = (found["resume"][name] for name in ("whole", "stopped", "resumed"))
            assert not all(torch.equal(whole[name], stopped[name]) for name in whole)
            assert all(torch.equal(whole[name], resumed[name]) for name in whole)
            assert found["resume"]["settings"]["processes"] == 2
        # what each draws by itself is its own, what they share is not
        assert all(torch.equal(value, ranks[1]["resume"]["whole"][name]) for name, value in whole.items())

    def test_all_name_the_batch_that_is_to_blame(self, ranks: list[dict[str, Any]]) -> None:
        for found in ranks:
            assert found["not finite"] == (
                "TrainingError: [TRAINING] the loss is nan before step 1, in process 1's batch of 3.png; "
                "look at these files, or lower learning_rate"
            )


class TestSharing:
    def test_evaluation_counts_no_sample_twice(self, ranks: list[dict[str, Any]]) -> None:
        assert [found["shares"] for found in ranks] == [[[0, 2, 4, 6], [0], []], [[1, 3, 5], [1], []]]

    def test_too_few_samples(self, ranks: list[dict[str, Any]]) -> None:
        for found in ranks:
            assert "1 validation samples are too few for 2 processes" in found["too few"]

    def test_one_makes_what_all_use(self, ranks: list[dict[str, Any]]) -> None:
        assert [found["made"] for found in ranks] == ["whole", "whole"]


class TestOneProcess:
    @pytest.mark.parametrize("call", [distributed.process_device, lambda: distributed.join_processes("cpu")])
    def test_without_torchrun(self, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> None:
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        with pytest.raises(ConfigError, match=r"RANK is not set.*torchrun --nproc_per_node 2"):
            call()

    def test_more_processes_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "2")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ConfigError, match="process 2 finds no GPU of its own, this machine has 2"):
            distributed.process_device()
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert distributed.process_device() == torch.device("cuda", 1)

    def test_a_process_that_stands_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # as a scheduler may set it for something else
        monkeypatch.setenv("RANK", "1")
        assert distributed.is_main()
        assert distributed.process_number() == 0
        assert distributed.gather_all("mine") == ["mine"]

    def test_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ConfigError, match="timeout_minutes is 0"):
            distributed.join_processes("cpu", 0)

    def test_wrapping_needs_joined_processes(self) -> None:
        with pytest.raises(ConfigError, match="join_processes"):
            DistributedSa2VA(nn.Linear(1, 1))

    def test_unwrap(self) -> None:
        inner, first, second = nn.Linear(1, 1), nn.Module(), nn.Module()
        first.module, second.module = inner, first
        assert unwrap(second) is unwrap(inner) is inner

    def test_trainer_refuses_a_plain_wrapper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        network = nn.Linear(1, 1)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            with pytest.raises(ConfigError, match="use DistributedSa2VA"):
                Sa2VATrainer(
                    "cpu",
                    1,
                    [],  # type: ignore[arg-type]
                    DistributedDataParallel(network),
                    torch.optim.SGD(network.parameters()),
                )
        finally:
            dist.destroy_process_group()


class TestPeerGone:
    GONE = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9")

    @pytest.fixture
    def waited(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        found: list[float] = []
        monkeypatch.setattr(distributed.time, "sleep", found.append)
        return found

    @staticmethod
    def _end(error: BaseException, first: str | None = None) -> list[BaseException]:
        """What the usual excepthook gets in process 3; ``first`` is what another process said before."""
        usual: list[BaseException] = []
        hook = distributed._report(lambda kind, error, _: usual.append(error), 3, lambda own: first or own)
        hook(type(error), error, None)
        return usual

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_one_line_instead_of_a_traceback(
        self, waited: list[float], capsys: pytest.CaptureFixture[str], wrapped: bool
    ) -> None:
        error = RuntimeError("Failed to evaluate ConfigExpression") if wrapped else self.GONE
        error.__cause__ = self.GONE if wrapped else None
        assert not self._end(error)
        shown = capsys.readouterr().err
        # on a line of its own, whatever another process was printing
        assert shown.startswith(
            "\nerror: process 3: [PROCESS] another process of this run was killed or does not answer"
        )
        assert shown.endswith("--resume True\n")
        assert len(waited) == 1

    @pytest.mark.parametrize("first", ["process 1: [TRAINING] the loss is nan", "process 0 ended"])
    def test_nothing_where_the_other_has_said_why(
        self, waited: list[float], capsys: pytest.CaptureFixture[str], first: str
    ) -> None:
        assert not self._end(self.GONE, first)
        assert capsys.readouterr().err == ""
        assert len(waited) == 1

    def test_what_all_say_is_said_once(self, waited: list[float], capsys: pytest.CaptureFixture[str]) -> None:
        error = RuntimeError("Failed to evaluate ConfigExpression")
        error.__cause__ = ConfigError("seed is -1")
        assert not self._end(error, "process 0: [CONFIG] seed is -1")
        assert capsys.readouterr().err == ""
        assert len(waited) == 1
        # the first one ends at once, so that torchrun names it
        assert not self._end(error)
        assert capsys.readouterr().err == "\nerror: process 3: [CONFIG] seed is -1\n"
        assert len(waited) == 1

    @pytest.mark.parametrize(
        "error",
        [ValueError("gloo: closed by peer"), RuntimeError("shapes differ"), RuntimeError("timed out"), SystemExit(1)],
    )
    def test_other_errors_stay_what_they_are(self, waited: list[float], error: BaseException) -> None:
        assert self._end(error) == [error]
        assert not waited
        # two that fail unlike each other both say so
        assert self._end(error, "process 1: no room") == [error]
