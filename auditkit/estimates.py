"""From moments to gaps with standard errors, simultaneous intervals and tests; no row is looked at here.

For every contrast g = mean(plus) − mean(minus) of scores (ECP) or residuals y − z (EER):

    se² = Σ w² (v − m)² / W² · n/(n − 1), summed over both events          (Welch's, where all weights are equal)
    interval = every δ with |z(δ)| ≤ c where both events are proportions of independent rows,
               else MOVER limits of both events where scores (and labels) lie in [0, 1],
               else g ± t_{df, Φ(−c)} · se

c is the level at which all intervals of the audit cover at once (see `auditkit.joint`); z(δ) is the score statistic of
`auditkit.proportions`, and the limits are those of `auditkit.intervals`. Each gap is also tested twice, without
adjustment here: "|g| ≤ ε" and "|g| ≥ ε", by exact limits of both events where they are proportions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from auditkit._typing import BoolArray, FloatArray
from auditkit.contrasts import Contrasts
from auditkit.event_estimates import EventEstimates
from auditkit.intervals import INTERVAL_CORRECTION, TEST_CORRECTION, Limits, difference_limits, two_sided_level
from auditkit.joint import DRAWS, JointGaps, joint_level, simulate_gaps, square_root
from auditkit.multiplicity import adjust_benjamini_hochberg, adjust_holm
from auditkit.proportions import score_limits

MIN_ROWS = 10
"""Events of fewer effective rows get no interval, unless their values are binary: the variance is not known enough."""

_LEVELS = np.linspace(0.0, 9.0, 91)
"""Where limits are computed to be inverted for p-values; beyond, a p-value is given as Φ(−9) ≈ 1e-19."""


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


def estimate_gaps(
    events: EventEstimates, contrasts: Contrasts, *, confidence: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> GapEstimates:
    """Gaps with simultaneous and pointwise intervals and one-sided tests.

    Args:
        events: Means and standard errors per event.
        contrasts: Which events are compared, and the tolerances.
        confidence: Joint confidence of all intervals, in (0, 1).
        seed: Seed of the simulation that sets the critical level.
        draws: Its number of draws; 0 simulates nothing: all intervals are then pointwise and no excess is known of.

    Returns:
        One entry per contrast.
    """
    gap, shared, working, adequate = _gaps(events, contrasts)
    se = np.sqrt(_variance_of_difference(contrasts, events.variance, shared))
    joint = JointGaps(two_sided_level(confidence), np.zeros(len(contrasts.criteria)))
    if draws:
        joint = simulate_gaps(
            contrasts, events.value, events.covariance, adequate, confidence=confidence, seed=seed, draws=draws,
            counts=events.counts,
        )  # fmt: skip
    limits = _Limits(events, contrasts, gap, se, adequate, shared)
    (low, pointwise_low), (high, pointwise_high) = (
        side.T for side in limits.intervals(np.array([joint.level, two_sided_level(confidence)]))
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
    """Half-widths of simultaneous intervals, on their longer side, without any test.

    They are those of `GapEstimates.margin` except for counts of independent rows, which have MOVER limits here as every
    other value in [0, 1]: a margin is asked for again and again while what it is of moves, and must move with it.

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

    def intervals(self, levels: FloatArray) -> Limits:
        """As `at`, by the score statistic where both events are counts of independent rows."""
        low, high = self.at(levels)
        counts, plus, minus = self.events.counts, self.contrasts.plus, self.contrasts.minus
        pairs = np.flatnonzero(self.adequate & (minus >= 0) & counts.known[plus] & counts.known[minus])
        if len(pairs):
            first, second = plus[pairs, None], minus[pairs, None]
            ones, rows = counts.ones, counts.rows
            low[pairs], high[pairs] = score_limits(ones[first], rows[first], ones[second], rows[second], levels)
        return low, high

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
