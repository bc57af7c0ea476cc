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

"""Checks of the machine: device, memory, disk, and folders that can be written to."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.engines.distributed import unwrap
from monai_sa2va.engines.resume import ResumableCheckpoint
from monai_sa2va.predictor import as_device
from monai_sa2va.preflight.data import scanned
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings
from monai_sa2va.qwen_config import QwenVisionConfig

__all__ = [
    "activation_bytes",
    "check_checkpoint_folder",
    "check_device",
    "check_earlier_results",
    "check_memory",
    "check_output_folder",
    "checkpoint_bytes",
    "free_memory",
    "training_bytes",
]

_GIB = 2**30
# weights, gradient and AdamW's two moments in float32
_FLOAT, _TRAINED = 4, 12
# of a transformer's layer with fused attention, a token and a feature, in bfloat16 (Korthikanti et al. 2022)
_LAYER = 34
_TEXT_TOKENS = 256
_BEST, _ADAPTER, _HANDLERS = "model.pt", "adapter.safetensors", "train#handlers"
_KEEP = inspect.signature(ResumableCheckpoint).parameters["keep"].default


def check_device(settings: Settings) -> Iterator[Remark]:
    """Whether the device is there."""
    if not settings.has("device"):
        return
    device = as_device(settings.value("device"))
    if device.type == "cpu":
        yield Status.PASS, "cpu" if not torch.cuda.is_available() else "cpu, though a CUDA device is there"
    else:
        yield Status.PASS, f"{device} ({torch.cuda.get_device_name(device)})"


def check_memory(settings: Settings) -> Iterator[Remark]:
    """Whether a training step, and the cache of images, fit what is free; see :func:`training_bytes`."""
    if not settings.has("network"):
        return
    network = unwrap(settings.value("network"))
    device = as_device(settings.value("device"))
    batch, objects = int(settings.value("batch_size", 1)), int(settings.value("max_objects", 1))
    step = training_bytes(network, batch, objects, bool(settings.value("amp", False)))
    if device.type == "cuda" and settings.make_data:
        # the network lies there already
        step -= _FLOAT * sum(p.numel() for p in network.parameters())
    rate = float(settings.notes.get("cache_rate", settings.value("cache_rate", 0.0)))
    cache = rate * _cached(sum(found.pixels for found in scanned(settings).values()))
    host = cache + (step if device.type == "cpu" else 0)
    needs = [("memory", host, free_memory(torch.device("cpu")))]
    if device.type != "cpu":
        needs.append((str(device), step, free_memory(device)))
    for name, needed, free in needs:
        advice = "lower batch_size, preset or cache_rate"
        shown = f"{name}: about {needed / _GIB:.1f} GiB needed"
        if free is None:
            yield Status.PASS, f"{shown}; what is free can't be told here"
        elif needed > 2 * free:
            yield Status.FAIL, f"{shown}, {free / _GIB:.1f} GiB free; {advice}"
        elif needed > 0.9 * free:
            yield Status.WARN, f"{shown} by a rough estimate, {free / _GIB:.1f} GiB free; {advice}"
        else:
            yield Status.PASS, f"{shown}, {free / _GIB:.1f} GiB free"


def check_checkpoint_folder(settings: Settings) -> Iterator[Remark]:
    """Whether ``ckpt_dir`` can be written to and has room for the resumable checkpoints that are kept, one more as the
    next is whole before the oldest goes, and the best weights twice; files there already give up their place."""  # noqa: D205, D209
    if not settings.has("ckpt_dir"):
        return
    folder = Path(settings.value("ckpt_dir"))
    needed = 0
    if settings.has("network"):
        halved, trained = settings.value("weights_dtype") is not None, settings.has("tuning")
        step, weights = checkpoint_bytes(settings.value("network"), halved, trained)
        files = _kept(settings) + 1
        held = sum(path.stat().st_size for path in _earlier(folder))
        # one of each is written beside what is there
        needed = max(files * step + 2 * weights - held, step + weights)
    yield _room(folder, needed, "ckpt_dir")


def check_earlier_results(settings: Settings) -> Iterator[Remark]:
    """Whether ``ckpt_dir`` holds what this run replaces, or lacks what it is to go on from."""
    if not settings.has("ckpt_dir"):
        return
    folder = Path(settings.value("ckpt_dir"))
    names = [path.name for path in _earlier(folder)]
    resumable = [name for name in names if name not in (_BEST, _ADAPTER)]
    if not settings.value("resume", False):
        if names:
            yield (
                Status.WARN,
                f"ckpt_dir {folder} holds {', '.join(names)}, which this run replaces; "
                f"{'set resume to go on, or ' if resumable else ''}name another ckpt_dir to keep them",
            )
        else:
            yield Status.PASS, f"nothing in {folder} is replaced"
    elif not resumable:
        replaced = f", and replaces {', '.join(names)}" if names else ""
        yield (
            Status.WARN,
            f"there is no resume_*.pt in ckpt_dir {folder}: training starts anew{replaced}; "
            "name the run's own ckpt_dir",
        )
    else:
        yield Status.PASS, f"training goes on from the {len(resumable)} resume_*.pt in {folder}"


def checkpoint_bytes(network: Any, halved: bool = False, trained_alone: bool = False) -> tuple[int, int]:
    """Sizes of a resumable checkpoint and of the weights alone, in bytes.

    Args:
        network: any; its weights are float32, of trained ones the checkpoint holds AdamW's two moments, too.
        halved: whether the weights alone are saved in half precision.
        trained_alone: whether only trained weights are saved, as in fine-tuning.
    """
    parameters = [p for p in network.parameters() if p.requires_grad or not trained_alone]
    weights = _FLOAT * sum(p.numel() for p in parameters)
    moments = 2 * _FLOAT * sum(p.numel() for p in parameters if p.requires_grad)
    return weights + moments, weights // 2 if halved else weights


def _earlier(folder: Path) -> list[Path]:
    """Files of an earlier run."""
    return [path for pattern in (_BEST, _ADAPTER, "resume_*.pt") for path in sorted(folder.glob(pattern))]


def _kept(settings: Settings) -> int:
    """How many resumable checkpoints the configured handler keeps."""
    handlers = settings.parser.get(_HANDLERS)
    for number, handler in enumerate(handlers if isinstance(handlers, list) else ()):
        if isinstance(handler, dict) and str(handler.get("_target_")).endswith(ResumableCheckpoint.__name__):
            return int(settings.value(f"{_HANDLERS}#{number}#keep", _KEEP))
    return _KEEP


def check_output_folder(settings: Settings) -> Iterator[Remark]:
    """Whether ``output_dir`` can be written to."""
    if settings.has("output_dir"):
        yield _room(Path(settings.value("output_dir")), int(settings.notes.get("output_bytes", 0)), "output_dir")


def training_bytes(network: Any, batch_size: int, objects: int, amp: bool) -> float:
    """Rough estimate of the memory that a training step takes, in bytes; right to a factor of about 2.

    Weights take 4 bytes, trained ones 12 more (gradient and AdamW's two moments); to these come the activations of a
    micro-batch, see :func:`activation_bytes`. What is frozen counts as if its activations were kept.

    Args:
        network: a Sa2VA.
        batch_size: samples of a micro-batch.
        objects: [SEG] of a sample.
        amp: whether activations are bfloat16.
    """
    parameters = list(network.parameters())
    weights = sum((_FLOAT + (_TRAINED if p.requires_grad else 0)) * p.numel() for p in parameters)
    return weights + batch_size * activation_bytes(network.config, objects, amp)


def activation_bytes(config: Sa2VAConfig, objects: int, amp: bool) -> float:
    """Rough estimate of what a sample's activations take for the backward pass, in bytes.

    A transformer's layer keeps 34 bytes a token and feature in bfloat16, twice that in float32. Counted are the vision
    tower over all tiles (of Qwen's families over the largest picture), the language model over the image's tokens and
    256 of text, and SAM2's image encoder stage by stage; to these come an object's maps in SAM2's decoder, 16 values
    for each of its (S/4)^2 pixels and channels.
    """
    vision, text, sam = config.vision, config.text, config.grounding
    if isinstance(vision, QwenVisionConfig):
        patches = config.max_pixels // vision.patch_size**2
        tokens = patches // config.rows_per_tile
    else:
        tiles = config.max_tiles + (1 if config.use_thumbnail and config.max_tiles > 1 else 0)
        patches = tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
        tokens = tiles * config.tokens_per_tile
    values = patches * vision.hidden_size * vision.num_hidden_layers
    values += (tokens + _TEXT_TOKENS) * text.hidden_size * text.num_hidden_layers
    for stage, blocks in enumerate(sam.stages):
        values += (sam.mask_size >> stage) ** 2 * (sam.embed_dim << stage) * blocks
    precision = 1 if amp else 2
    maps = objects * sam.mask_size**2 * (sam.hidden_dim // 8) * 16 * 2
    return float(precision * (_LAYER * values + maps))


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a device, or for the CPU available to new processes; ``None`` where that can't be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if available is None else int(available) * 1024


def _cached(pixels: int) -> int:
    """Bytes of cached planes: three channels and a label, float32 each."""
    return pixels * 4 * _FLOAT


def _room(folder: Path, needed: int, key: str) -> Remark:
    """Whether a folder, or the nearest above it that is there, takes a file, and has room."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return Status.FAIL, f"{key} {folder} can't be made, as {place.name} is a file; choose another {key}"
    try:
        # tried rather than looked up: root may write by its rights, not on a read-only or full disk
        with tempfile.NamedTemporaryFile(dir=place, prefix=".monai-sa2va-") as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return Status.FAIL, f"{key} {folder} can't be written to: {error.strerror or error}; choose another {key}"
    free = shutil.disk_usage(place).free
    shown = f"{free / _GIB:.1f} GiB free"
    if free < needed:
        return Status.FAIL, f"{key} {folder} needs {needed / _GIB:.1f} GiB, {shown}; make room or choose another {key}"
    if free < 2 * needed:
        return Status.WARN, f"{key} {folder} needs {needed / _GIB:.1f} GiB, {shown}; make room"
    return Status.PASS, f"{folder} can be written to, {shown}"
