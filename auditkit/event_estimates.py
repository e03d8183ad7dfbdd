"""From moments to the mean of every event and its standard error; no row is looked at here.

se² = Σ w² (v − m)² / W² · n/(n − 1)        (Welch's, where all weights are equal)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditkit._typing import BoolArray, FloatArray
from auditkit.contrasts import Contrasts
from auditkit.intervals import Limits, UnitMeans, difference_limits, fit_unit_means
from auditkit.moments import Moments
from auditkit.proportions import Counts
from auditkit.squares import Linear, effective_size, sum_products

_PSEUDO_ROWS = 4.0
"""Rows by which the correlation of labels and scores is pulled towards 0."""


@dataclass(frozen=True, eq=False)
class EventEstimates:
    """What the moments say about every event; arrays have shape (e,) unless said otherwise.

    Attributes:
        count: Number of rows.
        effective: (Σw)²/Σw²; the number of rows when there are no weights.
        score: Mean score.
        label: Mean label; NaN where no labels were given.
        value: What the criterion compares: the mean score, or the mean residual y − z.
        variance: Squared standard error of ``value``; NaN for an event of one row.
        covariance: Covariance of the values of all events, shape (e, e), never zero on its diagonal where known.
        unit: Whether the values compared are (or are differences of) values in [0, 1].
        binary: Whether they are binary scores of equal weight, for which exact limits need no least number of rows.
        residual: Whether ``value`` is a mean residual.
        scores: Effective trials of the mean scores.
        labels: Effective trials of the mean labels.
        correlation: Of the mean label and the mean score.
    """

    count: FloatArray
    effective: FloatArray
    score: FloatArray
    label: FloatArray
    value: FloatArray
    variance: FloatArray
    covariance: FloatArray
    unit: BoolArray
    binary: BoolArray
    residual: BoolArray
    scores: UnitMeans
    labels: UnitMeans
    correlation: FloatArray

    @property
    def counts(self) -> Counts:
        """The events whose values are counts of independent rows."""
        return Counts(self.binary, np.rint(np.where(self.binary, self.score * self.count, 0.0)), self.count)

    def limits(self, level: FloatArray | float, *, correction: float) -> Limits:
        """Limits of the values of ``unit`` events; shape (e, *level.shape)."""
        low, high = self.scores.limits(level, correction=correction)
        if not self.residual.any():
            return low, high
        spread = (slice(None),) + (None,) * np.ndim(level)
        residual = difference_limits(
            self.label[spread], self.labels.limits(level, correction=correction), self.score[spread], (low, high),
            correlation=self.correlation[spread],
        )  # fmt: skip
        chosen = self.residual[spread]
        return np.where(chosen, residual[0], low), np.where(chosen, residual[1], high)


def estimate_events(moments: Moments, contrasts: Contrasts) -> EventEstimates:
    """Means and standard errors of every event, from the sums of its cells.

    Args:
        moments: Sums per cell.
        contrasts: Which cells make up which event.

    Returns:
        One entry per event.
    """
    member = contrasts.cell_event.astype(np.float64)
    count, mass = member @ moments.count, member @ moments.weight
    effective = effective_size(moments, member)
    score = (member @ moments.score) / mass
    label = (member @ moments.label) / mass if moments.has_labels else np.full_like(score, np.nan)
    residual = np.array([contrasts.criteria[event.criterion].family == "EER" for event in contrasts.events], dtype=bool)
    spread = _Spread(moments, member, mass, effective)
    zeros, ones = np.zeros_like(score), np.ones_like(score)
    of_scores, of_labels = spread.covariance(ones, zeros), spread.covariance(zeros, ones)
    even = np.isclose(effective, count, rtol=1e-9) & (moments.gram is None)
    score_binary = even & (_soft(moments, member, moments.score, moments.score2) < 1e-9 * mass)
    label_binary = even & (_soft(moments, member, moments.label, moments.label2) < 1e-9 * mass)
    scores = fit_unit_means(score, np.diag(of_scores), effective, exact=score_binary)
    labels = fit_unit_means(np.where(residual, label, 0.0), np.diag(of_labels), effective, exact=label_binary)
    unit = bool(moments.outside.sum() == 0) & (~residual | bool(moments.label_outside.sum() == 0))
    full = spread.covariance(np.where(residual, -1.0, 1.0), np.where(residual, 1.0, 0.0))
    estimates = EventEstimates(
        count, effective, score, label, np.where(residual, label - score, score), np.diag(full).copy(), full, unit,
        unit & score_binary & ~residual, residual, scores, labels, zeros,
    )  # fmt: skip
    return _with_working_covariance(estimates, np.diag(of_scores), np.diag(of_labels), spread)


class _Spread:
    """Covariances of linear combinations of mean score and mean label over events.

        Cov(A, B) = Σ_{rows in A ∩ B} w² (v − v̄_A)(v′ − v̄′_B) / (W_A W_B),  v = a·z + b·y

    times √(n_A/(n_A − 1) · n_B/(n_B − 1)), which makes the variances those of Welch.
    """

    def __init__(self, moments: Moments, member: FloatArray, mass: FloatArray, effective: FloatArray) -> None:
        self.moments, self.member, self.mass = moments, member, mass
        self.z = (member @ moments.score) / mass - moments.shift
        self.y = (member @ moments.label) / mass - (moments.shift if moments.has_labels else 0.0)
        self.finite = np.sqrt(np.divide(effective, effective - 1, out=np.full_like(mass, np.nan), where=effective > 1))

    def covariance(self, a: FloatArray, b: FloatArray, second: tuple[FloatArray, FloatArray] | None = None) -> Any:
        """Covariance of a·z̄ + b·ȳ between all events, shape (e, e); ``second`` gives the columns' own a and b."""
        left = self._centred(a, b)
        right = None if second is None else self._centred(*second)
        scale = self.finite / self.mass
        matrix = sum_products(self.moments, left, right) * scale[:, None] * scale
        # rounding leaves about 1e-16 of the mean square where the values are all equal
        raw = sum(np.diag(sum_products(self.moments, {basis: left[basis]})) for basis in ("z", "y")) * scale**2
        diagonal = np.diag(matrix).copy()
        diagonal[diagonal < 1e-13 * np.maximum(raw, 1e-300)] = 0.0
        np.fill_diagonal(matrix, diagonal)
        return matrix

    def _centred(self, a: FloatArray, b: FloatArray) -> Linear:
        """a·z + b·y less its mean, on the rows of every event."""
        mean = a * self.z + b * self.y
        return {basis: part[:, None] * self.member for basis, part in (("w", -mean), ("z", a), ("y", b))}


