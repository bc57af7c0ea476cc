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

"""Tuning of presence on validation: when is a structure not there?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.engines.distributed import unwrap
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.metrics.presence import CALIBRATIONS, fit_presence

__all__ = ["PresenceTuner", "scores_and_truth"]

_LOGGER = logging.getLogger(__name__)
_METRICS = ("val_presence_auc", "val_emptied_present", "val_emptied_absent")


def scores_and_truth(output: Mapping[str, Any]) -> tuple[list[float], list[bool]]:
    """Object scores of an evaluator's output, and whether each object's true mask has a pixel.

    Args:
        output: with ``object_scores`` (M,) logits and ``gt_masks`` (M, H, W).
    """
    there = [bool((mask > 0).any()) for mask in output[Keys.MASKS]]
    return [float(score) for score in output[Keys.OBJECT_SCORES]], there


class PresenceTuner:
    """After each validation, calibrates the object score and chooses ``presence_threshold``.

    Attach it to the evaluator before what saves weights: a checkpoint then holds the values that were tuned on its own
    weights, so those of the best weights are the best weights' own. The rule is that of
    :func:`~monai_sa2va.metrics.presence.fit_presence`: of all thresholds that empty at most ``max_emptied`` of what is
    there, the middle of those that empty the most of what is not. Volumes are validated slice by slice, and so is the
    threshold chosen. Where it can't be chosen no mask is emptied, and a warning says why.

    ``state.metrics`` gets ``val_presence_auc``, and ``val_emptied_present`` and ``val_emptied_absent``, the shares of
    what is there and of what is not that the threshold empties.

    Args:
        network: whose ``config`` gets the values.
        info: what is saved beside the weights; gets the same values.
        max_emptied: share of what is there that may be emptied, 0 to below 1.
        calibration: ``"platt"`` (slope and offset), ``"temperature"`` (slope alone) or ``"none"``.
        min_objects: least number of objects that are there, and of those that are not, of which anything is said.
        output_transform: makes scores and truth of ``engine.state.output``.

    Raises:
        ConfigError: when a setting is out of its range.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        info: ModelInfo,
        max_emptied: float = 0.02,
        calibration: str = "platt",
        min_objects: int = 20,
        output_transform: Callable[[Any], tuple[list[float], list[bool]]] = scores_and_truth,
    ) -> None:
        if not 0 <= max_emptied < 1:
            raise ConfigError(f"max_emptied is {max_emptied}; give a share from 0 to below 1")
        if calibration not in CALIBRATIONS:
            raise ConfigError(f"calibration is {calibration!r}; allowed: {', '.join(CALIBRATIONS)}")
        if min_objects < 1:
            raise ConfigError(f"min_objects is {min_objects}; at least 1 is needed")
        self.network, self.info = network, info
        self.max_emptied, self.calibration, self.min_objects = max_emptied, calibration, min_objects
        self.output_transform = output_transform
        self._seen: list[tuple[float, bool]] = []

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Forget an earlier validation."""
        self._seen = []

    def iteration_completed(self, engine: Engine) -> None:
        """Keep a batch's scores."""
        self._seen += zip(*self.output_transform(engine.state.output), strict=True)

    def epoch_completed(self, engine: Engine) -> None:
        """Tune on the scores of all processes."""
        rows = self._seen
        if idist.get_world_size() > 1:
            gathered: Any = idist.all_gather(rows)
            rows = [row for part in gathered for row in part]
        scores, there = [row[0] for row in rows], [row[1] for row in rows]
        shown = sum(there)
        try:
            if min(shown, len(there) - shown) < self.min_objects:
                raise DataError(
                    f"validation asked for {shown} objects that are there and {len(there) - shown} that are not, and "
                    f"{self.min_objects} of each are needed"
                )
            fit = fit_presence(scores, there, self.calibration, self.max_emptied)
        except DataError as error:
            _log(logging.WARNING, "no mask will be emptied, as no presence threshold was tuned: %s", error)
            self._set(None, 1.0, 0.0)
            for key in _METRICS:
                # that of an earlier validation would look like this one's
                engine.state.metrics.pop(key, None)
            return
        self._set(fit.threshold, fit.scale, fit.bias)
        _log(
            logging.INFO,
            "masks are emptied below a presence of %.4g: %.1f %% of %d that are there, %.1f %% of %d that are not",
            fit.threshold,
            100 * fit.emptied_present,
            shown,
            100 * fit.emptied_absent,
            len(there) - shown,
        )
        values = (fit.auc, fit.emptied_present, fit.emptied_absent)
        engine.state.metrics.update(zip(_METRICS, values, strict=True))

    def _set(self, threshold: float | None, scale: float, bias: float) -> None:
        self.info.set_presence(threshold, scale, bias)
        module: Any = unwrap(self.network)
        module.config = replace(module.config, presence_threshold=threshold, presence_scale=scale, presence_bias=bias)


def _log(level: int, message: str, *values: Any) -> None:
    """Every process tunes, and comes to the same; one says so."""
    if idist.get_rank() == 0:
        _LOGGER.log(level, message, *values)
