"""Fairness criteria: which contrasts of cell means must stay within the tolerance.

Every criterion is affine in the scores. A criterion only says which *events* (a group within a stratum) it looks at
and what their means are compared with; `compile_contrasts` turns any list of criteria into one set of contrasts, and
the audit and the projection both start from that set, so what is audited is exactly what is enforced.

Source: Troxell, Roemer, Montúfar (2026), arXiv 2605.17118, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.errors import InputError
from auditkit.groups import LABEL, MISSING, CellTable, join_values, value_in_words

Names = str | Sequence[str]
Family = Literal["ECP", "EER"]
Form = Literal["pairwise", "absolute"]


@dataclass(frozen=True)
class Criterion:
    """One fairness criterion; made by `ECP`, `EER` and their named special cases.

    Attributes:
        family: "ECP" compares mean scores, "EER" mean residuals y − z.
        attributes: The protected attributes; several are crossed (intersectional).
        tolerance: ε, in the unit of the scores.
        given: Columns whose values are the strata; `LABEL` is the label.
        form: "pairwise" compares the groups of a stratum with each other, "absolute" each group with zero.
        label_value: With `LABEL` among the strata, the only label looked at; None looks at every label.
        name: What reports call it.
    """

    family: Family
    attributes: tuple[str, ...]
    tolerance: float
    given: tuple[str, ...] = ()
    form: Form = "pairwise"
    label_value: Hashable = None
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check_criterion(self)
        if not self.name:
            object.__setattr__(self, "name", _default_name(self))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the criterion looks at, `LABEL` included."""
        return self.attributes + self.given

    @property
    def needs_labels(self) -> bool:
        """Whether evaluating the criterion needs labels."""
        return self.family == "EER" or LABEL in self.given

    def with_tolerance(self, tolerance: float) -> Criterion:
        """The same criterion at another tolerance."""
        return Criterion(
            self.family, self.attributes, tolerance, self.given, self.form, self.label_value, name=self.name
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Criterion:
        """The criterion that `to_dict` wrote."""
        names = {key: tuple(content[key]) for key in ("attributes", "given")}
        return cls(**{**content, **names})

    def to_dict(self) -> dict[str, Any]:
        """The criterion as JSON-ready values."""
        return {
            "name": self.name,
            "family": self.family,
            "attributes": list(self.attributes),
            "given": list(self.given),
            "form": self.form,
            "label_value": self.label_value,
            "tolerance": self.tolerance,
        }


def ECP(attributes: Names, *, tolerance: float, given: Names = (), name: str = "") -> Criterion:
    """Expected Conditional Parity: |E[z | g, s] − E[z | g′, s]| ≤ ε for every stratum s and pair of groups g, g′.

    Args:
        attributes: One attribute of any number of values; a tuple is intersectional (the product is one attribute).
        tolerance: ε ≥ 0, in the unit of the scores.
        given: Columns that form the strata; none compares the groups over all rows (parity of the mean score).
        name: What reports call it; made from the arguments when empty.

    Returns:
        The criterion.

    Raises:
        InputError: A negative or non-finite tolerance, no attribute, or a column used twice.

    Source: arXiv 2605.17118, definition of ECP.
    """
    return Criterion("ECP", _names(attributes), tolerance, _names(given), name=name)


def EER(
    attributes: Names, *, tolerance: float, given: Names = (), form: Form = "absolute", name: str = ""
) -> Criterion:
    """Expected Equalized Residuals: |E[y − z | g]| ≤ ε for every group g (absolute form).

    The pairwise form bounds |E[y − z | g] − E[y − z | g′]| ≤ ε instead.

    Args:
        attributes: One attribute of any number of values; a tuple is intersectional.
        tolerance: ε ≥ 0, in the unit of the scores.
        given: Columns that form the strata.
        form: "absolute" (each group against zero) or "pairwise" (groups against each other).
        name: What reports call it; made from the arguments when empty.

    Returns:
        The criterion; evaluating it needs labels.

    Raises:
        InputError: A negative or non-finite tolerance, no attribute, an unknown form, or a column used twice.

    Source: arXiv 2605.17118, definition of EER.
    """
    return Criterion("EER", _names(attributes), tolerance, _names(given), form, name=name)


def demographic_parity(attributes: Names, *, tolerance: float) -> Criterion:
    """Parity of the mean score: |E[z | g] − E[z | g′]| ≤ ε, which is ECP without strata."""
    names = _names(attributes)
    return Criterion("ECP", names, tolerance, name=f"demographic parity({'×'.join(names)})")


def equalized_odds(attributes: Names, *, tolerance: float) -> Criterion:
    """Equalized odds of the mean score: |E[z | g, y] − E[z | g′, y]| ≤ ε for every label y: ECP given the label."""
    names = _names(attributes)
    return Criterion("ECP", names, tolerance, (LABEL,), name=f"equalized odds({'×'.join(names)})")


def equal_opportunity(attributes: Names, *, tolerance: float, positive: Hashable = 1) -> Criterion:
    """Equal opportunity of the mean score: |E[z | g, y=1] − E[z | g′, y=1]| ≤ ε: ECP given the positive label."""
    names = _names(attributes)
    return Criterion(
        "ECP", names, tolerance, (LABEL,), label_value=positive, name=f"equal opportunity({'×'.join(names)})"
    )


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


def check_criteria(criteria: Criterion | Sequence[Criterion]) -> tuple[Criterion, ...]:
    """Return the criteria as a tuple.

    Raises:
        InputError: Not criteria, or none at all.
    """
    listed = (criteria,) if isinstance(criteria, Criterion) else tuple(criteria)
    if not listed:
        raise InputError('criteria is empty; pass at least one, e.g. [ECP("sex", tolerance=0.02)]')
    for criterion in listed:
        if not isinstance(criterion, Criterion):
            raise InputError(f"criteria must hold Criterion objects (made by ECP, EER, …); got {criterion!r}")
    return listed


def columns_of(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """Every column that the criteria look at, once, in a stable order."""
    return tuple(dict.fromkeys(name for criterion in criteria for name in criterion.columns))


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


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_criterion(criterion: Criterion) -> None:
    if not criterion.attributes:
        raise InputError(f"attributes of {criterion.family} is empty; name at least one protected attribute")
    if LABEL in criterion.attributes:
        raise InputError(f"{LABEL!r} cannot be a protected attribute; use it in given=")
    if not all(isinstance(name, str) for name in criterion.columns):
        raise InputError(f"attributes and given must be column names; got {criterion.columns!r}")
    if len(set(criterion.columns)) != len(criterion.columns):
        raise InputError(f"a column is used twice in {criterion.columns}; each may be an attribute or a stratum, once")
    if criterion.form not in ("pairwise", "absolute"):
        raise InputError(f"form must be 'pairwise' or 'absolute'; got {criterion.form!r}")
    tolerance = criterion.tolerance
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float | np.number):
        raise InputError(f"tolerance must be a number; got {tolerance!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance must be finite and ≥ 0, in the unit of the scores; got {tolerance!r}")


def _default_name(criterion: Criterion) -> str:
    name = f"{criterion.family}({'×'.join(criterion.attributes)}"
    if criterion.given:
        name += " | " + ", ".join(criterion.given)
    return name + (", pairwise)" if criterion.family == "EER" and criterion.form == "pairwise" else ")")
