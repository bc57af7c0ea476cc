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

"""Brings the scores by prompt into an engine's ``state.metrics``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.metrics.segmentation import PromptScores, PromptSegmentationMetric

__all__ = ["PromptMetricHandler", "masks_and_names", "metric_names", "present_masks_and_names"]

# MLflow's rule, which is the strictest: of letters of any script, digits and a few signs; a path at most 250 long
_REFUSED = re.compile(r"[^\w\-. ]+")
_LONGEST = 200


def metric_names(phrases: Iterable[str]) -> dict[str, str]:
    """Names under which trackers such as MLflow take the scores of phrases.

    Args:
        phrases: any text.

    Returns:
        Phrase -> letters, digits and ``_-. `` of it, a space in place of any other; at most some 200 characters. What
        would be equal, or has none, is told apart by a number, in the order of the phrases.
    """
    names: dict[str, str] = {}
    for phrase in phrases:
        plain = " ".join(_REFUSED.sub(" ", phrase).split())[:_LONGEST].strip(" .") or "phrase"
        name, number = plain, 1
        while name in names.values():
            number += 1
            name = f"{plain} {number}"
        names[phrase] = name
    return names


def masks_and_names(output: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any], list[str]]:
    """Predicted masks, true masks and names from an engine's output.

    Args:
        output: a dictionary with ``pred_masks`` and ``gt_masks`` (tensors (M, H, W) or lists of M masks) and ``names``
            (M phrases), or a list of such dictionaries, one a sample.

    Returns:
        Three lists of the same order, an entry an object.

    Raises:
        DataError: when a key is missing.
    """
    samples = [output] if isinstance(output, Mapping) else list(output)
    lists: tuple[list[Any], list[Any], list[str]] = ([], [], [])
    for sample in samples:
        for found, key in zip(lists, (Keys.PRED_MASKS, Keys.MASKS, Keys.NAMES), strict=True):
            if key not in sample:
                raise DataError(f"the engine's output has no {key!s}; it has {', '.join(map(str, sample))}")
            found.extend(sample[key])
    return lists


def present_masks_and_names(
    output: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> tuple[list[Any], list[Any], list[str]]:
    """As :func:`masks_and_names`, of the objects whose true mask has a pixel alone."""
    rows = [row for row in zip(*masks_and_names(output), strict=True) if bool((row[1] > 0).any())]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


class PromptMetricHandler(Metric):
    """Ignite handler around a :class:`~monai_sa2va.metrics.segmentation.PromptSegmentationMetric`.

    At the end of an epoch ``engine.state.metrics`` has, under the name it was attached by:

    * ``name``: mean over prompts (the mean of the means per name), fit for a key metric;
    * ``name/phrase`` for each phrase, as :func:`metric_names` spells it: mean over its objects;
    * ``name_objects``: mean over all objects.

    Args:
        metric_fn: the metric, which this handler resets and feeds.
        output_transform: makes (predicted masks, true masks, names) of ``engine.state.output``.

    Example:
        >>> handler = PromptMetricHandler(PromptSegmentationMetric("dice"))
        >>> handler.attach(Engine(lambda engine, batch: batch), "val_mean_dice")
    """

    def __init__(
        self,
        metric_fn: PromptSegmentationMetric,
        output_transform: Callable[[Any], tuple[Any, Any, Sequence[str]]] = masks_and_names,
    ) -> None:
        self.metric_fn = metric_fn
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forget all objects."""
        self.metric_fn.reset()

    def update(self, output: tuple[Any, Any, Sequence[str]]) -> None:
        """Score one iteration's (predicted masks, true masks, names)."""
        pred_masks, gt_masks, names = output
        self.metric_fn(pred_masks, gt_masks, names=names)

    def compute(self) -> PromptScores:
        """All means, over all ranks; raises DataError when there was no object."""
        return self.metric_fn.scores()

    def completed(self, engine: Engine, name: str) -> None:
        """Write the means into ``engine.state.metrics``."""
        scores = self.compute()
        metrics = engine.state.metrics
        for key in [key for key in metrics if key.startswith(f"{name}/")]:
            # A phrase that this epoch did not ask for would keep the score of an earlier one.
            del metrics[key]
        metrics[name] = scores.mean
        metrics[f"{name}_objects"] = scores.object_mean
        spelt = metric_names(scores.by_name)
        metrics.update({f"{name}/{spelt[phrase]}": value for phrase, value in scores.by_name.items()})
