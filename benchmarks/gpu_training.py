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

"""What training on GPUs costs and gives: bfloat16 against float32, two GPUs against one, a trained network's scores.

``python benchmarks/gpu_training.py DATA --out runs/gpu`` makes a datalist of CHASE_DB1 in ``DATA`` (children 01 to 10
train, 11 to 14 test) and runs the bundle's training on it, from scratch, as anybody would run it:

* ``precision``: the first steps twice on one GPU, in bfloat16 and in float32, with the same data in the same order;
* ``throughput``: some steps on one GPU, then on several (``multi_gpu_train.json``), with the same batch a GPU;
* ``train``: the whole run on one GPU;
* ``evaluate``: the scores of its ``model.pt`` on children 11 to 14, by ``evaluate.json``.

It prints a table for each and writes ``gpu_training.json``. Interrupted, it goes on with ``--resume``: parts that are
done stay as they are, ``train`` goes on from its last checkpoint. Without a GPU everything runs on the CPU, which tries
the script: ``--preset tiny --steps 4 --train-steps 4 --skip 1 --repeat 1 --workers 0``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from scoring import print_table

from monai_sa2va.data.make_datalist import make_datalist
from monai_sa2va.errors import ConfigError, DataError, Sa2VAError

__all__ = ["Recorder", "difference", "make_data", "summary"]

_ROOT = Path(__file__).resolve().parents[1]
_CONFIGS = _ROOT / "bundle" / "configs"
_WINDOW = 20  # steps that a loss is averaged over before two runs are compared


class Recorder:
    """Handler that writes each optimizer step's loss, samples and seconds, the wait for data, and peak memory.

    Args:
        path: of the JSON file, written when the run ends; of a run that was resumed, it holds the last part.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._steps: list[dict[str, float]] = []
        self._samples, self._wait, self._asked, self._since = 0, 0.0, 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._restart)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._complete)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _restart(self) -> None:
        # validation and checkpoints between two epochs are no part of a step
        self._since = time.perf_counter()

    def _ask(self) -> None:
        self._asked = time.perf_counter()

    def _get(self) -> None:
        self._wait += time.perf_counter() - self._asked

    def _complete(self, engine: Any) -> None:
        self._samples += len(engine.state.batch["input_ids"]) * engine.processes
        if not engine.state.batch["window_end"]:
            return
        # the norm of the gradient was read: the device has done this step's forward and backward pass
        now = time.perf_counter()
        step = {"loss": engine.state.step_losses["loss"], "samples": self._samples, "seconds": now - self._since}
        self._steps.append({**step, "wait": self._wait, "epoch": engine.state.epoch})
        self._samples, self._wait, self._since = 0, 0.0, now

    def _write(self, engine: Any) -> None:
        # resumed after its end: what it wrote then stays
        if not self._steps:
            return
        cuda = torch.cuda.is_available()
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
        device = torch.cuda.get_device_name() if cuda else "CPU"
        record = {"processes": engine.processes, "device": device, "peak_memory_gib": peak, "steps": self._steps}
        self.path.write_text(json.dumps(record) + "\n", encoding="utf-8")


def make_data(data: Path, out: Path, repeat: int) -> Path:
    """A datalist of CHASE_DB1 whose training images are listed ``repeat`` times, so that an epoch is worth measuring.

    Raises:
        DataError: when the folders don't hold it.
    """
    made = make_datalist(
        data / "images",
        data / "masks",
        ["vessels"],
        base_dir=out,
        group_regex=r"(\d+)[LR]",
        test_groups=["11", "12", "13", "14"],
    )
    listed = {**made.sections, "training": made.sections["training"] * repeat}
    path = out / "datalist.json"
    path.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    return path


def summary(record: dict[str, Any], skip: int) -> dict[str, Any]:
    """Throughput, seconds an epoch and share of waiting for data, without the first ``skip`` steps.

    Raises:
        DataError: when no step is left.
    """
    steps = record["steps"][skip:]
    if not steps:
        raise DataError(f"the run has {len(record['steps'])} steps; give more than --skip {skip}")
    seconds = sum(step["seconds"] for step in steps)
    epochs: dict[int, float] = {}
    for step in record["steps"]:
        epochs[step["epoch"]] = epochs.get(step["epoch"], 0.0) + step["seconds"]
    return {
        "processes": record["processes"],
        "device": record["device"],
        "samples_per_s": sum(step["samples"] for step in steps) / seconds,
        "seconds_an_epoch": statistics.median(epochs.values()),
        "waiting_for_data": sum(step["wait"] for step in steps) / seconds,
        "peak_memory_gib": record["peak_memory_gib"],
    }


