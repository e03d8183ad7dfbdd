"""From moments to gaps with standard errors, simultaneous intervals and tests; no row is looked at here.

For every contrast g = mean(plus) − mean(minus) of scores (ECP) or residuals y − z (EER):

    se² = s²_plus / n_plus + s²_minus / n_minus            (Welch; n is the effective number of rows under weights)
    interval = g ± t_{df, 1−α*/2} · se

α* is chosen by simulating the joint distribution of all contrasts of the audit, so that all intervals cover at once
with the confidence asked for. Contrasts of one criterion share events and are simulated with that dependence;
criteria are simulated as independent of each other, which by the Gaussian correlation inequality can only widen the
intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from auditkit._typing import BoolArray, FloatArray
from auditkit.criteria import Contrasts
from auditkit.moments import Moments

MIN_ROWS = 10
"""Events with fewer rows get no interval: their variance is not known well enough for a verdict."""

DRAWS = 20_000
_CHUNK = 1_000


@dataclass(frozen=True, eq=False)
class EventEstimates:
    """What the moments say about every event; all arrays have shape (e,).

    Attributes:
        count: Number of rows.
        effective: (Σw)²/Σw²; the number of rows when there are no weights.
        score: Mean score.
        label: Mean label; NaN where no labels were given.
        value: What the criterion compares: the mean score, or the mean residual y − z.
        variance: Squared standard error of ``value``; NaN for an event of one row.
    """

    count: FloatArray
    effective: FloatArray
    score: FloatArray
    label: FloatArray
    value: FloatArray
    variance: FloatArray


@dataclass(frozen=True, eq=False)
class GapEstimates:
    """What the moments say about every contrast; all arrays have shape (m,).

    Attributes:
        gap: The contrast of event values, signed.
        se: Standard error; NaN where an event is too small for one.
        df: Welch's degrees of freedom.
        low: Lower end of the simultaneous interval of the signed gap.
        high: Upper end.
        p_above: One-sided p-value against |gap| ≤ ε, not adjusted for the number of contrasts.
        p_below: One-sided p-value against |gap| ≥ ε (equivalence).
        adequate: Whether both events have at least ``MIN_ROWS`` rows.
        confidence: Joint confidence of all the intervals.
    """

    gap: FloatArray
    se: FloatArray
    df: FloatArray
    low: FloatArray
    high: FloatArray
    p_above: FloatArray
    p_below: FloatArray
    adequate: BoolArray
    confidence: float


def estimate_events(moments: Moments, contrasts: Contrasts) -> EventEstimates:
    """Means and standard errors of every event, from the sums of its cells.

    Args:
        moments: Sums per cell.
        contrasts: Which cells make up which event.

    Returns:
        One entry per event.
    """
    member = contrasts.cell_event.astype(np.float64)
    count, mass, mass2 = member @ moments.count, member @ moments.weight, member @ moments.weight2
    effective = mass**2 / mass2
    score = (member @ moments.score) / mass
    label = (member @ moments.label) / mass if moments.has_labels else np.full_like(score, np.nan)
    residual = np.array([contrasts.criteria[event.criterion].family == "EER" for event in contrasts.events], dtype=bool)
    value = np.where(residual, label - score, score)
    square = member @ moments.score2
    shifted = score - moments.shift
    if residual.any():
        residual_square = square - 2 * (member @ moments.cross) + member @ moments.label2
        square, shifted = np.where(residual, residual_square, square), np.where(residual, value, shifted)
    spread = np.maximum(square / mass - shifted**2, 0.0)
    # rounding leaves a spread of about 1e-16 of the mean square where the values are all equal
    spread[spread < 1e-14 * np.maximum(square / mass, 1e-300)] = 0.0
    variance = np.divide(spread, effective - 1, out=np.full_like(spread, np.nan), where=effective > 1)
    return EventEstimates(count, effective, score, label, value, variance)


def estimate_gaps(
    events: EventEstimates, contrasts: Contrasts, *, confidence: float = 0.95, seed: int = 0
) -> GapEstimates:
    """Gaps with simultaneous intervals and one-sided tests.

    Args:
        events: Means and standard errors per event.
        contrasts: Which events are compared, and the tolerances.
        confidence: Joint confidence of all intervals, in (0, 1).
        seed: Seed of the simulation that sets the critical level.

    Returns:
        One entry per contrast.
    """
    gap = contrasts.contrast(events.value)
    se = np.sqrt(contrasts.contrast_sum(events.variance))
    freedom = np.maximum(events.effective - 1, 1.0)
    df = _welch(contrasts, events.variance, freedom)
    adequate = (contrasts.contrast_min(events.count) >= MIN_ROWS) & np.isfinite(se)
    level = joint_level(contrasts, events, adequate, confidence=confidence, seed=seed)
    half = stats.t.ppf(1 - level / 2, df) * se
    half[~adequate] = np.nan
    above, below = _one_sided(np.abs(gap) - contrasts.tolerance, se, df)
    return GapEstimates(gap, se, df, gap - half, gap + half, above, below, adequate, confidence)


def joint_level(
    contrasts: Contrasts, events: EventEstimates, adequate: BoolArray, *, confidence: float, seed: int
) -> float:
    """Two-sided level α* of each interval such that all cover at once with the confidence.

    Event means are drawn as normal and their variances as scaled χ², both from the estimated moments; every contrast is
    turned into its own Welch p-value, and α* is the (1 − confidence) quantile of the smallest of them.
    """
    kept = np.flatnonzero(adequate)
    if len(kept) <= 1:
        return 1 - confidence
    rng = np.random.default_rng(seed)
    plus, minus = contrasts.plus[kept], contrasts.minus[kept]
    scale = np.sqrt(np.nan_to_num(events.variance))
    freedom = np.maximum(events.effective - 1, 1.0)
    df = _welch(contrasts, events.variance, freedom)[kept]
    smallest = [
        _smallest_p_values(rng, scale, freedom, plus, minus, df, size=min(_CHUNK, DRAWS - start))
        for start in range(0, DRAWS, _CHUNK)
    ]
    return float(np.quantile(np.concatenate(smallest), 1 - confidence))


def _smallest_p_values(
    rng: np.random.Generator,
    scale: FloatArray,
    freedom: FloatArray,
    plus: np.ndarray,
    minus: np.ndarray,
    df: FloatArray,
    *,
    size: int,
) -> FloatArray:
    mean = rng.standard_normal((size, len(scale))) * scale
    variance = scale**2 * rng.chisquare(freedom, (size, len(scale))) / freedom
    second = minus >= 0
    difference = mean[:, plus] - np.where(second, mean[:, minus], 0.0)
    total = variance[:, plus] + np.where(second, variance[:, minus], 0.0)
    ratio = np.divide(np.abs(difference), np.sqrt(total), out=np.zeros_like(total), where=total > 0)
    # the smallest p-value of a draw belongs to the largest ratio on the normal scale, which is cheap to find
    normal = df * np.log1p(ratio**2 / df) * ((8 * df + 1) / (8 * df + 3)) ** 2  # Wallace (1959)
    worst = normal.argmax(axis=1)
    return 2 * special.stdtr(df[worst], -ratio[np.arange(size), worst])


def _welch(contrasts: Contrasts, variance: FloatArray, freedom: FloatArray) -> FloatArray:
    total = contrasts.contrast_sum(variance)
    parts = contrasts.contrast_sum(variance**2 / freedom)
    fallback = contrasts.contrast_min(freedom)
    return np.divide(total**2, parts, out=fallback.copy(), where=np.isfinite(parts) & (parts > 0))


def _one_sided(excess: FloatArray, se: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray]:
    """P-values of "the gap is above ε" and "the gap is below ε"; NaN without a standard error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(se > 0, excess / se, np.sign(excess) * np.inf)
    ratio = np.where((se == 0) & (excess == 0), 0.0, ratio)
    ratio = np.where(np.isnan(se), np.nan, ratio)
    return stats.t.sf(ratio, df), stats.t.cdf(ratio, df)


def wilson_interval(successes: FloatArray, trials: FloatArray, *, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Wilson score interval of proportions.

        (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)

    Args:
        successes: Counts (or weighted counts), any shape.
        trials: Numbers of trials, same shape; zero yields the interval [0, 1].
        confidence: Two-sided confidence of each interval.

    Returns:
        Lower and upper ends.

    Source: Wilson (1927), Journal of the American Statistical Association 22, 209–212.
    """
    z = stats.norm.ppf(0.5 + confidence / 2)
    n = np.where(trials > 0, trials, 1.0)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    known = trials > 0
    low = np.where(known, np.maximum(centre - half, 0.0), 0.0)
    return low, np.where(known, np.minimum(centre + half, 1.0), 1.0)
