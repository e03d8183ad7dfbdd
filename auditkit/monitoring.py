"""Confidence sequences: intervals of every gap that stay valid when looked at after every batch, even every row.

An audit's interval errs with probability α once; who looks daily and stops at the first alarm errs far more often. A
confidence sequence errs with probability α over the whole stream. Two are offered, both from batch moments:

*exact* (scores, decisions and labels in [0, 1]; any number of rows). Per event the intersection of two sequences, each
with half of the event's error:

    beta-binomial    { μ : B(S + ½, n − S + ½) / B(½, ½) · μ^−S (1 − μ)^−(n−S) < 1/α }            S = Σ z
    predictable EB   Σ λᵢzᵢ / Σ λᵢ ± (log(2/α) + Σ (−log(1 − λᵢ) − λᵢ)(zᵢ − m̂ᵢ₋₁)²) / Σ λᵢ

The first holds for every value in [0, 1], not only for binary ones, since (q/μ)^z ((1 − q)/(1 − μ))^(1−z) is convex in
z; the second adapts to a small variance, with λ and m̂ taken from earlier batches. A gap takes the difference of the
ends of its two events.

*asymptotic* (any scores; from `START_ROWS` rows per event on). With V the squared standard error of the gap,

    ĝ ± V √((1/V + ρ) log((1/V + ρ) / (ρ α²)))

Both need rows that are independent given their group, groups whose mean does not drift, and batch sizes that do not
depend on the scores in them. benchmarks/coverage.py measures how often whole streams err.

Sources: Robbins (1970), Annals of Mathematical Statistics 41, 1397–1409; Howard, Ramdas, McAuliffe and Sekhon (2021),
Annals of Statistics 49, 1055–1080; Waudby-Smith and Ramdas (2024), Journal of the Royal Statistical Society B 86, 1–27
(theorem 2); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Annals of Statistics 52, 2613–2640 (asymptotic).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import special

from auditkit._typing import FloatArray
from auditkit._validation import check_probability
from auditkit.contrasts import Contrasts, compile_contrasts
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError
from auditkit.event_estimates import estimate_events
from auditkit.findings import Verdict
from auditkit.intervals import Limits
from auditkit.moments import Moments

START_ROWS = 100
"""Rows that an event must have before its asymptotic sequence starts."""

MAX_BET = 0.5
_BISECTIONS = 60

Guarantee = Literal["exact", "asymptotic"]
Key = tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class MeanSequence:
    """State of the exact confidence sequences of means of values in [0, 1]; all arrays share one shape.

    Attributes:
        count: n.
        total: Σ z.
        square: Σ (z − m̂)², m̂ the mean before the batch of z.
        bet: Σ λ.
        gain: Σ λ z.
        cost: Σ (−log(1 − λ) − λ)(z − m̂)².
    """

    count: FloatArray
    total: FloatArray
    square: FloatArray
    bet: FloatArray
    gain: FloatArray
    cost: FloatArray

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> MeanSequence:
        """Before any row."""
        return cls(*(np.zeros(shape) for _ in range(6)))

    def advance(self, count: FloatArray, total: FloatArray, square: FloatArray, *, alpha: FloatArray) -> MeanSequence:
        """The state after another batch.

        Args:
            count: Rows of the batch.
            total: Their Σ z.
            square: Their Σ z².
            alpha: Error of each sequence, which sets the bets.

        Returns:
            The new state.
        """
        mean = (0.5 + self.total) / (self.count + 1)
        variance = (0.25 + self.square) / (self.count + 1)
        rows = np.maximum(self.count + count, 1.0)
        bet = np.minimum(np.sqrt(4 * np.log(4 / alpha) / (2 * variance * rows * np.log(1 + rows))), MAX_BET)
        around = np.maximum(square - 2 * mean * total + count * mean**2, 0.0)
        return MeanSequence(
            self.count + count, self.total + total, self.square + around, self.bet + bet * count,
            self.gain + bet * total, self.cost + (-np.log1p(-bet) - bet) * around,
        )  # fmt: skip

    def limits(self, alpha: FloatArray) -> Limits:
        """Ends of the intersection of both sequences; [0, 1] before any row.

        Args:
            alpha: Error of the intersection over the whole stream.
        """
        low, high = _beta_binomial_limits(self.count, self.total, alpha / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            centre, half = self.gain / self.bet, (np.log(4 / alpha) + self.cost) / self.bet
        known = self.bet > 0
        low = np.where(known, np.maximum(low, centre - half), low)
        high = np.where(known, np.minimum(high, centre + half), high)
        return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def log_wealth(count: FloatArray, total: FloatArray, mean: FloatArray) -> FloatArray:
    """Log of the beta-binomial mixture martingale against a mean: log B(S + ½, n − S + ½)/B(½, ½) − log likelihood."""
    evidence = special.betaln(total + 0.5, count - total + 0.5) - special.betaln(0.5, 0.5)
    return evidence - special.xlogy(total, mean) - special.xlog1py(count - total, -mean)


def _beta_binomial_limits(count: FloatArray, total: FloatArray, alpha: FloatArray) -> Limits:
    """Where the wealth against a mean reaches 1/α, below and above the sample mean, by bisection."""
    limit = -np.log(alpha)
    mean = np.divide(total, count, out=np.full_like(total, 0.5), where=count > 0)

    def search(outer: float) -> FloatArray:
        outside, inside = np.full_like(mean, outer), mean.copy()
        for _ in range(_BISECTIONS):
            middle = (outside + inside) / 2
            rejected = log_wealth(count, total, middle) >= limit
            outside, inside = np.where(rejected, middle, outside), np.where(rejected, inside, middle)
        return outside

    return search(0.0), search(1.0)


def asymptotic_radius(variance: FloatArray, *, horizon: float, alpha: float) -> FloatArray:
    """Half-width of the asymptotic sequence: V √((1/V + ρ) log((1/V + ρ)/(ρ α²))).

    Args:
        variance: V, squared standard error of the gap now.
        horizon: 1/V at which the sequence shall be tightest; fixed over the stream. Sets ρ.
        alpha: Error over the whole stream.

    Returns:
        Half-widths.
    """
    log = -2 * np.log(alpha)
    rho = horizon / (log + np.log1p(log))
    time = 1 / variance
    return variance * np.sqrt((time + rho) * (np.log((time + rho) / rho) + log))


@dataclass(frozen=True)
class MonitoredGap:
    """One gap as the stream has shown it so far.

    Attributes:
        criterion: Name of the criterion.
        name: What is compared.
        gap: The signed gap so far; None where a group has no rows.
        interval: Valid at every look of the whole stream, all gaps at once; None before an asymptotic one starts.
        tolerance: ε.
        verdict: "fail" and "pass" are final as long as nothing drifts; "inconclusive" asks for more rows.
    """

    criterion: str
    name: str
    gap: float | None
    interval: tuple[float, float] | None
    tolerance: float
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class GapMonitor:
    """Watches the gaps of criteria over a stream of batches; `observe` returns the next state and changes nothing.

        monitor = GapMonitor(criteria)
        for batch in batches:
            monitor = monitor.observe(take_moments(batch.scores, batch.groups, criteria))
            monitor.gaps()

    Args:
        criteria: What is watched.
        confidence: That no interval of any gap is ever wrong.
        guarantee: "exact" or "asymptotic".

    Attributes:
        moments: Sums of all batches so far; None before the first.
    """

    criteria: tuple[Criterion, ...]
    confidence: float = 0.95
    guarantee: Guarantee = "exact"
    moments: Moments | None = None
    _shares: dict[Key, float] = field(default_factory=dict, repr=False)
    _first: int = field(default=0, repr=False)
    _sequences: dict[Key, tuple[MeanSequence, MeanSequence]] = field(default_factory=dict, repr=False)
    _horizons: dict[Key, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", check_criteria(self.criteria))
        check_probability("confidence", self.confidence)
        if self.guarantee not in ("exact", "asymptotic"):
            raise InputError(f'guarantee must be "exact" or "asymptotic"; got {self.guarantee!r}')

    def observe(self, batch: Moments) -> GapMonitor:
        """The monitor after another batch.

        Args:
            batch: Moments of the new rows only, without weights.

        Returns:
            The next state.

        Raises:
            InputError: Weighted rows, or values outside [0, 1] under the exact guarantee.
        """
        if not np.allclose(batch.weight2, batch.count):
            raise InputError("weighted rows cannot be monitored; leave out weights")
        total = batch if self.moments is None else self.moments + batch.with_shift(self.moments.shift)
        contrasts = compile_contrasts(self.criteria, batch.table, cell_weights=batch.weight)
        if self.guarantee == "exact":
            shares = self._with_newcomers(_keys(contrasts))
            following = replace(self, _sequences=self._advance(batch, contrasts, shares))
        else:
            contrasts = compile_contrasts(self.criteria, total.table, cell_weights=total.weight)
            shares = self._with_newcomers(_pairs(contrasts))
            following = replace(self, _horizons=self._with_horizons(total, contrasts))
        return replace(following, moments=total, _shares=shares, _first=self._first or len(shares))

    def _with_newcomers(self, keys: Sequence[Key]) -> dict[Key, float]:
        """Shares of the error: half for those of the first batch, half for those that come later."""
        alpha = (1 - self.confidence) / 2
        if not self._shares:
            return dict.fromkeys(keys, alpha / max(len(keys), 1))
        shares = dict(self._shares)
        for key in keys:
            if key not in shares:
                late = len(shares) - self._first + 1
                shares[key] = alpha / (late * (late + 1))
        return shares

    def _advance(
        self, batch: Moments, contrasts: Contrasts, shares: dict[Key, float]
    ) -> dict[Key, tuple[MeanSequence, MeanSequence]]:
        needs_labels = any(criterion.family == "EER" for criterion in self.criteria)
        if batch.outside.sum() > 0 or (needs_labels and batch.label_outside.sum() > 0):
            raise InputError(
                "scores (and labels, for EER) must lie in [0, 1] for the exact guarantee; "
                'pass guarantee="asymptotic" for others'
            )
        plain = batch.with_shift(0.0)
        member = contrasts.cell_event.astype(np.float64)
        count, score, square, label, label_square = (
            member @ values for values in (plain.count, plain.score, plain.score2, plain.label, plain.label2)
        )
        sequences = dict(self._sequences)
        for k, key in enumerate(_keys(contrasts)):
            first, second = sequences.get(key, (MeanSequence.start(()), MeanSequence.start(())))
            alpha = np.array(shares[key])
            sequences[key] = (
                first.advance(count[k], score[k], square[k], alpha=alpha),
                second.advance(count[k], label[k], label_square[k], alpha=alpha),
            )
        return sequences

    def _with_horizons(self, total: Moments, contrasts: Contrasts) -> dict[Key, float]:
        """When each gap that has enough rows shall be known best; fixed once it has them."""
        events = estimate_events(total, contrasts)
        variance = contrasts.contrast_sum(np.diag(events.covariance))
        enough = contrasts.contrast_min(events.count) >= START_ROWS
        horizons = dict(self._horizons)
        for k, key in enumerate(_pairs(contrasts)):
            if key not in horizons and enough[k] and np.isfinite(variance[k]):
                tolerance = contrasts.tolerance[k]
                # a gap of zero is settled when its standard error is about a third of the tolerance
                horizons[key] = float((3 / tolerance) ** 2 if tolerance > 0 else 10 / variance[k])
        return horizons

    def gaps(self) -> tuple[MonitoredGap, ...]:
        """Every gap with its interval and verdict now; empty before the first batch."""
        if self.moments is None:
            return ()
        contrasts = compile_contrasts(self.criteria, self.moments.table, cell_weights=self.moments.weight)
        events = estimate_events(self.moments, contrasts)
        gap = contrasts.contrast(events.value)
        if self.guarantee == "exact":
            low, high = self._exact_limits(contrasts)
        else:
            half = self._asymptotic_half(contrasts, contrasts.contrast_sum(np.diag(events.covariance)))
            low, high = gap - half, gap + half
        return tuple(
            _monitored(contrasts, k, float(gap[k]), float(low[k]), float(high[k])) for k in range(contrasts.n_contrasts)
        )

    def _exact_limits(self, contrasts: Contrasts) -> Limits:
        low, high = np.zeros(len(contrasts.events)), np.zeros(len(contrasts.events))
        for k, key in enumerate(_keys(contrasts)):
            residual = contrasts.criteria[contrasts.events[k].criterion].family == "EER"
            share = np.array(self._shares[key] / (2 if residual else 1))
            scores, labels = self._sequences[key]
            low[k], high[k] = scores.limits(share)
            if residual:
                label_low, label_high = labels.limits(share)
                low[k], high[k] = label_low - high[k], label_high - low[k]
        pair = contrasts.minus >= 0
        plus, minus = contrasts.plus, contrasts.minus
        return low[plus] - np.where(pair, high[minus], 0.0), high[plus] - np.where(pair, low[minus], 0.0)

    def _asymptotic_half(self, contrasts: Contrasts, variance: FloatArray) -> FloatArray:
        """Half-widths; NaN before a gap's sequence starts."""
        half = np.full(contrasts.n_contrasts, np.nan)
        for k, key in enumerate(_pairs(contrasts)):
            if key in self._horizons:
                half[k] = asymptotic_radius(variance[k], horizon=self._horizons[key], alpha=self._shares[key])
        return half


def _monitored(contrasts: Contrasts, k: int, gap: float, low: float, high: float) -> MonitoredGap:
    criterion = contrasts.criteria[contrasts.criterion[k]]
    verdict: Verdict = "inconclusive"
    if max(low, -high) > criterion.tolerance:
        verdict = "fail"
    elif max(high, -low) <= criterion.tolerance:
        verdict = "pass"
    interval = (low, high) if np.isfinite(low) else None
    return MonitoredGap(criterion.name, contrasts.describe(k), gap, interval, criterion.tolerance, verdict)


def _keys(contrasts: Contrasts) -> list[Key]:
    return [(event.criterion, event.group, event.stratum) for event in contrasts.events]


def _pairs(contrasts: Contrasts) -> list[Key]:
    keys = [*_keys(contrasts), None]  # a contrast with one event has −1 for the other
    return [(keys[plus], keys[minus]) for plus, minus in zip(contrasts.plus, contrasts.minus, strict=True)]
