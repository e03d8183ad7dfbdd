"""Utility of scores with intervals, and paired differences between two methods on the same rows.

Every metric is a mean of per-row terms or, for the AUC, has per-row influence values; its standard error is that of
their mean, and the difference of two methods is tested on the differences of their terms, row by row. Where several
rows are of one person, terms are summed over the rows of each person first (`auditkit.clusters`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from auditkit._typing import FloatArray, IntArray
from auditkit.clusters import estimate_error

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
        clusters: Code of every row's cluster, shape (n,); None where the rows are independent.
    """

    value: float
    influence: FloatArray
    clusters: IntArray | None = None

    def estimate(self, *, confidence: float) -> Estimate:
        """The value with its interval: normal for independent rows, by t over the clusters otherwise."""
        return interval_of([self], confidence=confidence)


def measure_utility(
    labels: FloatArray,
    *,
    scores: FloatArray | None,
    decisions: FloatArray | None,
    clusters: IntArray | None = None,
) -> dict[str, Metric | None]:
    """Accuracy, AUC, Brier score and log-loss for binary labels.

    Args:
        labels: 0 or 1, shape (n,).
        scores: Probabilities, shape (n,); None where a method gives decisions only.
        decisions: Probability of a positive decision (0 or 1 unless the method randomises), shape (n,).
        clusters: Code of every row's cluster, shape (n,); None takes the rows as independent.

    Returns:
        Metric name → metric, None where it is not defined for what was given.
    """
    is_probability = scores is not None and scores.min(initial=0.0) >= 0 and scores.max(initial=1.0) <= 1
    found = {
        "accuracy": None if decisions is None else _mean(labels * decisions + (1 - labels) * (1 - decisions)),
        "auc": None if scores is None else _area_under_curve(labels, scores),
        "brier": _mean((scores - labels) ** 2) if scores is not None and is_probability else None,
        "log_loss": _mean(_cross_entropy(labels, scores)) if scores is not None and is_probability else None,
    }
    return {name: None if metric is None else replace(metric, clusters=clusters) for name, metric in found.items()}


def measure_errors(labels: FloatArray, *, scores: FloatArray, clusters: IntArray | None = None) -> dict[str, Metric]:
    """Mean squared and mean absolute error of a regression.

    Args:
        labels: Any numbers, shape (n,).
        scores: Predictions, shape (n,).
        clusters: Code of every row's cluster, shape (n,); None takes the rows as independent.

    Returns:
        "mse" and "mae".
    """
    found = {"mse": _mean((scores - labels) ** 2), "mae": _mean(np.abs(scores - labels))}
    return {name: replace(metric, clusters=clusters) for name, metric in found.items()}


def subtract(first: Metric, second: Metric) -> Metric:
    """The difference of two metrics on the same rows, as a metric."""
    return Metric(first.value - second.value, first.influence - second.influence, first.clusters)


def interval_of(metrics: Sequence[Metric], *, confidence: float) -> Estimate:
    """Mean of a metric over J trainings that are judged on the same rows, with its interval.

        v̄ ± q · √(se² + s²/J),    se² of the influences averaged over the trainings,  s² the variance of the J values

    The rows vary over the population that they were drawn from, the trainings over their seeds. q is Student's, with
    the degrees of freedom of Satterthwaite; normal where the rows are independent and there is one training.

    Args:
        metrics: One per training.
        confidence: Of the interval.
    """
    values = np.array([metric.value for metric in metrics])
    influence = np.mean([metric.influence for metric in metrics], axis=0)
    error, freedom = estimate_error(influence, metrics[0].clusters)
    parts = [(error**2, freedom)]
    if len(values) > 1:
        parts.append((values.var(ddof=1) / len(values), len(values) - 1.0))
    total = sum(part for part, _ in parts)
    shared = sum(part**2 / of for part, of in parts)
    half = float(stats.t.ppf(0.5 + confidence / 2, total**2 / shared if shared > 0 else np.inf) * np.sqrt(total))
    value = float(values.mean())
    return Estimate(value, value - half, value + half)


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
