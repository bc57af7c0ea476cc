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

"""Checks before inference: checkpoint, tokenizer, preprocessing, prompts, images and where results go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.batch.job import Status as JobStatus
from monai_sa2va.batch.plan import jobs_of_entries
from monai_sa2va.batch.shards import Shard
from monai_sa2va.checkpoints.adapters import apply_adapter, read_adapter
from monai_sa2va.checkpoints.info import read_info
from monai_sa2va.checkpoints.load import load_weights, read_weights
from monai_sa2va.data.checks import check_image
from monai_sa2va.data.tokenizer import load_tokenizer
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import CheckpointError, Sa2VAError
from monai_sa2va.inferers.image import check_prompts
from monai_sa2va.preflight.data import summed
from monai_sa2va.preflight.report import Remark, Status
from monai_sa2va.preflight.settings import Settings
from monai_sa2va.transforms.intensity import as_window
from monai_sa2va.writers.masks import check_formats

__all__ = [
    "check_batch_folder",
    "check_checkpoint",
    "check_images",
    "check_preprocessing",
    "check_results_folder",
    "check_sentences",
    "check_tokenizer",
]

# of an evaluation
_TABLES = ("cases.csv", "metrics.json")


def check_checkpoint(settings: Settings) -> Iterator[Remark]:
    """Whether the checkpoint is whole, of the network's geometry, and well converted, and its adapter fits it."""
    if not settings.has("checkpoint"):
        return
    path, adapter = Path(settings.value("checkpoint")), settings.value("adapter")
    told = path.name if adapter is None else read_adapter(adapter).name
    info = read_info(adapter or path)
    network = settings.value("network_def")
    if "config" in info and (odd := network.config.differing(info["config"])):
        raise CheckpointError(
            f"{told} was trained with another {', '.join(odd)} than network_def has; leave network_def as it is"
        )
    _check_values(read_weights(path), network.state_dict(), path.name)
    apply_adapter(load_weights(network, path), adapter)
    settings.notes["info"] = info
    merged = "" if adapter is None else f", and {told} was trained on it"
    if "config" not in info:
        yield Status.WARN, f"{path.name} doesn't say its geometry and preprocessing; its weights fit this network"
    else:
        parameters = sum(p.numel() for p in network.parameters())
        yield Status.PASS, f"{path.name} is complete, {parameters:,} parameters{merged}"


def check_tokenizer(settings: Settings) -> Iterator[Remark]:
    """Whether the tokenizer has [SEG] and the other tokens that nobody may type, and no more than the network."""
    if settings.has("network_def"):
        config = settings.value("network_def").config
        tokenizer = load_tokenizer(config)
        yield Status.PASS, f"{len(tokenizer)} tokens, [SEG] is number {tokenizer.convert_tokens_to_ids('[SEG]')}"


def check_preprocessing(settings: Settings) -> Iterator[Remark]:
    """Whether grey values and slices become what they were in training."""
    if not settings.has("window"):
        return
    window, axis = as_window(settings.value("window")), settings.value("axis", "auto")
    info: Mapping[str, Any] = settings.notes.get("info", {})
    if "window" in info:
        trained = as_window(info["window"])
        # what becomes of NaN is no matter of training
        if (window.kind, window.lower, window.upper) != (trained.kind, trained.lower, trained.upper):
            yield (
                Status.FAIL,
                f"window is {settings.value('window')!r}, training had {info['window']!r}; leave out window to keep it",
            )
            return
    if "axis" in info and axis != info["axis"]:
        yield Status.FAIL, f"axis is {axis!r}, training had {info['axis']!r}; leave out axis to keep it"
        return
    told = "as in training" if info.keys() >= {"window", "axis"} else "which the checkpoint doesn't say of training"
    yield Status.PASS, f"window {settings.value('window')!r}, axis {axis!r}, {told}"


def check_sentences(settings: Settings) -> Iterator[Remark]:
    """Whether the prompts are sentences that can be asked."""
    if settings.has("prompts"):
        prompts = check_prompts(settings.value("prompts"))
        settings.notes["prompts"] = prompts
        yield Status.PASS, f"{len(prompts)} for each image that brings none of its own"


def check_images(settings: Settings) -> Iterator[Remark]:
    """Whether the images open and what a datalist asks of them can be asked; an image that can't be segmented fails
    alone, all of them end the run."""  # noqa: D205, D209
    # without a prompt nothing is planned, and the check of the prompts has said so
    if not settings.has("images") or "prompts" not in settings.notes:
        return
    finite = as_window(settings.value("window", "auto")).nonfinite == "error"
    faults, needed, skipped = [], 0, 0
    jobs = list(jobs_of_entries(settings.value("images"), settings.notes["prompts"]))
    for job in jobs:
        if job.verdict is not None or job.source is None:
            became, code, reason = job.verdict or (JobStatus.FAILED, "DATA", "there is no image")
            skipped += became is JobStatus.SKIPPED
            if became is not JobStatus.SKIPPED:
                faults.append(f"[{code}] {reason}")
            continue
        source: Path | DicomSeries = job.source
        try:
            # its pixels are read when it is segmented
            shape = source.shape if isinstance(source, DicomSeries) else check_image(source, finite).shape
            needed += 2 * math.prod(shape) * max(1, len(job.prompts))
        except Sa2VAError as error:
            faults.append(str(error))
    settings.notes["output_bytes"] = needed
    count = len(jobs) - skipped
    left = f"; {skipped} more are skipped" if skipped else ""
    if faults or not count:
        status = Status.FAIL if len(faults) == count else Status.WARN
        yield status, f"{len(faults)} of {count} images can't be segmented{left}: {summed(faults)}"
    else:
        yield Status.PASS, f"{count} images open{left}"


def check_batch_folder(settings: Settings) -> Iterator[Remark]:
    """Whether formats and shard can be used, and what becomes of an earlier run's results."""
    if settings.value("formats") is not None:
        check_formats(settings.value("formats"))
    if settings.value("shard") is not None:
        Shard.parse(settings.value("shard"))
    folder = Path(settings.value("output_dir", "."))
    if not any(folder.glob("summary*.csv")):
        yield Status.PASS, f"{folder} holds no tables of an earlier run"
    elif settings.value("overwrite", False):
        yield Status.WARN, f"{folder} holds results of an earlier run, which are replaced"
    else:
        yield Status.PASS, f"{folder} holds results of an earlier run; what it has done is not done again"


def check_results_folder(settings: Settings) -> Iterator[Remark]:
    """Whether results of an earlier evaluation are in the way."""
    if not settings.has("output_dir"):
        return
    folder = settings.value("output_dir")
    if not any((Path(folder) / name).exists() for name in _TABLES):
        return
    if settings.value("overwrite", False):
        yield Status.WARN, f"{folder} holds results of an earlier run, which are replaced"
    else:
        yield Status.FAIL, f"{folder} holds results already; set overwrite, or choose another output_dir"


def _check_values(weights: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse weights that were damaged, or that a conversion left out or left as they were stored.

    Raises:
        CheckpointError: naming the first.
    """
    for key, tensor in weights.items():
        if not tensor.is_floating_point() and key in fresh and fresh[key].is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{name} holds {key} as {kind}, not as decimals; convert it again, in float32")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinite weights in {key}; take an earlier checkpoint")
        # what begins as 0, such as a bias, may have stayed so
        if tensor.ndim > 1 and not tensor.any() and key in fresh and bool(fresh[key].any()):
            raise CheckpointError(f"{name} holds nothing but 0 in {key}: a conversion left it out; convert it again")
