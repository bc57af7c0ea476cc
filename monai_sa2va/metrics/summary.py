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

"""Scores of many objects as means with confidence intervals, by prompt and over all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from monai_sa2va.enums import MaskScore
from monai_sa2va.metrics.bootstrap import bootstrap_mean, check_bootstrap
from monai_sa2va.metrics.objects import ObjectScore

__all__ = ["Summary"]

_SURFACE = ("surface_dice", "hd95")


class Summary:
    """Means, rates and their confidence intervals by bootstrap over patients.

    Args:
        resamples: of the bootstrap.
        confidence: of the intervals, 0 to 1.
        seed: of the bootstrap.
        score_absent: whether objects that the truth doesn't show count in the means, an empty mask as 1 (HD95: 0) and
            any other as 0 (HD95: excluded). Without them, the false-positive rate alone speaks of them: where most of
            what is asked for isn't there, they would lift any mean.

    Raises:
        ConfigError: when ``resamples``, ``confidence`` or ``seed`` can't be used.
    """

    def __init__(
        self, resamples: int = 1000, confidence: float = 0.95, seed: int = 0, score_absent: bool = False
    ) -> None:
        check_bootstrap(resamples, confidence, seed)
        self.resamples, self.confidence, self.seed, self.score_absent = resamples, confidence, seed, score_absent

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, by name."""
        return {
            "resamples": self.resamples,
            "confidence": self.confidence,
            "seed": self.seed,
            "score_absent": self.score_absent,
        }

    def __call__(self, objects: Sequence[ObjectScore]) -> dict[str, Any]:
        """Summarise objects.

        Returns:
            ``overall`` and, under ``prompts``, each phrase: number of ``objects``, of those ``present`` and ``absent``
            in the truth, ``false_empty`` and ``false_positive`` (``count``, ``of``, ``rate``, ``low``, ``high``), and
            ``scores``. ``mean_of_prompts`` has the scores of which each prompt counts the same. A score is ``mean``,
            ``low``, ``high``, ``objects``, and ``excluded``: those without a value. Scores of outlines end in their
            unit, as mm and pixels don't mix. ``None`` stands where there is no number.
        """
        phrases = sorted({item.prompt for item in objects})
        return {
            "overall": self._group(objects),
            "mean_of_prompts": self._scores(objects, by_prompt=True),
            "prompts": {phrase: self._group([o for o in objects if o.prompt == phrase]) for phrase in phrases},
        }

    def _group(self, objects: Sequence[ObjectScore]) -> dict[str, Any]:
        present = [item for item in objects if item.present]
        absent = [item for item in objects if not item.present]
        return {
            "objects": len(objects),
            "present": len(present),
            "absent": len(absent),
            "false_empty": self._rate(present, lambda item: item.false_empty),
            "false_positive": self._rate(absent, lambda item: item.false_positive),
            "scores": self._scores(objects),
        }

    def _rate(self, objects: Sequence[ObjectScore], is_false: Callable[[ObjectScore], bool]) -> dict[str, Any]:
        flags = [is_false(item) for item in objects]
        found = self._interval(objects, [float(flag) for flag in flags])
        return {"count": sum(flags), "of": len(flags), "rate": found.pop("mean"), **found}

    def _scores(self, objects: Sequence[ObjectScore], by_prompt: bool = False) -> dict[str, Any]:
        counted = [item for item in objects if item.present or self.score_absent]
        scores = {str(name): self._mean(counted, str(name), by_prompt) for name in MaskScore}
        for name in _SURFACE:
            for unit in sorted({item.unit for item in counted}):
                same = [item for item in counted if item.unit == unit]
                scores[f"{name}_{unit}"] = self._mean(same, name, by_prompt)
        return scores

    def _mean(self, objects: Sequence[ObjectScore], name: str, by_prompt: bool) -> dict[str, Any]:
        valued = [item for item in objects if not math.isnan(getattr(item, name))]
        found = self._interval(valued, [getattr(item, name) for item in valued], by_prompt)
        return {**found, "objects": len(valued), "excluded": len(objects) - len(valued)}

    def _interval(
        self, objects: Sequence[ObjectScore], values: Sequence[float], by_prompt: bool = False
    ) -> dict[str, float | None]:
        found = bootstrap_mean(
            values,
            [item.group for item in objects],
            [item.prompt for item in objects] if by_prompt else None,
            resamples=self.resamples,
            confidence=self.confidence,
            seed=self.seed,
        )
        return {key: None if math.isnan(value) else value for key, value in found._asdict().items()}
