"""Paired differences between methods, over the rows of one split or over several splits, and who wins by them.

Over one split a difference has the interval of its per-row differences, summed over the rows of a person first where
several are of one. Over J trainings on one split, which a time or a column fixes, those differences are averaged over
the trainings (`auditkit.metrics.interval_of`). Over J splits by chance the differences d_j are dependent, since the
splits share most of their training rows; their mean has the interval

    d̄ ± t_{J−1} · sqrt( (1/J + n_test/n_fit) · s² )

with s² the sample variance of the d_j, n_fit the rows (or persons) a method is fitted on and n_test those it is judged
on. Source: Nadeau and Bengio (2003), Inference for the generalization error, Machine Learning 52, the corrected
resampled t test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from auditkit.comparison.judging import MethodRun
from auditkit.comparison.settings import LOWER_IS_BETTER
from auditkit.metrics import Estimate, Metric, interval_of, subtract


@dataclass(frozen=True)
class Resampling:
    """Over what intervals are taken.

    Attributes:
        confidence: Of every interval.
        ratio: n_test / n_fit.
        is_fixed: Whether every seed has the same parts, and another training only.
        is_clustered: Whether several rows are of one person.
    """

    confidence: float
    ratio: float
    is_fixed: bool = False
    is_clustered: bool = False

    def describe(self, seeds: int) -> str:
        """The interval of this many seeds, in words."""
        unit = (
            "per-row differences, summed over the rows of each person" if self.is_clustered else "per-row differences"
        )
        if seeds == 1:
            kind = "t interval" if self.is_clustered else "normal interval"
            return f"over the test rows of one split: {kind} of the {unit}"
        if self.is_fixed:
            return (
                f"over the test rows of one split, which no seed changes, and {seeds} trainings: t interval of the "
                f"{unit}, averaged over the trainings, with the variance between trainings"
            )
        counted = "persons" if self.is_clustered else "rows"
        return (
            f"over {seeds} splits: corrected resampled t interval (Nadeau and Bengio, 2003) with n_test/n_fit = "
            f"{self.ratio:.4g} in {counted}"
        )

    def pool(self, values: Sequence[float], confidence: float | None = None) -> Estimate:
        """Mean of one figure per split by chance with the corrected resampled t interval.

        Args:
            values: One per split, at least two.
            confidence: Of this interval; None takes that of all.
        """
        level = self.confidence if confidence is None else confidence
        figures = np.asarray(values, dtype=np.float64)
        error = np.sqrt((1 / len(figures) + self.ratio) * figures.var(ddof=1))
        half = float(stats.t.ppf(0.5 + level / 2, len(figures) - 1) * error)
        return Estimate(float(figures.mean()), float(figures.mean()) - half, float(figures.mean()) + half)

    def estimate(self, metrics: Sequence[Metric | None]) -> Estimate | None:
        """A utility over its splits; None where it is not defined."""
        known = [metric for metric in metrics if metric is not None]
        if not known:
            return None
        if len(known) == 1 or self.is_fixed:
            return interval_of(known, confidence=self.confidence)
        return self.pool([metric.value for metric in known])

    def difference(
        self, first: Sequence[MethodRun], second: Sequence[MethodRun], key: str, *, confidence: float | None = None
    ) -> Estimate | None:
        """Paired difference first − second of a utility; None where no split defines it for both.

        Args:
            first: Runs of one method, one per seed.
            second: Runs of the other.
            key: Which utility.
            confidence: Of this interval; None takes that of all.
        """
        level = self.confidence if confidence is None else confidence
        others = {run.seed: run.utility[key] for run in second}
        pairs = [
            subtract(one, other)
            for run in first
            if (one := run.utility[key]) is not None and (other := others.get(run.seed)) is not None
        ]
        if not pairs:
            return None
        if len(pairs) == 1 or self.is_fixed:
            return interval_of(pairs, confidence=level)
        return self.pool([pair.value for pair in pairs], level)


@dataclass(frozen=True)
class Winner:
    """Who is best by one utility among the methods that are not shown to exceed the tolerances.

    Attributes:
        utility: Which.
        level: Whether the gaps asked about are those of the "scores" or of the "decisions".
        eligible: Methods whose pooled test gaps are not shown to exceed ε.
        winner: The method that is ahead of every other, each interval at a confidence shared among them; None where
            there is none.
        statement: The same in words.
    """

    utility: str
    level: str
    eligible: tuple[str, ...]
    winner: str | None
    statement: str


def find_winner(runs: Mapping[str, Sequence[MethodRun]], key: str, level: str, resampling: Resampling) -> Winner:
    """The winner by one utility, or that there is none.

    Args:
        runs: Method → its runs, of the methods that are not shown to exceed the tolerances at this level.
        key: Which utility.
        level: "scores" or "decisions".
        resampling: Over what the intervals are taken. With k methods, each interval has confidence
            1 − (1 − confidence)/(k − 1), so that the k − 1 intervals of the winner hold together (Bonferroni).
    """
    known = {name: mine for name, mine in runs.items() if any(run.utility[key] is not None for run in mine)}
    title = f"{key}, gaps of {level}"
    if len(known) < 2:
        which = "every method is shown to exceed the tolerances, or has no such utility"
        if known:
            which = f"only {next(iter(known))!r} is not shown to exceed the tolerances"
        return Winner(key, level, tuple(known), None, f"{title}: {which}; nothing to compare")
    sign = -1.0 if key in LOWER_IS_BETTER else 1.0
    best = max(known, key=lambda name: sign * _mean(known[name], key))
    share = 1 - (1 - resampling.confidence) / (len(known) - 1)
    level_with = []
    for name, mine in known.items():
        found = None if name == best else resampling.difference(known[best], mine, key, confidence=share)
        if name != best and (found is None or min(sign * found.low, sign * found.high) <= 0):
            level_with.append(name)
    if not level_with:
        text = f"{title}: {best!r} is ahead of every other method that is not shown to exceed the tolerances"
        return Winner(key, level, tuple(known), best, text)
    names = ", ".join(map(repr, level_with))
    text = f"{title}: no winner; {best!r} has the best mean, and is not shown to be ahead of {names}"
    return Winner(key, level, tuple(known), None, text)


def _mean(runs: Sequence[MethodRun], key: str) -> float:
    return float(np.mean([metric.value for run in runs if (metric := run.utility[key]) is not None]))
