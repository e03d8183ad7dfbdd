"""Differences of two proportions of independent rows: the score statistic and the limits that invert it.

With x of n rows positive in either group, p̂ = x/n, and p̃ the likeliest rates among those with p̃₁ − p̃₂ = δ,

    z(δ) = (p̂₁ − p̂₂ − δ) / √((p̃₁(1 − p̃₁)/n₁ + p̃₂(1 − p̃₂)/n₂) · N/(N − 1)),    N = n₁ + n₂

falls as δ rises, and an interval holds every δ with |z(δ)| at most its level. Rates near 0 or 1 need no correction:
the standard error is that of the rates which δ implies, not of those that were seen.

Sources: Miettinen and Nurminen (1985), Statistics in Medicine 4, 213–226; Farrington and Manning (1990), Statistics in
Medicine 9, 1447–1454 (p̃ in closed form).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from auditkit._typing import BoolArray, FloatArray
from auditkit.intervals import Limits

_HALVINGS = 48
"""Of an interval of length at most 2: limits are known to 1e-14."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Positives among independent rows of equal weight; arrays have shape (e,).

    Attributes:
        known: Whether an event is such a count.
        ones: x; not read elsewhere.
        rows: n; not read elsewhere.
    """

    known: BoolArray
    ones: FloatArray
    rows: FloatArray

    @property
    def fewer(self) -> FloatArray:
        """Positives or negatives, whichever are fewer; infinite where there is no count."""
        return np.where(self.known, np.minimum(self.ones, self.rows - self.ones), np.inf)

    @property
    def rates(self) -> FloatArray:
        """(x + ½)/(n + 1), which is never 0 or 1."""
        return (self.ones + 0.5) / (self.rows + 1)


def score_statistic(first: Any, first_rows: Any, second: Any, second_rows: Any, difference: Any) -> FloatArray:
    """z(δ) of the module's equation; 0 where the estimate is δ itself.

    Args:
        first: x₁, counts of the first group; all arguments broadcast together.
        first_rows: n₁ ≥ 1.
        second: x₂.
        second_rows: n₂ ≥ 1.
        difference: δ in [−1, 1].

    Returns:
        The signed statistic.
    """
    one, other = np.asarray(first, dtype=np.float64) / first_rows, np.asarray(second, dtype=np.float64) / second_rows
    rate = restrict_rate(one, first_rows, other, second_rows, difference)
    partner = np.clip(rate - difference, 0.0, 1.0)
    total = np.asarray(first_rows + second_rows, dtype=np.float64)
    variance = (rate * (1 - rate) / first_rows + partner * (1 - partner) / second_rows) * total / (total - 1)
    excess = one - other - difference
    excess = np.where(np.abs(excess) < 1e-14, 0.0, excess)
    return excess / np.sqrt(np.maximum(variance, 1e-30))


def restrict_rate(one: Any, rows: Any, other: Any, other_rows: Any, difference: Any) -> FloatArray:
    """p̃₁: the root of the likelihood equation, a cubic, that lies where both rates are in [0, 1].

    Args:
        one: p̂₁.
        rows: n₁.
        other: p̂₂.
        other_rows: n₂.
        difference: δ.

    Returns:
        p̃₁; p̃₂ is p̃₁ − δ.
    """
    ratio = other_rows / rows
    third = 3 * (1 + ratio)
    square = -(1 + ratio + one + ratio * other + difference * (ratio + 2))
    linear = difference * difference + difference * (2 * one + ratio + 1) + one + ratio * other
    constant = -one * difference * (1 + difference)
    middle = square / third
    offset = middle**3 - square * linear / (2 * third * (1 + ratio)) + constant / (2 * (1 + ratio))
    size = np.sqrt(np.maximum(middle * middle - linear / third, 0.0))
    size = np.where(offset < 0, -size, size)
    cube = size**3
    cosine = np.divide(offset, cube, out=np.zeros_like(cube), where=np.abs(cube) > 1e-290)
    angle = (np.pi + np.arccos(np.clip(cosine, -1.0, 1.0))) / 3
    return np.clip(2 * size * np.cos(angle) - middle, np.maximum(difference, 0.0), np.minimum(1.0 + difference, 1.0))


def score_limits(first: Any, first_rows: Any, second: Any, second_rows: Any, level: Any) -> Limits:
    """The least and the largest δ with |z(δ)| ≤ level.

    Args:
        first: x₁; all arguments broadcast together.
        first_rows: n₁.
        second: x₂.
        second_rows: n₂.
        level: Normal quantile ≥ 0.

    Returns:
        Lower and upper limits of p₁ − p₂, within [−1, 1].
    """
    first, second, level = np.broadcast_arrays(first, second, np.asarray(level, dtype=np.float64))
    gap = first / first_rows - second / second_rows
    low, high = (_bisect(gap, end, level, (first, first_rows), (second, second_rows)) for end in (-1.0, 1.0))
    return low, high


def _bisect(
    gap: FloatArray, end: float, level: FloatArray, first: tuple[Any, Any], second: tuple[Any, Any]
) -> FloatArray:
    """Where the statistic of two counts reaches the level on the way from the estimate to one end of [−1, 1]."""
    inside, outside = gap.copy(), np.full_like(gap, end)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        held = np.abs(score_statistic(*first, *second, middle)) <= level
        inside, outside = np.where(held, middle, inside), np.where(held, outside, middle)
    return outside
