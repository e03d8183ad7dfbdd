"""Decisions from scores: selection rates, impact ratios and error rates by group, from the moments.

Scores are not decisions: a parity of mean scores says nothing about who is selected, so every audit states both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.criteria import Criterion
from auditkit.groups import LABEL, CellTable
from auditkit.intervals import wilson_interval
from auditkit.moments import Moments


@dataclass(frozen=True)
class GroupDecisions:
    """Decisions in one group.

    Attributes:
        group: The group in words.
        count: Rows.
        selection_rate: Share (by weight) with a positive decision.
        interval: Wilson interval of the rate, at the audit's confidence, for this group alone.
        impact_ratio: Rate over the highest rate of any group; None when no group is selected at all.
        true_positive_rate: Share selected among label 1; None without binary labels or without such rows.
        false_positive_rate: Share selected among label 0; None likewise.
        accuracy: Share of decisions equal to the label; None without binary labels.
    """

    group: str
    count: int
    selection_rate: float
    interval: tuple[float, float]
    impact_ratio: float | None
    true_positive_rate: float | None
    false_positive_rate: float | None
    accuracy: float | None


@dataclass(frozen=True)
class DecisionTable:
    """Decisions by the groups of one set of attributes.

    Attributes:
        attributes: The columns crossed.
        groups: One entry per group that occurs.
        rate_gap: Largest difference between two selection rates.
        worst_impact_ratio: Smallest impact ratio; None when no group is selected at all.
    """

    attributes: tuple[str, ...]
    groups: tuple[GroupDecisions, ...]
    rate_gap: float
    worst_impact_ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-ready values."""
        return asdict(self)


def tabulate_decisions(
    moments: Moments, criteria: Sequence[Criterion], *, confidence: float
) -> tuple[DecisionTable, ...]:
    """One table of decisions for every set of attributes that a criterion protects.

    Args:
        moments: Sums per cell, with decisions.
        criteria: The criteria of the audit.
        confidence: Confidence of each interval.

    Returns:
        The tables, in the order of the criteria; empty when the moments hold no decisions.
    """
    if not moments.has_decisions:
        return ()
    attribute_sets = dict.fromkeys(criterion.attributes for criterion in criteria)
    return tuple(_table(moments, attributes, confidence) for attributes in attribute_sets)


def _table(moments: Moments, attributes: tuple[str, ...], confidence: float) -> DecisionTable:
    columns = moments.table.columns(attributes)
    codes, member = np.unique(moments.table.codes[:, columns], axis=0, return_inverse=True)
    member = member.reshape(-1)
    weight, selected = (np.bincount(member, weights=v) for v in (moments.weight, moments.selected))
    count = np.bincount(member, weights=moments.count)
    effective = weight**2 / np.maximum(np.bincount(member, weights=moments.weight2), 1e-300)
    rate = selected / np.where(weight > 0, weight, 1.0)
    low, high = wilson_interval(rate * effective, effective, confidence=confidence)
    ratio = rate / rate.max() if rate.max() > 0 else None
    by_label = _label_rates(moments, member, len(codes))
    names = [" × ".join(_value(moments.table, c, k) for c, k in zip(columns, code, strict=True)) for code in codes]
    groups = tuple(
        GroupDecisions(
            names[g], int(count[g]), float(rate[g]), (float(low[g]), float(high[g])),
            None if ratio is None else float(ratio[g]), *by_label[g],
        )
        for g in range(len(codes))
    )  # fmt: skip
    worst = None if ratio is None else float(ratio.min())
    return DecisionTable(attributes, groups, float(rate.max() - rate.min()), worst)


def _value(table: CellTable, column: int, code: int) -> str:
    return str(table.categories[column][code])


def _label_rates(
    moments: Moments, member: np.ndarray, size: int
) -> list[tuple[float | None, float | None, float | None]]:
    """(true positive rate, false positive rate, accuracy) of every group."""
    if LABEL not in moments.table.names:
        return [(None, None, None)] * size
    column = moments.table.names.index(LABEL)
    values: tuple[Hashable, ...] = moments.table.categories[column]
    if not set(values) <= {0, 1}:
        return [(None, None, None)] * size
    label = np.array([float(values[k]) for k in moments.table.codes[:, column]])  # type: ignore[arg-type]
    positives, negatives = (
        _sums(moments.weight, label == 1, member, size),
        _sums(moments.weight, label == 0, member, size),
    )
    hits, alarms = _sums(moments.selected, label == 1, member, size), _sums(moments.selected, label == 0, member, size)
    return [
        (
            float(hits[g] / positives[g]) if positives[g] > 0 else None,
            float(alarms[g] / negatives[g]) if negatives[g] > 0 else None,
            float((hits[g] + negatives[g] - alarms[g]) / (positives[g] + negatives[g])),
        )
        for g in range(size)
    ]


def _sums(values: FloatArray, chosen: np.ndarray, member: np.ndarray, size: int) -> FloatArray:
    return np.bincount(member[chosen], weights=values[chosen], minlength=size).astype(np.float64)
