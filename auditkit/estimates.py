"""From moments to gaps with standard errors, simultaneous intervals and tests; no row is looked at here.

For every contrast g = mean(plus) − mean(minus) of scores (ECP) or residuals y − z (EER):

    se² = Σ w² (v − m)² / W² · n/(n − 1), summed over both events          (Welch's, where all weights are equal)
    interval = MOVER limits of both events where scores (and labels) lie in [0, 1], else g ± t_{df, Φ(−c)} · se

c is the level at which all intervals of the audit cover at once (see `auditkit.joint`); the limits are those of
`auditkit.intervals`. Each gap is also tested twice, without adjustment here: "|g| ≤ ε" and "|g| ≥ ε".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from auditkit._typing import BoolArray, FloatArray
from auditkit.criteria import Contrasts
from auditkit.intervals import (
    INTERVAL_CORRECTION,
    TEST_CORRECTION,
    Limits,
    UnitMeans,
    difference_limits,
    fit_unit_means,
    two_sided_level,
)
from auditkit.joint import DRAWS, joint_level, simulate_gaps, square_root
from auditkit.moments import Moments
from auditkit.multiplicity import adjust_benjamini_hochberg, adjust_holm
from auditkit.squares import Linear, effective_size, sum_products

MIN_ROWS = 10
"""Events of fewer effective rows get no interval, unless their values are binary: the variance is not known enough."""

_LEVELS = np.linspace(0.0, 9.0, 91)
"""Where limits are computed to be inverted for p-values; beyond, a p-value is given as Φ(−9) ≈ 1e-19."""

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


@dataclass(frozen=True, eq=False)
class GapEstimates:
    """What the moments say about every contrast; all arrays have shape (m,).

    Attributes:
        gap: The contrast of event values, signed.
        se: Standard error; NaN where an event is too small for one.
        low: Lower end of the simultaneous interval of the signed gap; NaN where there is none.
        high: Upper end.
        pointwise: (lower, upper) ends of the interval that covers this gap alone.
        p_above: One-sided p-value against |gap| ≤ ε, not adjusted.
        p_below: One-sided p-value against |gap| ≥ ε (equivalence), not adjusted.
        p_holm: ``p_above`` adjusted over all gaps of the audit: small ones err anywhere with at most that probability.
        q_value: ``p_above`` adjusted for the share of false discoveries (Benjamini and Hochberg).
        detectable: Smallest true |gap| that this sample would find above ε with probability 0.8.
        working: Squared standard error that is never zero.
        adequate: Whether both events have enough rows for an interval.
        excess: Expected excess of the largest estimated |gap| over the true one, per criterion, shape (criteria,).
        confidence: Joint confidence of all the intervals.
    """

    gap: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    pointwise: Limits
    p_above: FloatArray
    p_below: FloatArray
    p_holm: FloatArray
    q_value: FloatArray
    detectable: FloatArray
    working: FloatArray
    adequate: BoolArray
    excess: FloatArray
    confidence: float

    @property
    def margin(self) -> FloatArray:
        """How far the simultaneous interval reaches from the gap, on its longer side; NaN where there is none."""
        return np.maximum(self.high - self.gap, self.gap - self.low)


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


def estimate_gaps(
    events: EventEstimates, contrasts: Contrasts, *, confidence: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> GapEstimates:
    """Gaps with simultaneous and pointwise intervals and one-sided tests.

    Args:
        events: Means and standard errors per event.
        contrasts: Which events are compared, and the tolerances.
        confidence: Joint confidence of all intervals, in (0, 1).
        seed: Seed of the simulation that sets the critical level.
        draws: Its number of draws.

    Returns:
        One entry per contrast.
    """
    gap, shared, working, adequate = _gaps(events, contrasts)
    se = np.sqrt(_variance_of_difference(contrasts, events.variance, shared))
    joint = simulate_gaps(
        contrasts, events.value, events.covariance, adequate, confidence=confidence, seed=seed, draws=draws
    )
    limits = _Limits(events, contrasts, gap, se, adequate, shared)
    (low, pointwise_low), (high, pointwise_high) = (
        side.T for side in limits.at(np.array([joint.level, two_sided_level(confidence)]))
    )
    above, below = limits.p_values(contrasts.tolerance)
    power = -special.ndtri((1 - confidence) / max(int(adequate.sum()), 1)) + special.ndtri(0.8)
    return GapEstimates(
        gap, se, low, high, (pointwise_low, pointwise_high), above, below, adjust_holm(above),
        adjust_benjamini_hochberg(above), np.where(adequate, contrasts.tolerance + power * np.sqrt(working), np.nan),
        working, adequate, joint.bias, confidence,
    )  # fmt: skip


def estimate_margins(
    events: EventEstimates, contrasts: Contrasts, *, confidence: float = 0.95, seed: int = 0
) -> FloatArray:
    """Half-widths of the simultaneous intervals alone, on their longer side: `GapEstimates.margin` without any test.

    Args:
        events: Means and standard errors per event.
        contrasts: Which events are compared.
        confidence: Joint confidence of all intervals.
        seed: Seed of the simulation that sets the critical level, where the gaps are correlated.

    Returns:
        Shape (m,); infinite where a group is too small for an interval.
    """
    gap, shared, _, adequate = _gaps(events, contrasts)
    root = contrasts.contrast(square_root(np.nan_to_num(events.covariance)))[np.flatnonzero(adequate)]
    level = joint_level(root, confidence=confidence, seed=seed)
    se = np.sqrt(_variance_of_difference(contrasts, events.variance, shared))
    low, high = (side[:, 0] for side in _Limits(events, contrasts, gap, se, adequate, shared).at(np.array([level])))
    return np.where(adequate, np.maximum(high - gap, gap - low), np.inf)


def _gaps(events: EventEstimates, contrasts: Contrasts) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    """Gap, correlation of its two estimates, squared standard error, and whether there are rows enough; shape (m,)."""
    shared = _correlation(events, contrasts)
    working = _variance_of_difference(contrasts, np.diag(events.covariance), shared)
    enough = np.where(events.binary, 1.0, (events.effective >= MIN_ROWS - 1e-9).astype(np.float64))
    adequate = (contrasts.contrast_min(enough) > 0) & np.isfinite(working)
    return contrasts.contrast(events.value), shared, working, adequate


class _Limits:
    """Limits of every contrast at any level, and the levels at which they reach a value."""

    def __init__(
        self,
        events: EventEstimates,
        contrasts: Contrasts,
        gap: FloatArray,
        se: FloatArray,
        adequate: BoolArray,
        correlation: FloatArray,
    ) -> None:
        self.events, self.contrasts, self.gap, self.se, self.adequate = events, contrasts, gap, se, adequate
        self.correlation = correlation[:, None]
        self.unit = events.unit[contrasts.plus]
        self.df = _welch(contrasts, events.variance, np.maximum(events.effective - 1, 1.0))

    def at(self, levels: FloatArray, *, correction: float = INTERVAL_CORRECTION) -> Limits:
        """Lower and upper limits, shape (m, l); NaN where a contrast is not adequate."""
        with np.errstate(invalid="ignore"):
            half = -special.stdtrit(self.df[:, None], special.ndtr(-levels)) * self.se[:, None]
        low, high = self.gap[:, None] - half, self.gap[:, None] + half
        if self.unit.any():
            unit = self.unit[:, None]
            unit_low, unit_high = self._mover(levels, correction)
            low, high = np.where(unit, unit_low, low), np.where(unit, unit_high, high)
        adequate = self.adequate[:, None]
        return np.where(adequate, low, np.nan), np.where(adequate, high, np.nan)

    def _mover(self, levels: FloatArray, correction: float) -> Limits:
        plus, minus = self.contrasts.plus, self.contrasts.minus
        low, high = self.events.limits(levels, correction=correction)
        value = self.events.value[:, None]
        alone = (minus < 0)[:, None]
        pair = difference_limits(
            value[plus], (low[plus], high[plus]), value[minus], (low[minus], high[minus]), correlation=self.correlation
        )
        return np.where(alone, low[plus], pair[0]), np.where(alone, high[plus], pair[1])

    def p_values(self, tolerance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P-values against |gap| ≤ ε and against |gap| ≥ ε: the levels at which limits reach ±ε."""
        flip = (self.gap < 0)[:, None]
        low, high = self.at(_LEVELS, correction=TEST_CORRECTION)
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        size = np.abs(self.gap)
        down = _crossing(-low, -tolerance)  # where the lower limit of |gap| falls to ε
        up = _crossing(high, tolerance)
        far = _crossing(-low, tolerance)
        above = special.ndtr(-np.where(size > tolerance, down, -up)) + special.ndtr(-far)
        below = special.ndtr(-np.where(size < tolerance, np.minimum(up, far), -down))
        above, below = (np.where(self.adequate, np.minimum(p, 1.0), np.nan) for p in (above, below))
        return above, below


