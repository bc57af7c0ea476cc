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

"""Learning from submitted labels by the bundle's own fine-tuning, in a process of its own."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from monai_sa2va import __version__
from monai_sa2va.bundles import find_bundle
from monai_sa2va.errors import ConfigError, TrainingError
from monai_sa2va.label.adapter_store import AdapterStore
from monai_sa2va.label.options import RequestError, whole_number
from monai_sa2va.label.submitted import collect, write_datalist

__all__ = ["TRAIN_OPTIONS", "Learning", "check_options", "command"]

_LOG = logging.getLogger(__name__)

TRAIN_OPTIONS: dict[str, Any] = {"max_epochs": 20, "batch_size": 4, "learning_rate": 0.0005, "lora_rank": 8}
"""What may be set for a training; ``lora_rank`` 0, or no peft, trains the projector and the mask decoder alone."""

_RANGES = {"max_epochs": (1, 10_000), "batch_size": (1, 256), "lora_rank": (0, 1024)}


class Learning(TrainTask):
    """``sa2va``: fine-tunes on all submitted labels, from the weights that the server was started with.

    Args:
        store: gets the adapter.
        bundle: as for :func:`~monai_sa2va.bundles.find_bundle`.
        checkpoint: the server's weights; by default the bundle's.
        adapter: what the server was started with; learning needs it merged.
        device: where it trains; by default a GPU where there is one.
        labels: the server's names, by place.
    """

    def __init__(
        self,
        store: AdapterStore,
        bundle: str | None = None,
        checkpoint: str | None = None,
        adapter: str | None = None,
        device: str | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__("Fine-tune on all submitted labels; the result answers from then on, and can be rolled back")
        self.store, self.bundle, self.checkpoint, self.adapter = store, bundle, checkpoint, adapter
        self.device, self.labels = device, list(labels)
        self._stats: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        """What clients may set."""
        return dict(TRAIN_OPTIONS)

    def stats(self) -> dict[str, Any]:
        """What the last training of this process came to, and which adapter answers."""
        return {**self._stats, "adapter": self.store.about()["active"]}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train, and let the result answer.

        Args:
            request: values for :data:`TRAIN_OPTIONS`.
            datastore: with submitted labels.

        Returns:
            ``adapter`` (its number), ``labels`` (how many were learnt from), ``left_out`` (reasons), ``seconds``.

        Raises:
            ConfigError: when the server was started with an adapter that isn't merged.
            DatalistError: when no label can be used.
            RequestError: when an option can't be used.
            TrainingError: when the training fails.
        """
        if self.adapter is not None:
            raise ConfigError("the server was started with --adapter; merge it (monai-sa2va merge) to learn on top")
        chosen = check_options(request)
        submitted = collect(datastore, self.labels)
        began, folder = time.monotonic(), self.store.new_folder()
        try:
            datalist = write_datalist(submitted, folder)
            self._run(command(folder, chosen, find_bundle(self.bundle).path, self.checkpoint, self.device))
            # names of files may be those of patients
            datalist.unlink()
            provenance = {
                "version": __version__,
                "options": chosen,
                "label_sha256": submitted.hashes,
                "names": sorted({phrases[0] for e in submitted.entries for phrases in e["prompts"].values()}),
                "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            number = self.store.publish(folder, provenance)
        except BaseException:
            # of a training that failed nothing stays
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._stats = {
            "adapter": number,
            "labels": len(submitted.entries),
            "left_out": submitted.left_out,
            "seconds": round(time.monotonic() - began, 1),
        }
        return dict(self._stats)

    def _run(self, line: Sequence[str]) -> None:
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            told = [text.strip() for text in done.stdout.splitlines() if text.strip()]
            error = next(
                (text for text in reversed(told) if "error" in text.lower()), told[-1] if told else "no reason"
            )
            raise TrainingError(f"the training ended with {done.returncode}: {error[-300:]}")
        _LOG.info("trained")


def command(
    folder: Path, options: Mapping[str, Any], bundle: Path, checkpoint: str | None, device: str | None
) -> list[str]:
    """The bundle's own command for a training.

    Args:
        folder: with the datalist; gets the adapter.
        options: all of :data:`TRAIN_OPTIONS`.
        bundle: its folder.
        checkpoint: weights to begin from; by default the bundle's.
        device: where it trains; by default a GPU where there is one.
    """
    configs = [str(bundle / "configs" / name) for name in ("train.json", "finetune.json")]
    lora = options["lora_rank"] > 0 and importlib.util.find_spec("peft") is not None
    chosen: dict[str, Any] = {
        "bundle_root": str(bundle),
        "dataset_dir": str(folder),
        "ckpt_dir": str(folder),
        "output_dir": str(folder),
        "max_epochs": options["max_epochs"],
        "batch_size": options["batch_size"],
        "learning_rate": options["learning_rate"],
        "warmup_start_lr": options["learning_rate"] / 10,
        "warmup_steps": 2,
        "total_steps": "$@max_epochs * @steps_per_epoch",
        "accumulation_steps": 1,
        "num_workers": 0,
        # what an image or a slice doesn't show is asked for, too
        "absent_prob": 0.2,
        "val_interval": max(1, options["max_epochs"] // 4),
        "lora#_disabled_": not lora,
    }
    if lora:
        chosen |= {"lora#rank": options["lora_rank"], "lora#alpha": 2 * options["lora_rank"]}
    if checkpoint is not None:
        chosen["weights"] = checkpoint
    if device is not None:
        chosen["device"] = f"$torch.device({device!r})"
    line = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(configs)]
    for key, value in chosen.items():
        line += [f"--{key}", str(value)]
    return line


def check_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a training, with the default of each that a request leaves out.

    Args:
        request: values for :data:`TRAIN_OPTIONS`; what else it holds is left alone.

    Raises:
        RequestError: when one can't be used.
    """
    merged = {**TRAIN_OPTIONS, **{key: request[key] for key in TRAIN_OPTIONS if key in request}}
    chosen: dict[str, Any] = {}
    for key, (least, most) in _RANGES.items():
        chosen[key] = whole_number(merged, key)
        if not least <= chosen[key] <= most:
            raise RequestError(f"{key} is {chosen[key]}; give {least} to {most}")
    rate = merged["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise RequestError("learning_rate is no number above 0 and at most 1")
    return {**chosen, "learning_rate": float(rate)}
