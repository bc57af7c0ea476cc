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

"""The checks of each kind of run, for the command line and for the beginning of the run itself."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from monai_sa2va.engines.distributed import is_main
from monai_sa2va.errors import ConfigError, PreflightError
from monai_sa2va.preflight import data, evaluation, inference, metrics, ranges, resources, training
from monai_sa2va.preflight.report import Check, Finding, Status, run_checks
from monai_sa2va.preflight.settings import Settings, running_parser

__all__ = ["CHECKS", "before_run", "check_settings"]

_LOGGER = logging.getLogger(__name__)

CHECKS: dict[str, dict[str, Check]] = {
    "train": {
        "device": resources.check_device,
        "settings": ranges.check_ranges,
        "checkpoint folder": resources.check_checkpoint_folder,
        "results": resources.check_earlier_results,
        "output folder": resources.check_output_folder,
        "datalist": data.check_datalist,
        "files": data.check_files,
        "prompts": data.check_prompts_occur,
        "parameters": training.check_parameters,
        "loss": training.check_loss,
        "learning rate": training.check_learning_rate,
        "memory": resources.check_memory,
        "schedule": training.check_schedule,
        "trainer": training.check_trainer,
    },
    "inference": {
        "device": resources.check_device,
        "settings": ranges.check_ranges,
        "checkpoint": inference.check_checkpoint,
        "tokenizer": inference.check_tokenizer,
        "preprocessing": inference.check_preprocessing,
        "prompts": inference.check_sentences,
        "images": inference.check_images,
        "results": inference.check_batch_folder,
        "output folder": resources.check_output_folder,
    },
    "evaluate": {
        "metrics": metrics.check_metrics,
        "device": resources.check_device,
        "settings": ranges.check_ranges,
        "checkpoint": inference.check_checkpoint,
        "tokenizer": inference.check_tokenizer,
        "preprocessing": inference.check_preprocessing,
        "truth": evaluation.check_truth,
        "prompts": evaluation.check_questions,
        "thresholds": evaluation.check_thresholds,
        "samples": evaluation.check_samples,
        "results": inference.check_results_folder,
        "output folder": resources.check_output_folder,
    },
}
"""Kind of run -> name of a check -> the check, cheap ones and those that need no data first."""


def check_settings(kind: str, settings: Settings) -> list[Finding]:
    """Run all checks of a kind; torch's, NumPy's and Python's random numbers go on as if none had run.

    Args:
        kind: one of `CHECKS`.
        settings: what is checked.

    Raises:
        ConfigError: when there is no such kind.
    """
    if kind not in CHECKS:
        raise ConfigError(f"kind is {kind!r}; allowed: {', '.join(CHECKS)}")
    checks: Mapping[str, Check] = CHECKS[kind]
    with _same_random_numbers():
        return run_checks(checks, settings)


def before_run(kind: str, enabled: bool = True) -> None:
    """Check the configuration that is running, from its ``initialize``; warnings and failures are logged, a line each.

    Of several processes only the first one checks: the others would say the same.

    Args:
        kind: one of `CHECKS`.
        enabled: whether to check at all.

    Raises:
        PreflightError: when a check fails, with the first that did.
    """
    if not enabled or not is_main():
        return
    findings = check_settings(kind, Settings(running_parser(), make_data=True))
    for finding in findings:
        if finding.status is Status.WARN:
            _LOGGER.warning("%s: %s", finding.check, finding.message)
        elif finding.status is Status.FAIL:
            _LOGGER.error("%s: %s", finding.check, finding.message)
    failed = [finding for finding in findings if finding.status is Status.FAIL]
    if failed:
        more = f"; and {len(failed) - 1} more, see the log" if len(failed) > 1 else ""
        raise PreflightError(
            f"a check before the run failed, {failed[0].check}: {failed[0].message}{more} "
            "(--preflight False runs without checks)"
        )


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