def _crossing(rising: FloatArray, target: FloatArray) -> FloatArray:
    """The level at which each row of limits, rising with ``_LEVELS``, reaches its target; the last level if never."""
    reached = rising >= target[:, None]
    last = np.where(reached.any(axis=1), reached.argmax(axis=1), len(_LEVELS) - 1)
    first = np.maximum(last - 1, 0)
    rows = np.arange(len(rising))
    start, end = rising[rows, first], rising[rows, last]
    share = np.divide(target - start, end - start, out=np.ones_like(end), where=end > start)
    return _LEVELS[first] + np.clip(share, 0.0, 1.0) * (_LEVELS[last] - _LEVELS[first])


def _correlation(events: EventEstimates, contrasts: Contrasts) -> FloatArray:
    """Of the two estimates of every contrast: zero unless clusters have rows in both events; shape (m,)."""
    covariance, root = events.covariance, np.sqrt(np.diag(events.covariance))
    both = covariance[contrasts.plus, contrasts.minus]
    scale = root[contrasts.plus] * root[contrasts.minus]
    known = (contrasts.minus >= 0) & np.isfinite(scale) & (scale > 0)
    return np.divide(both, scale, out=np.zeros_like(both), where=known)


def _variance_of_difference(contrasts: Contrasts, variance: FloatArray, correlation: FloatArray) -> FloatArray:
    second = np.where(contrasts.minus >= 0, variance[contrasts.minus], 0.0)
    return contrasts.contrast_sum(variance) - 2 * correlation * np.sqrt(variance[contrasts.plus] * second)


def _welch(contrasts: Contrasts, variance: FloatArray, freedom: FloatArray) -> FloatArray:
    total = contrasts.contrast_sum(variance)
    parts = contrasts.contrast_sum(variance**2 / freedom)
    fallback = contrasts.contrast_min(freedom)
    return np.divide(total**2, parts, out=fallback.copy(), where=np.isfinite(parts) & (parts > 0))
