"""Decisions from scores: who is selected and how often rightly, by group, with differences and ratios.

Scores are not decisions: a parity of mean scores says nothing about who is selected, so every audit states both.
Rates are proportions with the limits of `auditkit.intervals`; differences and ratios of two groups' rates have
intervals that cover at once over all pairs of groups and all rates of a table.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from auditkit._typing import BoolArray, FloatArray
from auditkit.criteria import Criterion
from auditkit.decision_rules import MEDIAN, Cut, Rule, check_rule, count_places, cut_at, cut_at_median, cut_at_place
from auditkit.groups import LABEL
from auditkit.intervals import Limits, UnitMeans, difference_limits, fit_unit_means, ratio_limits, two_sided_level
from auditkit.joint import joint_level
from auditkit.margins import split_outputs
from auditkit.moments import Moments
from auditkit.squares import effective_size, sum_products

RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "precision", "accuracy")


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions made from scores.

    Attributes:
        values: 1 where the decision is positive; a share where places are left for some of several equal scores, shape
            (n,).
        threshold: The cut.
        rule: The rule in words.
    """

    values: FloatArray
    threshold: float
    rule: str


def decide(scores: FloatArray, rule: Rule) -> Decisions:
    """Decisions from a threshold, from the full-sample median, or for the highest scores.

    Args:
        scores: z, shape (n,).
        rule: A number (scores at or above it are positive), "median" (scores above the median of all rows are), "top
            100" (the 100 highest), or "top 5%". Equal scores at the cut share the places that are left.

    Returns:
        The decisions.

    Raises:
        InputError: An unknown rule, or more places than rows.
    """
    cut = _cut(scores, check_rule(rule))
    values = (scores > cut.threshold) + (scores == cut.threshold) * cut.share
    return Decisions(values.astype(np.float64), cut.threshold, cut.rule)


def _cut(scores: FloatArray, rule: Rule) -> Cut:
    if not isinstance(rule, str):
        return cut_at(rule)
    if rule == MEDIAN:
        return cut_at_median(float(np.median(scores)))
    places = count_places(rule, len(scores))
    score = float(np.sort(scores)[-places])
    above, equal = int((scores > score).sum()), int((scores == score).sum())
    return cut_at_place(rule, score, places=places, above=above, equal=equal)


@dataclass(frozen=True)
class GroupDecisions:
    """Decisions in one group.

    Attributes:
        group: The group in words.
        count: Rows.
        selection_rate: Share (by weight) with a positive decision.
        interval: Interval of the rate, at the audit's confidence, for this group alone.
        impact_ratio: Rate over the highest rate of any group; None when no group is selected at all.
        impact_ratio_interval: Of it, at once with the other intervals of the table; the upper end is None where it has
            no bound. None for the group of the highest rate.
        true_positive_rate: Share selected among label 1; None without binary labels or without such rows.
        false_positive_rate: Share selected among label 0; None likewise.
        precision: Share of label 1 among the selected; None likewise.
        accuracy: Share of decisions equal to the label; None without binary labels.
        intervals: Interval of every rate that is defined, for this group alone.
    """

    group: str
    count: int
    selection_rate: float
    interval: tuple[float, float]
    impact_ratio: float | None
    impact_ratio_interval: tuple[float, float | None] | None
    true_positive_rate: float | None
    false_positive_rate: float | None
    precision: float | None
    accuracy: float | None
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class RateComparison:
    """A rate of two groups; None where one of them has no rows to take it from.

    Attributes:
        rate: Which of ``RATES``.
        first: A group.
        second: Another.
        difference: First less second.
        interval: Of the difference, at once with all others of the table.
        ratio: First over second; None also where the second is zero.
        ratio_interval: Of the ratio; the upper end is None where it has no bound.
    """

    rate: str
    first: str
    second: str
    difference: float | None
    interval: tuple[float, float] | None
    ratio: float | None
    ratio_interval: tuple[float, float | None] | None


