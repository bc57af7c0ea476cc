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

"""Presence: object scores as calibrated probabilities, and from which one on a mask counts as empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_sa2va.errors import ConfigError, DataError

__all__ = [
    "CALIBRATIONS",
    "PresenceFit",
    "ReliabilityBin",
    "auc",
    "choose_threshold",
    "expected_calibration_error",
    "fit_presence",
    "reliability",
    "roc_curve",
    "to_presence",
]

CALIBRATIONS = ("platt", "temperature", "none")
"""How logits become probabilities: slope and offset are fitted, the slope alone, or neither."""

_STEPS, _TOLERANCE = 100, 1e-10

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PresenceFit:
    """What validation says of the object scores.

    Attributes:
        scale: slope of the calibration; presence is the sigmoid of ``scale * score + bias``.
        bias: its offset.
        threshold: presence below which a mask is emptied.
        emptied_present: share of what is there that it empties.
        emptied_absent: share of what is not there that it empties.
        auc: chance that something that is there scores above something that is not.
    """

    scale: float
    bias: float
    threshold: float
    emptied_present: float
    emptied_absent: float
    auc: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The objects of one stretch of presence.

    Attributes:
        low: where the stretch begins.
        high: where it ends.
        count: number of objects.
        presence: their mean presence.
        observed: share of them that is there.
    """

    low: float
    high: float
    count: int
    presence: float
    observed: float


def to_presence(scores: ArrayLike, scale: float = 1.0, bias: float = 0.0) -> _Floats:
    """Probability, 0 to 1, that the object is there: the sigmoid of ``scale * score + bias``, float64."""
    logits = scale * np.asarray(scores, dtype=np.float64) + bias
    # stable for large logits of either sign
    return np.where(logits >= 0, 1.0, np.exp(-np.abs(logits))) / (1.0 + np.exp(-np.abs(logits)))


def fit_presence(
    scores: ArrayLike, present: ArrayLike, calibration: str = "platt", max_emptied: float = 0.02
) -> PresenceFit:
    """Calibrate object scores, and choose from which presence on a mask is left alone.

    Platt's fit: the slope and offset of least cross entropy, with the targets ``(n1 + 1) / (n1 + 2)`` for the ``n1``
    objects that are there and ``1 / (n0 + 2)`` for the ``n0`` that are not, so that it stays finite where the two are
    told apart without error. Presence is a probability among objects that are there as often as here.

    Args:
        scores: (N,) object scores, logits.
        present: (N,) whether each object is there.
        calibration: one of :data:`CALIBRATIONS`.
        max_emptied: as for :func:`choose_threshold`.

    Raises:
        ConfigError: when the calibration is unknown or ``max_emptied`` is out of its range.
        DataError: when one of the kinds is missing, numbers don't fit, or scores don't rise with presence.
    """
    if calibration not in CALIBRATIONS:
        raise ConfigError(f"calibration is {calibration!r}; allowed: {', '.join(CALIBRATIONS)}")
    logits, there = _checked(scores, present)
    area = auc(logits, there)
    scale, bias = (1.0, 0.0) if calibration == "none" else _fit(logits, there, offset=calibration == "platt")
    if area <= 0.5 or scale <= 0:
        raise DataError(
            f"object scores are no higher where the object is there (area under the ROC curve {area:.2f}); train "
            "with object_weight and absent_prob above 0"
        )
    cut = choose_threshold(logits, there, max_emptied)
    below = logits < cut
    return PresenceFit(
        scale=scale,
        bias=bias,
        threshold=float(to_presence(cut, scale, bias)),
        emptied_present=float(below[there].mean()),
        emptied_absent=float(below[~there].mean()),
        auc=area,
    )


def choose_threshold(scores: ArrayLike, present: ArrayLike, max_emptied: float = 0.02) -> float:
    """Score below which a mask is emptied.

    Of all thresholds that empty at most a share ``max_emptied`` of what is there, those are looked at that empty the
    most of what is not; of these the ones that empty the fewest of what is there; the middle of them is taken. Where
    both kinds are told apart without error that is the middle of the gap between them.

    Args:
        scores: (N,) logits.
        present: (N,) whether each object is there.
        max_emptied: 0 to below 1.

    Raises:
        ConfigError: when ``max_emptied`` is out of its range.
        DataError: when one of the kinds is missing, or numbers don't fit.
    """
    if not 0 <= max_emptied < 1:
        raise ConfigError(f"max_emptied is {max_emptied}; give a share from 0 to below 1")
    logits, there = _checked(scores, present)
    shown, missing = np.sort(logits[there]), np.sort(logits[~there])
    highest = shown[int(max_emptied * len(shown))]
    emptied = missing[missing < highest]
    if not len(emptied):
        # none can be emptied: below all, so that an object unlike any seen still is
        return float(min(shown[0], missing[0]))
    return float((emptied[-1] + shown[shown > emptied[-1]][0]) / 2)


