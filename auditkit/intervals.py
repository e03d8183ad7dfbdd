"""Limits for means of values in [0, 1], and for differences and ratios of two of them.

A mean m of n values in [0, 1] has variance φ·μ(1 − μ)/n with a dispersion φ in [0, 1]: φ = 1 for decisions and other
binary values, less for scores. Inverting that relation, instead of plugging in the sample's variance as Welch's t
does, keeps intervals honest where values are skewed or rare and cells are small; with N = n/φ effective trials

    low  = B⁻¹(Φ(−z);  N·m + (1 − γ)/2,  N·(1 − m) + (1 + γ)/2)         high likewise, mirrored

is the Clopper–Pearson limit for γ = 1 and Jeffreys' for γ = 0. Two means are compared by the method of variance
estimates recovery (MOVER), of which Newcombe's interval is the best-known case.

Sources: Clopper and Pearson (1934), Biometrika 26, 404–413; Korn and Graubard (1998), Survey Methodology 24, 193–201
(effective trials of weighted or clustered proportions); Newcombe (1998), Statistics in Medicine 17, 873–890; Zou and
Donner (2008), Statistics in Medicine 27, 1693–1702; Donner and Zou (2012), Statistical Methods in Medical Research 21,
347–359 (ratios). benchmarks/coverage.py measures what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from auditkit._typing import BoolArray, FloatArray

INTERVAL_CORRECTION = 0.4
"""γ of two-sided intervals: the least that keeps them at 94 % of 95 % over the grid of benchmarks/coverage.py."""

TEST_CORRECTION = 1.0
"""γ of tests, whose errors must stay below their level: exact limits."""

POOLED_ROWS = 10.0
"""Rows' worth of trust in the dispersion pooled over all cells, where it is larger than a cell's own."""

Limits = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class UnitMeans:
    """Means of values in [0, 1]; all arrays have shape (…, e).

    Attributes:
        mean: m; NaN for no rows.
        trials: N = n/φ, at which the variance is that of a proportion.
        dispersion: φ.
        freedom: Degrees of freedom of φ's estimate.
    """

    mean: FloatArray
    trials: FloatArray
    dispersion: FloatArray
    freedom: FloatArray

    @property
    def variance(self) -> FloatArray:
        """Squared standard error that is never zero: of the mean pulled towards ½ by one trial."""
        centre = (self.trials * self.mean + 0.5) / (self.trials + 1)
        return centre * (1 - centre) / self.trials

    def limits(self, level: FloatArray | float, *, correction: float = INTERVAL_CORRECTION) -> Limits:
        """Lower and upper limits.

        Args:
            level: Normal quantiles z ≥ 0, each side errs with Φ(−z); shape () or (l,).
            correction: γ.

        Returns:
            Two arrays of shape (…, e, *level.shape); the mean lies between them.
        """
        z = np.asarray(level, dtype=np.float64)
        mean, dispersion, freedom, trials = (
            values.reshape(values.shape + (1,) * z.ndim)
            for values in (self.mean, self.dispersion, self.freedom, self.trials)
        )
        tail = special.ndtr(-z)
        wider = np.where(z > 0, z / np.maximum(-special.stdtrit(freedom, tail), 1e-9), 1.0) ** 2
        # a dispersion that is known, not estimated, needs no t quantile: that of binary values
        size = trials * (dispersion + (1 - dispersion) * np.minimum(wider, 1.0))
        ones, zeros = size * mean, size * (1 - mean)
        less, more = (1 - correction) / 2, (1 + correction) / 2
        low = special.betaincinv(np.maximum(ones + less, 1e-12), zeros + more, tail)
        high = 1 - special.betaincinv(np.maximum(zeros + less, 1e-12), ones + more, tail)
        low = np.where(mean > 0, np.minimum(low, mean), 0.0)
        return np.where(np.isnan(mean), np.nan, low), np.where(mean < 1, np.maximum(high, mean), 1.0)


def fit_unit_means(mean: FloatArray, variance: FloatArray, effective: FloatArray, *, exact: BoolArray) -> UnitMeans:
    """The effective trials behind means of values in [0, 1].

    The dispersion estimated from a small skewed sample is too small, since what is rare is seldom seen. It is raised to
    the one pooled over all cells where that is larger, and pulled towards 1 by k rows, k large only where a Beta
    distribution of this mean and dispersion would be skewed.

    Args:
        mean: m, shape (…, e); cells are pooled along the last axis.
        variance: Squared standard errors of the means, same shape; those of ``exact`` cells are not read.
        effective: Effective number of rows (or of clusters), same shape.
        exact: Where the values are independent, unweighted and binary, so that φ = 1, same shape.

    Returns:
        The means with their trials.
    """
    n = np.maximum(effective, 1e-12)
    spread = mean * (1 - mean)
    own = np.divide(np.nan_to_num(variance) * n, spread, out=np.ones_like(n), where=spread > 1e-12)
    own = np.where(exact, 1.0, np.clip(own, 0.0, 1.0))
    rough = ~exact & (spread > 1e-12)
    mass = n * spread * rough
    total = mass.sum(axis=-1, keepdims=True)
    pooled = np.divide((mass * own).sum(axis=-1, keepdims=True), total, out=np.zeros_like(total), where=total > 0)
    raised = np.maximum(own, (n * own + POOLED_ROWS * pooled) / (n + POOLED_ROWS))
    shape = np.minimum(mean, 1 - mean) * (1 / np.maximum(raised, 1e-12) - 1)
    pull = np.where(raised > 0, 6 / (1 + 10 * shape) + 0.05, 1.0)
    dispersion = np.where(exact, 1.0, (n * raised + pull) / (n + pull))
    freedom = np.where(exact, 1e9, np.maximum(n - 1, 1.0))
    return UnitMeans(mean, n / dispersion, dispersion, freedom)


def difference_limits(
    first: FloatArray, first_limits: Limits, second: FloatArray, second_limits: Limits, *, correlation: Any = 0.0
) -> Limits:
    """MOVER limits of first − second.

        low = d − √((m₁ − l₁)² + (u₂ − m₂)² − 2ρ(m₁ − l₁)(u₂ − m₂))          high likewise, mirrored

    Args:
        first: m₁.
        first_limits: (l₁, u₁), of a shape that m₁ broadcasts to.
        second: m₂.
        second_limits: (l₂, u₂).
        correlation: ρ of the two estimates.

    Returns:
        Lower and upper limits.

    Source: Zou and Donner (2008).
    """
    down, up = first - first_limits[0], first_limits[1] - first
    other_down, other_up = second - second_limits[0], second_limits[1] - second
    below = down**2 + other_up**2 - 2 * correlation * down * other_up
    above = up**2 + other_down**2 - 2 * correlation * up * other_down
    gap = first - second
    return gap - np.sqrt(np.maximum(below, 0.0)), gap + np.sqrt(np.maximum(above, 0.0))


def ratio_limits(first: FloatArray, first_limits: Limits, second: FloatArray, second_limits: Limits) -> Limits:
    """MOVER limits of first / second for means ≥ 0; the upper one is infinite where the second may be zero.

    Args:
        first: m₁, the numerator.
        first_limits: (l₁, u₁).
        second: m₂, the denominator.
        second_limits: (l₂, u₂).

    Returns:
        Lower and upper limits.

    Source: Donner and Zou (2012), equations 9 and 10.
    """
    (l1, u1), (l2, u2) = first_limits, second_limits
    product = first * second

    def root(one: FloatArray, other: FloatArray) -> FloatArray:
        return np.sqrt(np.maximum(product**2 - one * other * (2 * first - one) * (2 * second - other), 0.0))

    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(l1 > 0, l1 * (2 * first - l1) / (product + root(l1, u2)), 0.0)
        high = np.where(l2 > 0, (product + root(u1, l2)) / (l2 * (2 * second - l2)), np.inf)
    return low, high


def two_sided_level(confidence: float) -> float:
    """The normal quantile of a two-sided interval."""
    return float(stats.norm.isf((1 - confidence) / 2))
