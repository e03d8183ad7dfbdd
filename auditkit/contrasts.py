"""Criteria compiled for the cells at hand: which events they compare, and with what.

A criterion knows no rows; contrasts know which cells make up its events, so that means per cell are all they need.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.categories import MISSING
from auditkit.criteria import Criterion, Form
from auditkit.groups import LABEL, CellTable, join_values, value_in_words


@dataclass(frozen=True)
class Event:
    """A group within a stratum, as one criterion sees it.

    Attributes:
        criterion: Position of the criterion in the list that was compiled.
        group: One value per attribute of the criterion.
        stratum: One value per column in ``given``.
        given: The columns that form the strata.
    """

    criterion: int
    group: tuple[Hashable, ...]
    stratum: tuple[Hashable, ...] = ()
    given: tuple[str, ...] = ()

    @property
    def group_name(self) -> str:
        """The group in words, e.g. ``Female × Black``."""
        return join_values(self.group)

    @property
    def stratum_name(self) -> str:
        """The stratum in words, e.g. ``label=1``; empty when the criterion has none."""
        pairs = zip(self.given, self.stratum, strict=True)
        return ", ".join(f"{name.removeprefix('@')}={value_in_words(value)}" for name, value in pairs)


@dataclass(frozen=True, eq=False)
class Contrasts:
    """A list of criteria as contrasts of event means: target − ε ≤ mean(plus) − mean(minus) ≤ target + ε.

    The mean of an event is the weighted mean of its cells. The target is zero for ECP and the same contrast of the
    label means for EER. A contrast with ``minus`` = −1 has one event only.

    Attributes:
        criteria: What was compiled.
        events: Every event with at least one cell, length e.
        cell_event: Which cells make up which event, shape (e, c).
        plus: First event of every contrast, shape (m,).
        minus: Second event or −1, shape (m,).
        missing: Events without a row, which a complete criterion would have compared.
    """

    criteria: tuple[Criterion, ...]
    events: tuple[Event, ...]
    cell_event: BoolArray
    plus: IntArray
    minus: IntArray
    missing: tuple[Event, ...]

    @property
    def n_contrasts(self) -> int:
        """Number of contrasts m."""
        return len(self.plus)

    @cached_property
    def criterion(self) -> IntArray:
        """Position of the criterion of every contrast, shape (m,)."""
        owner = np.array([event.criterion for event in self.events], dtype=np.int64)
        return owner[self.plus]

    @cached_property
    def tolerance(self) -> FloatArray:
        """ε of every contrast, shape (m,)."""
        return np.array([c.tolerance for c in self.criteria])[self.criterion]

    @cached_property
    def residual(self) -> BoolArray:
        """Whether a contrast is of residuals (EER), shape (m,)."""
        return np.array([c.family == "EER" for c in self.criteria])[self.criterion]

    @cached_property
    def uniform_tolerance(self) -> float | None:
        """The one tolerance that all contrasts have; None where they differ, 0 where there are none."""
        return find_common(self.tolerance)

    @cached_property
    def strata(self) -> tuple[tuple[int, ...], ...] | None:
        """The cells that stand together, where one criterion compares single cells; else None."""
        member = self.cell_event
        if len(self.criteria) != 1 or (member.sum(axis=1) != 1).any():
            return None
        strata: dict[object, list[int]] = {}
        for event, cell in zip(self.events, member.argmax(axis=1).tolist(), strict=True):
            strata.setdefault(event.stratum, []).append(cell)
        return tuple(map(tuple, strata.values()))

    def event_mean_matrix(self, cell_weights: FloatArray) -> FloatArray:
        """The matrix that takes cell means to event means, shape (e, c); rows of events without weight are zero."""
        mass = self.cell_event * cell_weights
        total = mass.sum(axis=1, keepdims=True)
        return np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)

    def contrast(self, event_values: FloatArray) -> FloatArray:
        """Contrasts of values given per event along the first axis: value[plus] − value[minus]."""
        second = np.where(_expand(self.minus, event_values) >= 0, event_values[self.minus], 0.0)
        return event_values[self.plus] - second

    def contrast_sum(self, event_values: FloatArray) -> FloatArray:
        """value[plus] + value[minus], the latter 0 where there is none; shape (m,)."""
        return event_values[self.plus] + np.where(self.minus >= 0, event_values[self.minus], 0.0)

    def contrast_min(self, event_values: FloatArray) -> FloatArray:
        """The smaller of value[plus] and value[minus], the latter left out where there is none; shape (m,)."""
        return np.minimum(event_values[self.plus], np.where(self.minus >= 0, event_values[self.minus], np.inf))

    def describe(self, contrast: int) -> str:
        """One contrast in words, e.g. ``Female − Male | label=1``."""
        plus, minus = self.events[self.plus[contrast]], self.minus[contrast]
        words = plus.group_name if minus < 0 else f"{plus.group_name} − {self.events[minus].group_name}"
        return f"{words} | {plus.stratum_name}" if plus.stratum else words


def find_common(values: FloatArray) -> float | None:
    """The one value that all have; None where they differ, 0 where there are none."""
    first = float(values[0]) if len(values) else 0.0
    return first if bool((values == first).all()) else None


def compile_contrasts(
    criteria: Sequence[Criterion], table: CellTable, *, cell_weights: FloatArray | None = None
) -> Contrasts:
    """Turn criteria into contrasts over the cells of a table.

    Args:
        criteria: The criteria; their columns must be among the table's.
        table: The cells that occur.
        cell_weights: Total row weight of every cell, shape (c,); a cell without weight counts as absent.

    Returns:
        One contrast per pair of groups and stratum (pairwise) or per group and stratum (absolute), in the order of the
        criteria, then of the strata, then of the groups.
    """
    occurs = np.ones(table.n_cells, dtype=bool) if cell_weights is None else cell_weights > 0
    names = tuple([criterion.name for criterion in criteria])  # in which equal criteria may differ
    key = tuple(criteria), names, occurs.tobytes()
    return table.derived.get(key) or table.derived.keep(key, _compile(criteria, table, occurs))


def _compile(criteria: Sequence[Criterion], table: CellTable, occurs: BoolArray) -> Contrasts:
    events: list[Event] = []
    members: list[BoolArray] = []
    missing: list[Event] = []
    plus: list[int] = []
    minus: list[int] = []
    for position, criterion in enumerate(criteria):
        for stratum_events in _strata(position, criterion, table):
            present = []
            for event, member in stratum_events:
                if (member & occurs).any():
                    present.append(len(events))
                    events.append(event)
                    members.append(member)
                elif MISSING not in event.group:  # nobody is known to be of a group that is only a gap in the data
                    missing.append(event)
            first, second = _pairs(present, criterion.form)
            plus += first
            minus += second
    cell_event = np.stack(members) if members else np.zeros((0, table.n_cells), dtype=bool)
    return Contrasts(
        tuple(criteria),
        tuple(events),
        cell_event,
        np.array(plus, dtype=np.int64),
        np.array(minus, dtype=np.int64),
        tuple(missing),
    )


def _strata(position: int, criterion: Criterion, table: CellTable) -> Iterator[list[tuple[Event, BoolArray]]]:
    """The events of one criterion, stratum by stratum, each with the cells that make it up."""
    groups, strata = table.columns(criterion.attributes), table.columns(criterion.given)
    group_values = [table.categories[column] for column in groups]
    observed_strata = np.unique(table.codes[:, strata], axis=0) if strata else np.zeros((1, 0), np.int64)
    for stratum_code in observed_strata:
        stratum = tuple(table.categories[c][code] for c, code in zip(strata, stratum_code, strict=True))
        if criterion.label_value is not None and stratum[criterion.given.index(LABEL)] != criterion.label_value:
            continue
        in_stratum = (table.codes[:, strata] == stratum_code).all(axis=1)
        rows = []
        for code in product(*(range(len(values)) for values in group_values)):
            group = tuple(values[k] for values, k in zip(group_values, code, strict=True))
            member = in_stratum & (table.codes[:, groups] == np.array(code)).all(axis=1)
            rows.append((Event(position, group, stratum, criterion.given), member))
        yield rows


def _pairs(present: list[int], form: Form) -> tuple[list[int], list[int]]:
    if form == "absolute":
        return present, [-1] * len(present)
    pairs = [(a, b) for k, a in enumerate(present) for b in present[k + 1 :]]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _expand(index: IntArray, values: FloatArray) -> IntArray:
    return index.reshape((-1,) + (1,) * (values.ndim - 1))
