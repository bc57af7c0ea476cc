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

"""What a LoRA step costs: seconds and peak memory, with and without gradient checkpointing.

``python benchmarks/lora.py`` builds the geometry of internvl3_8b on the GPU with random weights in bfloat16, puts LoRA
of rank 128 into its language model as ``bundle/configs/recipes/upstream.json`` has it, and takes optimizer steps on
made pictures: forward, backward, AdamW. It prints the median step and the peak of the GPU's memory for each of both,
the changes beside the claimed -20 % speed and -40 % memory, and the size of the adapter, and writes them as JSON.

``--from-shards FOLDER`` loads the weights from there instead, after writing them there where it is empty: a checkpoint
as the hub has it, in four files; it prints how long loading took.

On a CPU ``--preset tiny --batch-size 2 --steps 2 --warm-up 1 --rank 8`` tries the script; peak memory is then unknown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading_memory import make_checkpoint
from scoring import print_table

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.engines.fine_tuning import spare_memory
from monai_sa2va.engines.optimizers import KINDS, adamw
from monai_sa2va.engines.trainer import move_to
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, Sa2VAError
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.lora import LoRA, add_lora
from monai_sa2va.networks.parts import PARTS, freeze, trainable_summary
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.sentences import answer_segments

__all__ = ["adapter_size", "build", "compare", "load", "make_batch", "measure"]

CLAIMED = {"speed": -0.20, "memory": -0.40}
"""Changes by gradient checkpointing that are claimed for it: fewer steps a second, less memory."""

_TRAINED = ("text_hidden_fcs", "multi_modal_projector", "grounding_encoder.mask_decoder")
_GIB = 2**30
_FILES = 4  # as the hub has Sa2VA-InternVL3-8B


def build(config: Sa2VAConfig, rank: int, device: torch.device) -> Sa2VA:
    """A network of a geometry with random weights, bfloat16 where they are frozen, and LoRA in it.

    Weights are drawn on the device, each of a small normal distribution: what a step costs doesn't hang on them.
    """
    with torch.device("meta"):
        network = Sa2VA(config)
    _prepare(network, rank)
    network.to_empty(device=device)
    # rotary frequencies and SAM2's constants aren't weights: those of a network built as usual
    built = dict(_buffers(config))
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.02, generator=generator)
        for name, buffer in network.named_buffers():
            buffer.copy_(built[name])
    return network


def load(folder: Path, preset: str, rank: int, device: torch.device) -> tuple[Sa2VA, float]:
    """A checkpoint of random weights with LoRA in it, and how many seconds it took to load onto the device.

    Args:
        folder: of the checkpoint, which is made where the folder is new or empty.
        preset: its geometry, where it is made.
        rank: of the LoRA.
        device: that gets the weights.
    """
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        total, _ = make_checkpoint(folder, get_preset(preset), _FILES, torch.bfloat16, str(device))
        print(f"wrote {total / _GIB:.1f} GiB in {len(list(folder.glob('*.safetensors')))} files", flush=True)
    since = time.perf_counter()
    network = Sa2VA.from_pretrained(folder, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - since
    _prepare(network, rank)
    return network, seconds


def _prepare(network: Sa2VA, rank: int) -> None:
    network.criterion = Sa2VALoss(2.0, 0.5, 1.0, sample_points=True)
    freeze(network, [part for part in PARTS if part not in _TRAINED])
    add_lora(network, LoRA(rank=rank, alpha=2 * rank, dropout=0.05))
    spare_memory(network, frozen_dtype="bfloat16", amp=True)


def _buffers(config: Sa2VAConfig) -> list[tuple[str, torch.Tensor]]:
    """Buffers of a geometry, from a network on the host whose parameters take no memory."""

    # torch's annotation leaves out that what a hook returns takes the parameter's place
    def unfilled(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> Any:
        return None if parameter is None else torch.nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = torch.nn.modules.module.register_module_parameter_registration_hook(unfilled)
    try:
        return list(Sa2VA(config).named_buffers())
    finally:
        handle.remove()


def make_batch(network: Sa2VA, size: int, side: int) -> dict[str, Any]:
    """A training batch of made square pictures, one structure each."""
    random = np.random.default_rng(0)
    samples = []
    for _ in range(size):
        picture = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        names = ["vessels"]
        sample: dict[str, Any] = network.processor(picture, [("Segment the vessels.", answer_segments(names))])
        mask = random.random((1, network.config.grounding.mask_size, network.config.grounding.mask_size)) < 0.3
        samples.append({**sample, "gt_masks": torch.from_numpy(mask).to(torch.uint8), "frames_per_batch": 1})
    return sa2va_collate(samples)


def measure(
    network: Sa2VA, batch: dict[str, Any], steps: int, warm_up: int, checkpointing: bool, kind: str = "adamw"
) -> dict[str, Any]:
    """Median seconds of an optimizer step, and the device's peak memory in bytes (``None`` on a CPU)."""
    device = network.device
    if checkpointing:
        network.gradient_checkpointing_enable()
    else:
        network.mllm.gradient_checkpointing_disable()
    network.train()
    optimizer = adamw([p for p in network.parameters() if p.requires_grad], kind, lr=4e-5)
    batch = move_to(batch, device)
    cuda = device.type == "cuda"
    seconds, losses = [], []
    for number in range(warm_up + steps):
        if cuda:
            torch.cuda.synchronize()
            if number == warm_up:
                torch.cuda.reset_peak_memory_stats()
        since = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = network(batch)[Keys.LOSS]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if cuda:
            torch.cuda.synchronize()
        if number >= warm_up:
            seconds.append(time.perf_counter() - since)
    return {
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "peak_memory": torch.cuda.max_memory_allocated() if cuda else None,
        "last_loss": losses[-1],
    }


