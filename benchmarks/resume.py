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

"""Does a training that is killed and resumed end with the weights of an uninterrupted one? Tried, with SIGKILL.

``python benchmarks/resume.py --kills 20`` trains a very small network on phantoms by the bundle's own ``train.json``:
once without interruption, then again and again, killed at random moments and resumed until it ends, until so many kills
are reached. It prints a line for each such run, and ends with 1 where a weight differs by a single bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# before torch is imported: the sums of several threads have an order of their own
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from monai.bundle import run

from monai_sa2va.data.phantoms import write_phantoms
from monai_sa2va.networks.sa2va import Sa2VA

CONFIG = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "train.json"
NETWORK = {
    "name": "micro",
    "vision": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 28,
    },
    "text": {
        "model_type": "qwen2",
        "vocab_size": 267,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
    },
    "grounding": {
        "image_size": 64,
        "hidden_dim": 32,
        "mem_dim": 16,
        "embed_dim": 16,
        "num_heads": 1,
        "stages": [1, 1, 2, 1],
        "global_att_blocks": [3],
        "window_spec": [8, 4, 4, 2],
        "feedforward_dim": 32,
        "iou_head_hidden_dim": 32,
        "memory_layers": 1,
        "memory_feedforward_dim": 32,
        "round_constants_to_bf16": False,
    },
    "projector_hidden": 32,
    "answer_form": "named",
    "max_tiles": 1,
}


def settings(data: Path, folder: Path, epochs: int, workers: int) -> dict[str, Any]:
    """Overrides of ``train.json``: unequal windows, random points, and a checkpoint every second step."""
    return {
        "device": "$torch.device('cpu')",
        "dataset_dir": str(data),
        "ckpt_dir": str(folder),
        "output_dir": str(folder),
        "preset": NETWORK,
        "mask_size": 32,
        "criterion": {
            "_target_": "monai_sa2va.losses.sa2va_loss.Sa2VALoss",
            "sample_points": True,
            "num_points": 64,
        },
        "learning_rate": 1e-3,
        "warmup_steps": 3,
        "total_steps": "$@max_epochs * @steps_per_epoch",
        "max_epochs": epochs,
        "batch_size": 2,
        "accumulation_steps": 2,
        "num_workers": workers,
        # a cache is filled by threads, in which PyTorch doesn't compute after a fork
        "cache_rate": 0.0,
        "val_interval": 2,
        "save_interval": 2,
        "resume": True,
    }


def start(config: Path, log: Path) -> int:
    """Train in a process of its own; its number. It is forked, so that nothing is imported again for each of them."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        run(run_id="training", config_file=[str(CONFIG), str(config)])
        code = 0
    finally:
        # not by an exception: what the parent has to do at its end is none of the child's business
        os._exit(code)


def ended(child: int, seconds: float) -> bool:
    """Wait for a process; kill it when the time is over. Whether it had ended by itself, and well."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit("a training failed; its log tells why")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def newest_step(folder: Path) -> int:
    """Optimizer steps of the newest checkpoint, 0 without one."""
    return max((int(path.stem.split("_")[1]) for path in folder.glob("resume_*.pt")), default=0)


def different(first: Path, second: Path) -> list[str]:
    """Names of the values of two checkpoints that are not the same, bit for bit; when they were begun doesn't count."""
    one, other = torch.load(first, weights_only=True), torch.load(second, weights_only=True)
    return _different(one | {"run": 0}, other | {"run": 0}, "")


def _different(first: Any, second: Any, name: str) -> list[str]:
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, (dict, list, tuple)) and len(first) == len(second):
        keys = list(first) if isinstance(first, dict) else range(len(first))
        return [odd for key in keys for odd in _different(first[key], second[key], f"{name}/{key}")]
    return [] if first == second else [name]


def main() -> int:
    """Train, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20, help="how many in all")
    parser.add_argument("--epochs", type=int, default=6, help="length of a training")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        return _compare(folder, options)


def _compare(folder: Path, options: argparse.Namespace) -> int:
    Sa2VA(NETWORK, seed=0)  # imports what it needs
    data, whole, parted = folder / "data", folder / "whole", folder / "parted"
    write_phantoms(data, 15, 0, size=64, splits={"training": 0.8, "validation": 0.2, "testing": 0.0})
    configs = {}
    for place in (whole, parted):
        place.mkdir()
        configs[place] = place / "config.json"
        configs[place].write_text(json.dumps(settings(data, place, options.epochs, options.workers)))
    since = time.monotonic()
    ended(start(configs[whole], whole / "log.txt"), 3600)
    seconds = time.monotonic() - since
    print(f"uninterrupted: {seconds:.1f} s")

    moments, kills, wrong = random.Random(options.seed), 0, 0
    while kills < options.kills:
        for old in parted.glob("*.pt"):
            old.unlink()
        here: list[int] = []
        # the last kills are as many as are left; after them the training may end
        while kills + len(here) < options.kills and not ended(
            start(configs[parted], parted / "log.txt"), moments.uniform(0.1, 0.7) * seconds
        ):
            here.append(newest_step(parted))
        if kills + len(here) == options.kills:
            ended(start(configs[parted], parted / "log.txt"), 3600)
        kills += len(here)
        odd = [
            f"{path.name}{name}" for path in sorted(whole.glob("*.pt")) for name in different(path, parted / path.name)
        ]
        wrong += bool(odd)
        print(
            f"{len(here)} kills, newest checkpoints of steps {here}: "
            f"{'different: ' + ', '.join(odd[:3]) if odd else 'the same, bit for bit'}",
            flush=True,
        )
    print(f"{kills} kills in all, {wrong} runs differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