def _soft(moments: Moments, member: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Σ w v(1 − v) over every event: zero for binary values."""
    square = second + 2 * moments.shift * first - moments.shift**2 * moments.weight
    return np.abs(member @ (first - square))


def _with_working_covariance(
    estimates: EventEstimates, of_scores: FloatArray, of_labels: FloatArray, spread: _Spread
) -> EventEstimates:
    """The same with a covariance whose diagonal is never zero, and the correlation of labels and scores."""
    zeros, ones = np.zeros_like(estimates.score), np.ones_like(estimates.score)
    correlation = zeros
    working = np.where(estimates.unit, estimates.scores.variance, estimates.variance)
    if estimates.residual.any():
        cross = np.diag(spread.covariance(ones, zeros, (zeros, ones)))
        scale = np.sqrt(of_scores * of_labels)
        correlation = np.divide(cross, scale, out=zeros.copy(), where=np.isfinite(scale) & (scale > 0))
        correlation = shrink_correlation(correlation, estimates.effective)
        score, label = (np.sqrt(np.maximum(m.variance, 0.0)) for m in (estimates.scores, estimates.labels))
        joint = score**2 + label**2 - 2 * correlation * score * label
        working = np.where(estimates.unit & estimates.residual, joint, working)
    flat = ~estimates.unit & (working == 0)
    if flat.any():
        working = np.where(flat, _borrowed_variance(estimates, flat), working)
    size = np.sqrt(np.where(estimates.variance > 0, estimates.variance, 1.0))
    matrix = estimates.covariance / size[:, None] / size
    np.fill_diagonal(matrix, 1.0)
    root = np.sqrt(working)
    return replace(
        estimates,
        variance=np.where(flat, working, estimates.variance),
        covariance=matrix * root[:, None] * root,
        correlation=correlation,
    )


def shrink_correlation(correlation: FloatArray, effective: FloatArray) -> FloatArray:
    """A correlation of labels and scores pulled towards 0, since a perfect one is never quite known."""
    return correlation * effective / (effective + _PSEUDO_ROWS)


def _borrowed_variance(estimates: EventEstimates, flat: BoolArray) -> FloatArray:
    """For events without any spread: that of the others, as if one row had it; NaN where no event has any."""
    others = ~flat & np.isfinite(estimates.variance)
    spread = (estimates.variance * estimates.effective)[others]
    pooled = float(spread.mean()) if others.any() and spread.max() > 0 else np.nan
    return pooled / (estimates.effective * (estimates.effective + 1))