def difference(first: Sequence[float], second: Sequence[float], window: int = _WINDOW) -> dict[str, float]:
    """How far two runs' losses are apart, relative to the second: of single steps on average, of means at most.

    Args:
        first: losses of one run, by step.
        second: of the other, as many.
        window: steps of a mean.

    Raises:
        DataError: when the numbers of steps differ, or there is none.
    """
    if not first or len(first) != len(second):
        raise DataError(f"the runs have {len(first)} and {len(second)} steps; both need the same number, above 0")
    single = [abs(a - b) / abs(b) for a, b in zip(first, second, strict=True)]
    starts = range(0, len(first), window)
    means = [[statistics.fmean(run[i : i + window]) for i in starts] for run in (first, second)]
    return {
        "mean_of_steps": statistics.fmean(single),
        "largest_of_means": max(abs(a - b) / abs(b) for a, b in zip(*means, strict=True)),
        "whole_run": abs(statistics.fmean(first) - statistics.fmean(second)) / statistics.fmean(second),
    }


def _train(
    arguments: argparse.Namespace,
    name: str,
    steps: int,
    gpus: int = 1,
    amp: bool | None = None,
    resume: bool = False,
) -> Any:
    """Run the bundle's training for at least so many optimizer steps, and return what the Recorder wrote."""
    out = arguments.out / name
    out.mkdir(parents=True, exist_ok=True)
    record = out / "record.json"
    overlay: dict[str, Any] = {
        "+train#handlers": [
            {"_target_": "gpu_training.Recorder", "_disabled_": "$not @main_process", "path": str(record)}
        ],
        "max_epochs": f"$-(-{steps} // @steps_per_epoch)",
        "total_steps": "$@max_epochs * @steps_per_epoch",
        "warmup_steps": f"${arguments.warmup} if {arguments.warmup} < @total_steps else 1",
        "preset": arguments.preset,
        "dataset_dir": str(arguments.data),
        "datalist": str(arguments.out / "datalist.json"),
        "ckpt_dir": str(out / "models"),
        "output_dir": str(out),
        "num_workers": arguments.workers,
        "learning_rate": arguments.learning_rate,
        "batch_size": arguments.batch_size,
        "accumulation_steps": 1,
        "mask_size": arguments.mask_size,
        "max_objects": 1,
        # of a run that is measured, no time is spent on checkpoints
        "save_interval": arguments.save_interval if resume else steps + 1,
        "resume": resume and arguments.resume,
    }
    if amp is not None:
        overlay["amp"] = amp
    (out / "overlay.json").write_text(json.dumps(overlay, indent=1) + "\n", encoding="utf-8")
    files = [_CONFIGS / "train.json", *([_CONFIGS / "multi_gpu_train.json"] if gpus > 1 else []), out / "overlay.json"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(gpus), "-m"] if gpus > 1 else []
    print(f"{name}: {steps} steps", flush=True)
    config = ["--config_file", json.dumps([str(file) for file in files])]
    _run([*launcher, "monai.bundle", "run", "training", *config], out, one_gpu=gpus == 1)
    return json.loads(record.read_text(encoding="utf-8"))


