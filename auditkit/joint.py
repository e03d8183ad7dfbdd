"""The joint distribution of all gaps of an audit, simulated from cell moments without looking at a row again.

The estimates of all events are jointly normal in large samples, with covariances that follow from the sums over the
cells that two events share: criteria of one audit are simulated together, not one by one. For every draw the
largest |z| over all gaps is kept; its (1 − α) quantile c makes intervals of level 2Φ(−c) cover all at once with
1 − α (max-t; the Gaussian multiplier bootstrap has the same limit but draws a number per row).

Counts of a few positives are not normal: the difference of two has lighter tails, so that the normal c would be too
large. Where some cell holds few, the same draws are turned into counts, x = F⁻¹(Φ(draw); n, p), with z the score
statistic of `auditkit.proportions` at the gap of the rates p that are drawn from. These are once those of the cells
themselves, once those pulled together to their likely true spread, and once a single rate; the largest c is taken, and
never one below that of a single gap.

Sources: Hothorn, Bretz and Westfall (2008), Biometrical Journal 50, 346–363; Chernozhukov, Chetverikov and Kato
(2013), Annals of Statistics 41, 2786–2819; Beran (1988), Journal of the American Statistical Association 83, 679–686
(simultaneous intervals whose level is simulated at estimated rates).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.contrasts import Contrasts
from auditkit.intervals import two_sided_level
from auditkit.proportions import Counts, score_statistic

DRAWS = 20_000
_BIAS_DRAWS = 2_000
_CHUNK = 64
"""Draws at a time: so few that the product of a usual audit stays on one thread, which others cannot make wait."""

FEW = 30.0
"""A count of at least this many positives and negatives is as good as normal, and is drawn as such to save time."""


@dataclass(frozen=True, eq=False)
class JointGaps:
    """What the simulation yields.

    Attributes:
        level: c, the normal quantile at which all intervals cover at once.
        bias: Expected excess of the largest estimated |gap| over the largest true one, per criterion.
    """

    level: float
    bias: FloatArray


def simulate_gaps(
    contrasts: Contrasts,
    values: FloatArray,
    covariance: FloatArray,
    adequate: BoolArray,
    *,
    confidence: float,
    seed: int,
    draws: int = DRAWS,
    counts: Counts | None = None,
) -> JointGaps:
    """Simulate all gaps of an audit together.

    Args:
        contrasts: Which events are compared.
        values: Estimate per event, shape (e,).
        covariance: Of the estimates, shape (e, e).
        adequate: Which contrasts have an interval, shape (m,).
        confidence: Joint confidence of all intervals.
        seed: Seed of the draws.
        draws: Number of draws for the level.
        counts: Which events are counts, of how many rows; None takes all estimates for normal.

    Returns:
        The critical level and the bias of the largest gap of every criterion.
    """
    kept = np.flatnonzero(adequate)
    bias = np.zeros(len(contrasts.criteria))
    if not len(kept):
        return JointGaps(two_sided_level(confidence), bias)
    root = contrasts.contrast(square_root(np.nan_to_num(covariance)))[kept]
    centre = contrasts.contrast(_shrink(contrasts, values, np.diag(covariance)))[kept]
    owner = contrasts.criterion[kept]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    rng = np.random.default_rng(seed)
    bias[owner[starts]] = _mean_largest(rng, centre, root, starts) - np.maximum.reduceat(np.abs(centre), starts)
    few = np.empty(0, dtype=np.int64) if counts is None else _few(contrasts, kept, counts)
    if counts is None or not len(few) or len(kept) == 1:
        level = max_t_level(root, confidence=confidence, seed=seed, draws=draws)
    else:
        simulation = _CountedGaps(contrasts, kept, few, counts, covariance, seed=seed, draws=draws)
        level = max(simulation.level(rates, confidence) for rates in simulation.likely_rates(values))
    return JointGaps(max(level, two_sided_level(confidence)), np.maximum(bias, 0.0))


def _few(contrasts: Contrasts, kept: IntArray, counts: Counts) -> IntArray:
    """Which of some contrasts compare two counts, one of them of few positives or negatives."""
    plus, minus = contrasts.plus[kept], contrasts.minus[kept]
    both = (minus >= 0) & counts.known[plus] & counts.known[minus]
    return kept[both & (np.minimum(counts.fewer[plus], counts.fewer[minus]) < FEW)]


class _CountedGaps:
    """Draws of all gaps in which some are gaps of counts."""

    def __init__(
        self,
        contrasts: Contrasts,
        kept: IntArray,
        few: IntArray,
        counts: Counts,
        covariance: FloatArray,
        *,
        seed: int,
        draws: int,
    ) -> None:
        self.contrasts, self.few, self.counts = contrasts, few, counts
        self.variance = np.diag(covariance)
        root = square_root(np.nan_to_num(covariance))
        deviation = np.sqrt(np.maximum(np.nan_to_num(self.variance), 1e-300))
        normal = np.random.default_rng(seed).standard_normal((draws, len(root)))
        self.events = normal @ (root / deviation[:, None]).T
        others = _standardise(contrasts.contrast(root)[np.setdiff1d(kept, few)])
        chunks = [normal[start : start + _CHUNK] @ others.T for start in range(0, draws, _CHUNK)]
        self.largest = np.concatenate([np.abs(chunk).max(axis=1, initial=0.0) for chunk in chunks])

    def likely_rates(self, values: FloatArray) -> tuple[FloatArray, ...]:
        """The rates of the cells, the same pulled together, and one rate for all; never 0 or 1."""
        counts = self.counts
        own = np.where(counts.known, counts.rates, values)
        least = 0.5 / (counts.rows + 1)
        pooled = own.copy()
        for mine in _comparable(self.contrasts, counts.known):
            pooled[mine] = (counts.ones[mine].sum() + 0.5) / (counts.rows[mine].sum() + 1)
        return own, np.clip(_shrink(self.contrasts, own, self.variance), least, 1 - least), pooled

    def level(self, rates: FloatArray, confidence: float) -> float:
        """The quantile of the largest |z| at some rates."""
        largest, drawn = self.largest.copy(), _draw_counts(self.events, self.counts, rates)
        for start in range(0, len(self.few), _CHUNK):
            part = self.few[start : start + _CHUNK]
            for z in _statistics(drawn, self.contrasts.plus[part], self.contrasts.minus[part], self.counts, rates):
                np.maximum(largest, z, out=largest)
        # a little more, for rounding must not leave out the gap that lies on the limit of the count on the quantile
        return float(np.quantile(largest, confidence, method="inverted_cdf")) * (1 + 1e-6)


@dataclass(frozen=True, eq=False)
class _DrawnCounts:
    """Counts ``least`` + ``place`` of every event, shapes (e,) and (e, draws); ``place`` is below ``size``."""

    least: IntArray
    size: IntArray
    place: IntArray


def _draw_counts(normal: FloatArray, counts: Counts, rates: FloatArray) -> _DrawnCounts:
    """Binomial quantiles of Φ(normal); zero for events that are no counts."""
    rows, p = np.where(counts.known, counts.rows, 0.0).astype(np.int64), np.where(counts.known, rates, 0.5)
    least, most = (stats.binom.ppf(tail, rows, p).astype(np.int64) for tail in (1e-12, 1 - 1e-12))
    place = np.empty(normal.T.shape, dtype=np.int64)
    for k, draws in enumerate(normal.T):
        place[k] = np.searchsorted(special.ndtri(special.bdtr(np.arange(least[k], most[k]), rows[k], p[k])), draws)
    lowest = place.min(axis=1)
    place -= lowest[:, None]
    return _DrawnCounts(least + lowest, place.max(axis=1) + 1, place)


def _statistics(
    drawn: _DrawnCounts, plus: IntArray, minus: IntArray, counts: Counts, rates: FloatArray
) -> Iterator[FloatArray]:
    """|z| of every draw at the gap of the rates, for one contrast after the other.

    Where the pairs of counts are fewer than the draws, z is found once per pair of counts, of all contrasts together.
    """
    rows, gap = counts.rows, rates[plus] - rates[minus]
    size = drawn.size[plus] * drawn.size[minus]
    tabled = size <= drawn.place.shape[1]
    size = np.where(tabled, size, 0)
    start = np.cumsum(size) - size
    owner = np.repeat(np.arange(len(plus)), size)
    first, second = np.divmod(np.arange(size.sum()) - start[owner], drawn.size[minus][owner])
    table = np.abs(
        score_statistic(
            drawn.least[plus][owner] + first, rows[plus][owner], drawn.least[minus][owner] + second, rows[minus][owner],
            gap[owner],
        )
    )  # fmt: skip
    for k, (a, b) in enumerate(zip(plus, minus, strict=True)):
        if tabled[k]:
            yield table[start[k] :].take(drawn.place[a] * drawn.size[b] + drawn.place[b])
        else:
            ones, others = drawn.least[a] + drawn.place[a], drawn.least[b] + drawn.place[b]
            yield np.abs(score_statistic(ones, rows[a], others, rows[b], gap[k]))


def max_t_level(root: FloatArray, *, confidence: float, seed: int, draws: int = DRAWS) -> float:
    """The normal quantile c with P(max |z| ≤ c) = confidence for contrasts root·N(0, I), each over its own deviation.

    Args:
        root: Shape (m, r); the covariance of the contrasts is root·rootᵀ.
        confidence: Joint confidence.
        seed: Seed of the draws.
        draws: Number of draws.

    Returns:
        c; the usual two-sided quantile for a single contrast.
    """
    if len(root) <= 1:
        return two_sided_level(confidence)
    scaled = _standardise(root)
    rng = np.random.default_rng(seed)
    largest = [_largest(rng, scaled, min(_CHUNK, draws - start)) for start in range(0, draws, _CHUNK)]
    return float(np.quantile(np.concatenate(largest), confidence))


def joint_level(root: FloatArray, *, confidence: float, seed: int, draws: int = DRAWS) -> float:
    """The c of `max_t_level`, in closed form where no two contrasts are correlated: (2Φ(c) − 1)^m = confidence."""
    if len(root) <= 1:
        return two_sided_level(confidence)
    scaled = _standardise(root)
    shared = scaled @ scaled.T
    np.fill_diagonal(shared, 0.0)
    if np.abs(shared).max(initial=0.0) < 1e-9:
        return two_sided_level(confidence ** (1 / len(root)))
    return max_t_level(root, confidence=confidence, seed=seed, draws=draws)


def _standardise(root: FloatArray) -> FloatArray:
    """Every contrast over its own deviation; zero where that is zero."""
    size = np.linalg.norm(root, axis=1, keepdims=True)
    return np.divide(root, size, out=np.zeros_like(root), where=size > 0)


def _largest(rng: np.random.Generator, root: FloatArray, size: int) -> FloatArray:
    """The largest |z| over all contrasts, of every draw."""
    draws = rng.standard_normal((size, root.shape[1])) @ root.T
    return np.maximum(draws.max(axis=1), -draws.min(axis=1))


def _mean_largest(rng: np.random.Generator, centre: FloatArray, root: FloatArray, starts: IntArray) -> FloatArray:
    """The mean over the draws of the largest |gap| of every criterion."""
    draws = rng.standard_normal((_BIAS_DRAWS, root.shape[1])) @ root.T
    return np.maximum.reduceat(np.abs(centre + draws), starts, axis=1).mean(axis=0)


def square_root(covariance: FloatArray) -> FloatArray:
    """The symmetric R with R R = covariance: unlike other roots it moves by rounding only where the covariance does."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _shrink(contrasts: Contrasts, values: FloatArray, variance: FloatArray) -> FloatArray:
    """Event values pulled together so that their spread is that of the true values, not of their estimates.

    Around the raw estimates the simulated maximum would be biased upward twice. Per criterion and stratum, with τ² the
    excess of the observed spread over what sampling explains: centre + √(τ² / (τ² + mean variance)) · (value − centre).
    """
    shrunk = values.copy()
    for mine in _comparable(contrasts, np.isfinite(variance)):
        absolute = contrasts.criteria[contrasts.events[mine[0]].criterion].form == "absolute"
        centre = 0.0 if absolute else float(values[mine].mean())
        observed = float(((values[mine] - centre) ** 2).sum()) / max(len(mine) - (not absolute), 1)
        share = max(observed - float(variance[mine].mean()), 0.0) / observed if observed > 0 else 0.0
        shrunk[mine] = centre + np.sqrt(share) * (values[mine] - centre)
    return shrunk


def _comparable(contrasts: Contrasts, chosen: BoolArray) -> list[IntArray]:
    """The chosen events of every criterion and stratum that has some."""
    found: dict[tuple[int, tuple[Hashable, ...]], list[int]] = {}
    for k in np.flatnonzero(chosen).tolist():
        event = contrasts.events[k]
        found.setdefault((event.criterion, event.stratum), []).append(k)
    return [np.array(mine) for mine in found.values()]
