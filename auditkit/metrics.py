"""Utility of scores with intervals, and paired differences between two methods on the same rows.

Every metric is a mean of per-row terms or, for the AUC, has per-row influence values; its standard error is that of
their mean, and the difference of two methods is tested on the differences of their terms, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from auditkit._typing import FloatArray

PROBABILITY_FLOOR = 1e-6
"""Probabilities are kept this far from 0 and 1 in the log-loss, which would otherwise be infinite."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: Point estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric on n rows.

    Attributes:
        value: Point estimate.
        influence: Per-row values whose mean is ``value``, shape (n,).
    """

    value: float
    influence: FloatArray

    def estimate(self, *, confidence: float) -> Estimate:
        """The value with a normal interval."""
        return _interval(self.value, self.influence, confidence)


def measure_utility(
    labels: FloatArray, *, scores: FloatArray | None, decisions: FloatArray | None
) -> dict[str, Metric | None]:
    """Accuracy, AUC, Brier score and log-loss for binary labels.

    Args:
        labels: 0 or 1, shape (n,).
        scores: Probabilities, shape (n,); None where a method gives decisions only.
        decisions: Probability of a positive decision (0 or 1 unless the method randomises), shape (n,).

    Returns:
        Metric name → metric, None where it is not defined for what was given.
    """
    is_probability = scores is not None and scores.min(initial=0.0) >= 0 and scores.max(initial=1.0) <= 1
    return {
        "accuracy": None if decisions is None else _mean(labels * decisions + (1 - labels) * (1 - decisions)),
        "auc": None if scores is None else _area_under_curve(labels, scores),
        "brier": _mean((scores - labels) ** 2) if scores is not None and is_probability else None,
        "log_loss": _mean(_cross_entropy(labels, scores)) if scores is not None and is_probability else None,
    }


def measure_errors(labels: FloatArray, *, scores: FloatArray) -> dict[str, Metric]:
    """Mean squared and mean absolute error of a regression.

    Args:
        labels: Any numbers, shape (n,).
        scores: Predictions, shape (n,).

    Returns:
        "mse" and "mae".
    """
    return {"mse": _mean((scores - labels) ** 2), "mae": _mean(np.abs(scores - labels))}


def compare_metrics(first: Metric | None, second: Metric | None, *, confidence: float) -> Estimate | None:
    """Paired difference first − second on the same rows, with its interval; None where either is not defined."""
    if first is None or second is None:
        return None
    return _interval(first.value - second.value, first.influence - second.influence, confidence)


def _mean(terms: FloatArray) -> Metric:
    return Metric(float(terms.mean()), terms)


def _cross_entropy(labels: FloatArray, scores: FloatArray) -> FloatArray:
    kept = np.clip(scores, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -(labels * np.log(kept) + (1 - labels) * np.log1p(-kept))


def _area_under_curve(labels: FloatArray, scores: FloatArray) -> Metric | None:
    """P(score of a positive > score of a negative) + ½ P(equal), with DeLong's structural components as influence.

    Source: DeLong, DeLong, Clarke-Pearson (1988), Biometrics 44, 837–845; midranks as in Sun and Xu (2014).
    """
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = stats.rankdata(scores)
    component = np.empty_like(scores)
    component[positive] = (ranks[positive] - stats.rankdata(scores[positive])) / n_negative
    component[~positive] = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / n_positive
    value = float(component[positive].mean())
    share = np.where(positive, n_positive, n_negative) / len(labels)
    return Metric(value, value + (component - value) / share)


def _interval(value: float, influence: FloatArray, confidence: float) -> Estimate:
    half = stats.norm.ppf(0.5 + confidence / 2) * influence.std(ddof=1) / np.sqrt(len(influence))
    return Estimate(value, float(value - half), float(value + half))