def _run(module: Sequence[str], out: Path, one_gpu: bool) -> None:
    """Run a module in a process of its own, which writes its log into ``out``.

    Raises:
        DataError: when it fails.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    if one_gpu and torch.cuda.is_available():
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", *module], env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise DataError(f"the run {out.name} failed with {done.returncode}; see {out / 'log.txt'}")


def _precision(arguments: argparse.Namespace) -> dict[str, Any]:
    runs = {name: _train(arguments, name, arguments.steps, amp=name == "bf16") for name in ("bf16", "fp32")}
    losses = {name: [step["loss"] for step in run["steps"]][: arguments.steps] for name, run in runs.items()}
    apart = difference(losses["bf16"], losses["fp32"])
    print_table(
        f"losses of {arguments.steps} steps, bfloat16 against float32",
        ["figure", "relative difference"],
        [[key.replace("_", " "), f"{value:.3%}"] for key, value in apart.items()],
    )
    return {"difference": apart, "losses": losses, **{k: summary(run, arguments.skip) for k, run in runs.items()}}


def _throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    one = summary(_train(arguments, "one", arguments.steps), arguments.skip)
    several = summary(_train(arguments, f"gpus-{arguments.gpus}", arguments.steps, arguments.gpus), arguments.skip)
    ratio = several["samples_per_s"] / one["samples_per_s"]
    print_table(
        f"{arguments.gpus} processes against one, {arguments.batch_size} images each: {ratio:.2f} times the throughput",
        ["figure", "one", str(arguments.gpus)],
        [[key.replace("_", " "), one[key], several[key]] for key in one],
    )
    return {"ratio": ratio, "one": one, "several": several}


def _whole(arguments: argparse.Namespace) -> dict[str, Any]:
    found = summary(_train(arguments, "train", arguments.train_steps, resume=True), arguments.skip)
    print_table("the whole run", ["figure", "value"], [[key.replace("_", " "), value] for key, value in found.items()])
    return found


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    out = arguments.out / "evaluate"
    out.mkdir(exist_ok=True)
    model = arguments.out / "train" / "models" / "model.pt"
    if not model.is_file():
        raise DataError(f"there is no {model} to evaluate; run the part 'train' first")
    values = {"checkpoint": model, "dataset_dir": arguments.data, "datalist": arguments.out / "datalist.json"}
    command = ["monai.bundle", "run", "evaluating", "--config_file", str(_CONFIGS / "evaluate.json")]
    for key, value in {**values, "output_dir": out}.items():
        command += [f"--{key}", str(value)]
    _run(command, out, one_gpu=True)
    report = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {name: report["overall"]["scores"][name] for name in _SCORES}
    print_table(
        f"{report['cases']['scored']} of {report['cases']['total']} images of children 11 to 14",
        ["score", "mean", "low", "high"],
        [[name, *(found[name][key] for key in ("mean", "low", "high"))] for name in _SCORES],
    )
    return {**found, "cases": report["cases"], "confidence": report["settings"]["confidence"]}


_SCORES = ("dice", "iou", "precision", "recall")
_PARTS = {"precision": _precision, "throughput": _throughput, "train": _whole, "evaluate": _evaluate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of CHASE_DB1, with images/ and masks/")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="a new folder, or one to go on in")
    parser.add_argument("--resume", action="store_true", help="go on in --out, with the same arguments as before")
    parser.add_argument("--parts", nargs="+", choices=list(_PARTS), default=list(_PARTS), help="what is run")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--gpus", type=int, default=2, help="of the run that is compared with one")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of 'precision' and 'throughput'")
    parser.add_argument("--train-steps", type=int, default=4000, help="optimizer steps of 'train'")
    parser.add_argument("--save-interval", type=int, default=500, help="optimizer steps between 'train's checkpoints")
    parser.add_argument("--skip", type=int, default=20, help="first steps that count for no speed")
    parser.add_argument("--repeat", type=int, default=20, help="how often an epoch shows each image")
    parser.add_argument("--batch-size", type=int, default=4, help="images a GPU")
    parser.add_argument("--workers", type=int, default=8, help="loading processes a GPU")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warmup", type=int, default=100, help="optimizer steps; 1 in a run that is no longer")
    parser.add_argument("--mask-size", type=int, default=512, help="side of true masks, pixels")
    arguments = parser.parse_args()
    try:
        if arguments.gpus < 2:
            raise ConfigError(f"gpus is {arguments.gpus}; give 2 or more")
        arguments.out.mkdir(parents=True, exist_ok=arguments.resume)
        arguments.out, arguments.data = arguments.out.resolve(), arguments.data.resolve()
        make_data(arguments.data, arguments.out, arguments.repeat)
        file = arguments.out / "gpu_training.json"
        results: dict[str, Any] = {"preset": arguments.preset}
        if arguments.resume and file.is_file():
            results = json.loads(file.read_text(encoding="utf-8"))
        for part in arguments.parts:
            if part not in results:
                results[part] = _PARTS[part](arguments)
                # after each part: what is measured is kept where a later one fails
                file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except FileExistsError:
        sys.exit(f"gpu_training.py: --out {arguments.out} exists; name a new folder, or go on with --resume")
    except Sa2VAError as error:
        sys.exit(f"gpu_training.py: {error}")


if __name__ == "__main__":
    main()
