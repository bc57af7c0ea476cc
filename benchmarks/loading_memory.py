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

"""Peak host memory while a checkpoint loads: ``python benchmarks/loading_memory.py``.

Makes a checkpoint of random weights with official keys in a temporary folder, 2 GB in 8 shards by default, loads it in
a process of its own, and prints how far that process' anonymous memory (RssAnon, Linux only: what can't be given up
like pages of a file) rose above its value after the imports, beside the limit: the checkpoint's size, one shard, and
300 MB. The exit code is 1 where the peak is above the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from monai_sa2va.checkpoints.families import family_of
from monai_sa2va.checkpoints.pretrained import build_without_memory
from monai_sa2va.checkpoints.safetensors_file import TensorEntry, shards_of, write_safetensors
from monai_sa2va.checkpoints.source import EXTRAS_FILE, extras_of
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["ALLOWANCE", "exact_shards", "main", "make_checkpoint", "measure", "of_size", "rss_anon"]

ALLOWANCE = 300 * 10**6
"""Bytes beside the weights and one shard that loading may take."""

_INTERVAL_S = 0.002


def of_size(config: Sa2VAConfig, size: int, dtype: torch.dtype) -> Sa2VAConfig:
    """The geometry with as many layers of the language model, at least one, as come nearest to ``size`` bytes."""

    def bytes_with(layers: int) -> int:
        text = replace(config.text, num_hidden_layers=layers)
        state = build_without_memory(Sa2VA, replace(config, text=text)).state_dict()
        return sum(value.numel() for value in state.values()) * dtype.itemsize

    least = bytes_with(1)
    layers = max(1, 1 + round((size - least) / (bytes_with(2) - least)))
    return replace(config, text=replace(config.text, num_hidden_layers=layers))


def exact_shards(entries: Sequence[TensorEntry], count: int) -> list[list[TensorEntry]]:
    """Entries in order in exactly ``count`` files, the largest of them as small as can be.

    Raises:
        ValueError: when there are fewer entries than files.
    """
    if not 1 <= count <= len(entries):
        raise ValueError(f"{len(entries)} tensors can't be in {count} files; give 1 to {len(entries)}")
    low, high = max(entry.size for entry in entries), sum(entry.size for entry in entries)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(shards_of(entries, middle)) <= count else (middle + 1, high)
    files = shards_of(entries, low)
    while len(files) < count:
        # a large tensor may leave fewer files than asked for
        longest = max(range(len(files)), key=lambda number: len(files[number]))
        half = len(files[longest]) // 2
        files[longest : longest + 1] = [files[longest][:half], files[longest][half:]]
    return files


def make_checkpoint(
    folder: Path, config: Sa2VAConfig, shards: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[int, int]:
    """Write a checkpoint of random weights as the hub has them.

    Args:
        folder: that gets it; it is there.
        config: its geometry.
        shards: number of files.
        dtype: of the weights.
        device: that draws them; one tensor at a time is there.

    Returns:
        Bytes of all tensors, and of those in the largest file.
    """
    family = family_of(config)
    state = build_without_memory(Sa2VA, config).state_dict()
    official = family.layout(config).to_official(state)
    entries = [
        TensorEntry(key, tuple(value.shape), dtype, partial(_drawn, value.shape, dtype, device))
        for key, value in official.items()
    ]
    total = sum(entry.size for entry in entries)
    files = exact_shards(entries, shards)
    places: dict[str, str] = {}
    for number, file in enumerate(files, start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write_safetensors(folder / name, file, {"format": "pt"})
        places.update(dict.fromkeys((entry.key for entry in file), name))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    written = family.write_config(config)
    (folder / "config.json").write_text(json.dumps(written))
    extras = extras_of(config, family, written)
    if extras:
        (folder / EXTRAS_FILE).write_text(json.dumps(extras))
    byte_tokenizer().save_pretrained(folder)
    return total, max(sum(entry.size for entry in file) for file in files)


def _drawn(shape: torch.Size, dtype: torch.dtype, device: str) -> torch.Tensor:
    # small, so that activations stay finite through many layers
    return (0.02 * torch.randn(shape, dtype=dtype, device=device)).cpu()


def rss_anon() -> int:
    """Bytes of this process' anonymous memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status says no RssAnon; this needs Linux")


def measure(folder: Path) -> dict[str, float]:
    """Load a checkpoint in this process.

    Returns:
        ``peak`` and ``end``, bytes of RssAnon above its value before, and ``seconds``.
    """
    before = rss_anon()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_INTERVAL_S):
            peak = max(peak, rss_anon())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        network = Sa2VA.from_pretrained(folder)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    end = rss_anon()
    # alive until here
    assert not next(network.parameters()).is_meta
    return {"peak": max(peak, end) - before, "end": end - before, "seconds": seconds}


def main(words: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        1 where the peak is above the limit, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sa2va_1b", help="geometry, see monai_sa2va.networks.presets")
    parser.add_argument(
        "--size", type=float, default=2.0, metavar="GB", help="of the weights, by the language model's layers"
    )
    parser.add_argument("--shards", type=int, default=8, help="number of files")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="only load this checkpoint, and print JSON")
    arguments = parser.parse_args(words)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return 0
    dtype = getattr(torch, arguments.dtype)
    config = of_size(get_preset(arguments.preset), round(arguments.size * 1e9), dtype)
    with tempfile.TemporaryDirectory() as name:
        total, largest = make_checkpoint(Path(name), config, arguments.shards, dtype)
        # what made the checkpoint must not be in the memory that is measured
        done = subprocess.run(
            [sys.executable, __file__, "--measure", name], check=True, stdout=subprocess.PIPE, text=True
        )
    found, limit = json.loads(done.stdout), total + largest + ALLOWANCE
    print(
        f"{arguments.preset}, {config.text.num_hidden_layers} layers, {arguments.dtype}: {total / 1e6:.0f} MB in "
        f"{arguments.shards} files of at most {largest / 1e6:.0f} MB; loaded in {found['seconds']:.1f} s; "
        f"peak {found['peak'] / 1e6:.0f} MB, at the end {found['end'] / 1e6:.0f} MB, limit {limit / 1e6:.0f} MB"
    )
    return int(found["peak"] > limit)


if __name__ == "__main__":
    sys.exit(main())
