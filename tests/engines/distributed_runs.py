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

"""What tests/engines/test_distributed.py runs in several processes: torchrun starts this file, each writes its results.

    torchrun --nproc_per_node N distributed_runs.py FOLDER

FOLDER/input.pt holds the configuration, samples and scenarios; process R writes FOLDER/rank-R.pt.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.data import DistributedSampler
from monai.engines.utils import IterationEvents

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.engines.distributed import (
    DistributedSa2VA,
    evaluation_sampler,
    join_processes,
    others_go_on,
    others_wait,
    process_device,
)
from monai_sa2va.engines.resume import ResumableCheckpoint
from monai_sa2va.engines.trainer import Sa2VATrainer
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.sa2va import Sa2VA


def train(
    config: Sa2VAConfig, samples: list[dict[str, Any]], scenario: dict[str, Any], parallel: bool
) -> dict[str, Any]:
    """Gradients before each step, losses and reductions of each, and the weights at the end."""
    network = Sa2VA(config, seed=0).to(scenario["dtype"])
    chosen = [{**samples[number], "source": f"{number}.png"} for number in scenario["samples"]]
    if "nan" in scenario:
        chosen[scenario["nan"]]["pixel_values"] = chosen[scenario["nan"]]["pixel_values"] * float("nan")
    optimizer = scenario.get("optimizer", torch.optim.SGD)(network.parameters(), lr=scenario["lr"])
    trained = DistributedSa2VA(network, **scenario.get("parallel", {})) if parallel else network
    reductions: list[int] = [0]
    if parallel:
        trained.register_comm_hook(reductions, _counting)
    trainer = Sa2VATrainer(
        "cpu",
        scenario.get("epochs", 1),
        Sa2VADataLoader(
            chosen,
            batch_size=scenario["batch_size"],
            sampler=DistributedSampler(chosen, shuffle=False) if parallel else None,
        ),
        trained,
        optimizer,
        accumulation_steps=scenario["steps"],
        clip_norm=None,
    )
    found: dict[str, Any] = {"gradients": [], "losses": [], "reductions": []}

    def look() -> None:
        found["reductions"].append(reductions[0])
        if trainer.state.batch["window_end"]:
            named = network.named_parameters()
            found["gradients"].append({name: p.grad.clone() for name, p in named if p.grad is not None})

    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, look)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: found["losses"].append(dict(engine.state.step_losses))
    )
    trainer.run()
    return {**found, "weights": {name: p.detach().clone() for name, p in network.named_parameters()}}


class Stop(RuntimeError):  # noqa: N818
    """Ends a run, in all processes at once."""


def resume(config: Sa2VAConfig, samples: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Weights of a run without interruption, and of one that was stopped in mid-epoch and went on."""

    def run(name: str, stop: int | None = None, again: bool = False) -> dict[str, torch.Tensor]:
        # each process draws points of its own
        torch.manual_seed(100 * again + dist.get_rank())
        network = Sa2VA(config, Sa2VALoss(sample_points=True, num_points=16), seed=0)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        saved = {"model": network, "optimizer": optimizer}
        loader = Sa2VADataLoader(
            samples, 1, seed=0, sampler=DistributedSampler(samples, shuffle=True, seed=0, even_divisible=True)
        )
        trainer = Sa2VATrainer(
            "cpu",
            2,
            loader,
            DistributedSa2VA(network),
            optimizer,
            train_handlers=[ResumableCheckpoint(folder / name, saved, interval=2, resume=again)],
        )

        def look() -> None:
            if trainer.state.iteration == stop:
                raise Stop

        trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
        with suppress(Stop):
            trainer.run()
        return {name: p.detach().clone() for name, p in network.named_parameters()}

    # three steps an epoch: the second epoch's first is saved, its second one is lost
    found = {"whole": run("whole"), "stopped": run("parted", stop=5), "resumed": run("parted", again=True)}
    dist.barrier()
    settings = torch.load(folder / "parted" / "resume_00000004.pt", weights_only=True)["settings"]
    return {**found, "settings": settings}


def _counting(reductions, bucket):  # torch refuses any annotation that is a string
    """A communication hook that does what the default does, and counts."""
    reductions[0] += 1
    done = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
    return done.then(lambda future: future.value()[0])


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    device = process_device()
    join_processes(device, 1.0)
    rank = dist.get_rank()
    given = torch.load(folder / "input.pt", weights_only=False)
    results: dict[str, Any] = {}
    config = Sa2VAConfig.from_dict(given["config"])
    results["resume"] = resume(config, given["samples"][:6], folder)
    for name, scenario in given["scenarios"].items():
        try:
            results[name] = train(config, given["samples"], scenario, True)
        except RuntimeError as error:
            results[name] = f"{type(error).__name__}: {error}"
    # every third number, without padding
    results["shares"] = [list(evaluation_sampler(range(length)) or ()) for length in (7, 2, 0)]
    try:
        evaluation_sampler([0])
    except ValueError as error:
        results["too few"] = str(error)
    others_wait()
    if rank == 0:
        (folder / "made").write_text("whole")
    results["made"] = (folder / "made").read_text()
    others_go_on()
    torch.save(results, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