@dataclass(frozen=True)
class DecisionTable:
    """Decisions by the groups of one set of attributes.

    Attributes:
        attributes: The columns crossed.
        groups: One entry per group that occurs.
        rate_gap: Largest difference between two selection rates.
        worst_impact_ratio: Smallest impact ratio; None when no group is selected at all.
        gaps: Rate → largest difference between two groups that have it.
        comparisons: Every rate of every pair of groups.
        undefined: Which rates of which groups have no rows to be taken from.
        output: The output of the model that the decisions are about; None where there is one score per row.
    """

    attributes: tuple[str, ...]
    groups: tuple[GroupDecisions, ...]
    rate_gap: float
    worst_impact_ratio: float | None
    gaps: dict[str, float]
    comparisons: tuple[RateComparison, ...]
    undefined: tuple[str, ...]
    output: Hashable = None

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-ready values."""
        return asdict(self)


def tabulate_decisions(
    moments: Moments, criteria: Sequence[Criterion], *, confidence: float, seed: int = 0
) -> tuple[DecisionTable, ...]:
    """One table of decisions for every set of attributes that a criterion protects, and every output.

    Args:
        moments: Sums per cell, with decisions.
        criteria: The criteria of the audit.
        confidence: Confidence of each group's intervals, and of all comparisons of a table at once.
        seed: Seed of the simulation behind the latter.

    Returns:
        The tables, in the order of the criteria; empty when the moments hold no decisions.
    """
    if not moments.has_decisions:
        return ()
    attribute_sets = dict.fromkeys(criterion.attributes for criterion in criteria)
    return tuple(
        replace(_Table(part, attributes, confidence, seed).build(), output=output)
        for output, part in split_outputs(moments)
        for attributes in attribute_sets
    )


class _Table:
    """The rates of one set of attributes while they are put together; arrays have shape (rates, groups)."""

    def __init__(self, moments: Moments, attributes: tuple[str, ...], confidence: float, seed: int) -> None:
        self.attributes, self.confidence, self.seed = attributes, confidence, seed
        self.names, member = moments.table.unions(attributes)
        self.count = member @ moments.count
        self.means = _rates(moments, member)
        self.level = self._joint_level()

    @property
    def known(self) -> BoolArray:
        return np.isfinite(self.means.mean)

    def _joint_level(self) -> float:
        """The level at which all comparisons hold at once; rates of a group are taken as independent of each other."""
        size = len(self.names)
        deviation = np.sqrt(np.where(self.known, self.means.variance, 0.0))
        rows = []
        for rate, (first, second) in ((r, pair) for r in range(len(RATES)) for pair in combinations(range(size), 2)):
            if self.known[rate, [first, second]].all():
                row = np.zeros((len(RATES), size))
                row[rate, first], row[rate, second] = deviation[rate, first], -deviation[rate, second]
                rows.append(row.ravel())
        return joint_level(np.array(rows), confidence=self.confidence, seed=self.seed)

    def build(self) -> DecisionTable:
        low, high = self.means.limits(two_sided_level(self.confidence))
        joint = self.means.limits(self.level)
        rates = self.means.mean
        top = int(np.argmax(rates[0]))
        groups = tuple(self._group(g, (low, high), joint, top) for g in range(len(self.names)))
        ratios = [group.impact_ratio for group in groups if group.impact_ratio is not None]
        gaps = {name: float(np.ptp(rates[r][self.known[r]])) for r, name in enumerate(RATES) if self.known[r].sum() > 1}
        labelled = self.known[1:].any()
        undefined = [
            f"{name} of {group}"
            for r, name in enumerate(RATES)
            for g, group in enumerate(self.names)
            if labelled and not self.known[r, g]
        ]
        return DecisionTable(
            self.attributes, groups, float(np.ptp(rates[0])), min(ratios, default=None), gaps,
            self._comparisons(joint) if labelled else self._comparisons(joint, RATES[:1]), tuple(undefined),
        )  # fmt: skip

    def _group(self, g: int, alone: Limits, joint: Limits, top: int) -> GroupDecisions:
        values = {
            name: float(v) if np.isfinite(v) else None for name, v in zip(RATES, self.means.mean[:, g], strict=True)
        }
        rate, best = self.means.mean[0, g], self.means.mean[0, top]
        intervals = {name: (float(alone[0][r, g]), float(alone[1][r, g])) for r, name in enumerate(RATES)}
        return GroupDecisions(
            group=self.names[g],
            count=int(self.count[g]),
            selection_rate=float(rate),
            interval=intervals["selection_rate"],
            impact_ratio=float(rate / best) if best > 0 else None,
            impact_ratio_interval=self._ratio(0, g, top, joint) if best > 0 and g != top else None,
            true_positive_rate=values["true_positive_rate"],
            false_positive_rate=values["false_positive_rate"],
            precision=values["precision"],
            accuracy=values["accuracy"],
            intervals={name: ends for name, ends in intervals.items() if values[name] is not None},
        )

    def _comparisons(self, joint: Limits, names: Sequence[str] = RATES) -> tuple[RateComparison, ...]:
        pairs = combinations(range(len(self.names)), 2)
        return tuple(self._compare(r, *pair, joint) for pair in pairs for r in range(len(names)))

    def _compare(self, r: int, first: int, second: int, joint: Limits) -> RateComparison:
        names = RATES[r], self.names[first], self.names[second]
        one, other = self.means.mean[r, first], self.means.mean[r, second]
        if not np.isfinite([one, other]).all():
            return RateComparison(*names, None, None, None, None)
        ends = [(side[r, first], side[r, second]) for side in joint]
        low, high = difference_limits(one, (ends[0][0], ends[1][0]), other, (ends[0][1], ends[1][1]))
        ratio = float(one / other) if other > 0 else None
        return RateComparison(
            *names, float(one - other), (float(low), float(high)), ratio, self._ratio(r, first, second, joint)
        )

    def _ratio(self, r: int, first: int, second: int, joint: Limits) -> tuple[float, float | None]:
        one, other = self.means.mean[r, first], self.means.mean[r, second]
        low, high = ratio_limits(
            one, (joint[0][r, first], joint[1][r, first]), other, (joint[0][r, second], joint[1][r, second])
        )
        return float(low), float(high) if np.isfinite(high) else None


def _rates(moments: Moments, groups: FloatArray) -> UnitMeans:
    """Every rate of every group with its trials: Σ w·hit over Σ w·trial, both linear in 1 and the decision."""
    fits = [_fit_rate(moments, groups, *parts) for parts in _trials_and_hits(moments)]
    return UnitMeans(*(np.stack(arrays) for arrays in zip(*fits, strict=True)))


def _trials_and_hits(moments: Moments) -> list[tuple[str, FloatArray, FloatArray, FloatArray]]:
    """Of every rate: what its trials are, in which cells, and the coefficients of 1 and d in its hits."""
    positive, negative = (chosen.astype(np.float64) for chosen in _labels(moments))
    everyone, nobody = np.ones_like(positive), np.zeros_like(positive)
    labelled = everyone if (positive + negative).all() else nobody
    return [
        ("w", everyone, nobody, everyone),
        ("w", positive, nobody, positive),
        ("w", negative, nobody, negative),
        ("d", labelled, nobody, positive),
        ("w", labelled, negative, positive - negative),
    ]


def _fit_rate(
    moments: Moments, groups: FloatArray, trial: str, where: FloatArray, constant: FloatArray, slope: FloatArray
) -> tuple[FloatArray, ...]:
    sums = {"w": moments.weight, "d": moments.selected}
    member = groups * where
    mass = member @ sums[trial]
    known = mass > 0
    hits = groups @ (constant * moments.weight + slope * moments.selected)
    mean = np.divide(hits, mass, out=np.full_like(mass, np.nan), where=known)
    centred = {"w": groups * constant, "d": groups * slope}
    centred[trial] = centred[trial] - np.nan_to_num(mean)[:, None] * member
    square = np.diag(sum_products(moments, centred))
    effective = effective_size(moments, member, of=trial)
    variance = np.divide(square, mass**2, out=np.zeros_like(mass), where=known)
    variance *= np.divide(effective, effective - 1, out=np.ones_like(mass), where=effective > 1)
    even = np.isclose(moments.weight.sum() ** 2, moments.weight2.sum() * moments.count.sum(), rtol=1e-9)
    exact = np.full(mass.shape, bool(even) and moments.gram is None)
    fitted = fit_unit_means(np.where(known, mean, 0.5), np.maximum(variance, 0.0), effective, exact=exact)
    return mean, np.where(known, fitted.trials, 1.0), fitted.dispersion, fitted.freedom


def _labels(moments: Moments) -> tuple[BoolArray, BoolArray]:
    """Which cells have label 1 and which label 0; none at all without binary labels."""
    none = np.zeros(moments.table.n_cells, dtype=bool)
    if LABEL not in moments.table.names:
        return none, none
    column = moments.table.names.index(LABEL)
    values: tuple[Hashable, ...] = moments.table.categories[column]
    if not set(values) <= {0, 1}:
        return none, none
    label = np.array([float(values[k]) for k in moments.table.codes[:, column]])  # type: ignore[arg-type]
    return label == 1, label == 0