def roc_curve(scores: ArrayLike, present: ArrayLike) -> tuple[_Floats, _Floats]:
    """Shares of what is not there and of what is there at or above each threshold, both from 0 to 1.

    Args:
        scores: (N,) logits or probabilities.
        present: (N,) whether each object is there.

    Raises:
        DataError: when one of the kinds is missing, or numbers don't fit.
    """
    values, there = _checked(scores, present)
    order = np.argsort(-values, kind="stable")
    # one point for all objects of the same score
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits = np.cumsum(there[order])[ends]
    false = ends + 1 - hits
    return np.append(0.0, false / (~there).sum()), np.append(0.0, hits / there.sum())


def auc(scores: ArrayLike, present: ArrayLike) -> float:
    """Area under the ROC curve: the chance that what is there scores higher, ties counting half; errors as there."""
    false, hits = roc_curve(scores, present)
    return float(np.sum(np.diff(false) * (hits[1:] + hits[:-1]) / 2))


def reliability(presence: ArrayLike, present: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """How often objects of about one presence are there: equal stretches of 0 to 1, those without objects left out.

    Args:
        presence: (N,) probabilities, 0 to 1.
        present: (N,) whether each object is there.
        bins: number of stretches.

    Raises:
        ConfigError: when ``bins`` is below 1.
        DataError: when numbers don't fit.
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins}; give at least 1")
    values, there = _pairs(presence, present)
    places = np.minimum((values * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(i / bins, (i + 1) / bins, int(own.sum()), float(values[own].mean()), float(there[own].mean()))
        for i in range(bins)
        if (own := places == i).any()
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean distance of presence and observed share over all objects, 0 to 1."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.presence - part.observed) for part in bins) / max(total, 1)


def _pairs(scores: ArrayLike, present: ArrayLike) -> tuple[_Floats, NDArray[np.bool_]]:
    values, there = np.asarray(scores, dtype=np.float64), np.asarray(present, dtype=bool)
    if values.ndim != 1 or values.shape != there.shape:
        raise DataError(f"{values.shape} scores and {there.shape} truths don't fit; give one of each an object")
    if not np.isfinite(values).all():
        raise DataError("object scores are not finite; look at the weights")
    return values, there


def _checked(scores: ArrayLike, present: ArrayLike) -> tuple[_Floats, NDArray[np.bool_]]:
    values, there = _pairs(scores, present)
    if there.all() or not there.any():
        raise DataError(
            f"{int(there.sum())} objects are there and {int((~there).sum())} are not; both kinds are needed"
        )
    return values, there


def _fit(logits: _Floats, there: NDArray[np.bool_], offset: bool) -> tuple[float, float]:
    """Slope and offset of least cross entropy, by Newton's method with halved steps."""
    n1, n0 = int(there.sum()), int((~there).sum())
    target = np.where(there, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    # centred, for the sake of the numbers alone
    middle = float(logits.mean()) if offset else 0.0
    spread = float(logits.std()) or 1.0
    columns: Any = [(logits - middle) / spread] + ([np.ones_like(logits)] if offset else [])
    inputs = np.stack(columns, axis=1)
    weights = np.zeros(inputs.shape[1])

    def loss(values: _Floats) -> float:
        outputs = inputs @ values
        return float(np.sum(np.logaddexp(0, outputs) - target * outputs))

    for _ in range(_STEPS):
        p = to_presence(inputs @ weights)
        gradient = inputs.T @ (p - target)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-12 * np.eye(len(weights))
        step, share, before = np.linalg.solve(curvature, gradient), 1.0, loss(weights)
        while share > _TOLERANCE and loss(weights - share * step) > before:
            share /= 2
        weights = weights - share * step
        if float(np.abs(share * step).max()) < _TOLERANCE:
            break
    scale = float(weights[0]) / spread
    return scale, (float(weights[1]) if offset else 0.0) - scale * middle