def compare(plain: dict[str, Any], again: dict[str, Any]) -> dict[str, float | None]:
    """Changes by gradient checkpointing, of steps a second and of memory, as a share of those without."""
    memory = None
    if plain["peak_memory"] and again["peak_memory"]:
        memory = again["peak_memory"] / plain["peak_memory"] - 1
    return {"speed": plain["seconds"] / again["seconds"] - 1, "memory": memory}


def adapter_size(network: torch.nn.Module) -> dict[str, float]:
    """Parameters of a base and of its adapter, and the share of the one in the other."""
    parts = trainable_summary(network)
    trained = sum(count for count, _ in parts.values())
    base = sum(total for part, (_, total) in parts.items() if part != "lora")
    return {"base": base, "adapter": trained, "share": trained / base}


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="internvl3_8b")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--side", type=int, default=448, help="of the pictures, pixels; 448 is one tile of 256 tokens")
    parser.add_argument("--steps", type=int, default=10, help="that are measured")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before these")
    parser.add_argument("--optimizer-kind", choices=list(KINDS), default="adamw")
    parser.add_argument("--from-shards", type=Path, metavar="FOLDER", help="of a checkpoint, made where it is new")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    arguments = _arguments(given)
    try:
        if arguments.steps < 1 or arguments.warm_up < 0 or arguments.batch_size < 1:
            raise ConfigError("--steps and --batch-size need at least 1, --warm-up at least 0")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loading: float | None = None
        if arguments.from_shards is None:
            network = build(get_preset(arguments.preset), arguments.rank, device)
        else:
            network, loading = load(arguments.from_shards, arguments.preset, arguments.rank, device)
            print(f"loaded in {loading:.1f} s", flush=True)
        batch = make_batch(network, arguments.batch_size, arguments.side)
        options = (arguments.steps, arguments.warm_up)
        found = {
            name: measure(network, batch, *options, name == "checkpointing", arguments.optimizer_kind)
            for name in ("plain", "checkpointing")
        }
    except Sa2VAError as error:
        sys.exit(f"lora.py: {error}")
    change, size = compare(found["plain"], found["checkpointing"]), adapter_size(network)
    print(f"{arguments.preset}: an adapter of {size['adapter']:,.0f} parameters, {size['share']:.1%} of its base")
    tokens = batch[Keys.INPUT_IDS].shape[1]
    print_table(
        f"LoRA of rank {arguments.rank}, batch of {arguments.batch_size}, {tokens} tokens, {device.type}",
        ["figure", "plain", "checkpointing", "change", "claimed"],
        [
            [
                "steps a second",
                *(1 / found[n]["seconds"] for n in found),
                _percent(change["speed"]),
                _percent(CLAIMED["speed"]),
            ],
            [
                "peak GiB",
                *(_gib(found[n]["peak_memory"]) for n in found),
                _percent(change["memory"]),
                _percent(CLAIMED["memory"]),
            ],
        ],
    )
    if arguments.output is not None:
        record = {
            **found,
            "change": change,
            "claimed": CLAIMED,
            "adapter": size,
            "preset": arguments.preset,
            "loading": loading,
        }
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:+.1%}"


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / _GIB:.1f}"


if __name__ == "__main__":
    main()
