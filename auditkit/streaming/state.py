"""What a stream remembers: a few sums per cell, frozen, written as JSON without losing a bit.

A step is a pure function of a state and a batch, so a stream that is read back goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import add
from typing import Any, Literal, NamedTuple

from auditkit.criteria import Criterion, check_criteria, columns_of
from auditkit.errors import InputError, SchemaError
from auditkit.groups import LABEL

SCHEMA = "auditkit.stream/1"

Key = tuple[Hashable, ...]
Rule = Literal["pooled", "scalar"]
Bounds = tuple[float | None, float | None]


class CellSums(NamedTuple):
    """Sums over the released rows of one cell; z the score, a the correction, y = clip(z + a) the released score.

    Attributes:
        rows: N.
        raw: Σ z.
        square: Σ z².
        response: Σ (y − a): what the rows contribute to the released sum beyond their corrections.
        correction: Σ a.
        released: Σ y.
        released2: Σ y².
    """

    rows: float = 0.0
    raw: float = 0.0
    square: float = 0.0
    response: float = 0.0
    correction: float = 0.0
    released: float = 0.0
    released2: float = 0.0

    def plus(self, other: CellSums) -> CellSums:
        """The sums over both sets of rows."""
        return CellSums._make(map(add, self, other))

    def times(self, factor: float) -> CellSums:
        """The sums with every row weighted by a factor."""
        return CellSums(*(factor * value for value in self))


class LabelSums(NamedTuple):
    """Sums over the rows of one cell whose label has arrived.

    Attributes:
        rows: O.
        raw: Σ z.
        response: Σ (y − a).
        correction: Σ a.
        released: Σ y.
        released2: Σ y².
        label: Σ label.
        residual2: Σ (label − y)².
    """

    rows: float = 0.0
    raw: float = 0.0
    response: float = 0.0
    correction: float = 0.0
    released: float = 0.0
    released2: float = 0.0
    label: float = 0.0
    residual2: float = 0.0

    def plus(self, other: LabelSums) -> LabelSums:
        """The sums over both sets of rows."""
        return LabelSums._make(map(add, self, other))

    def times(self, factor: float) -> LabelSums:
        """The sums with every row weighted by a factor."""
        return LabelSums(*(factor * value for value in self))


@dataclass(frozen=True)
class StreamConfig:
    """What is enforced and how; fixed over the life of a stream.

    Attributes:
        criteria: What is enforced.
        bounds: (lb, ub) of every released score; None is no bound.
        rule: "pooled" (signed multipliers fed with the pooled gap) or "scalar" (the paper's, per batch).
        repayment: κ of the pooled rule: how fast what earlier corrections missed is made up for.
        band: What the pooled rule aims at: a pooled gap of at most ε + band/√N, in the unit of the scores.
        min_labels: Labelled rows that every group of a criterion with labels must have before it is enforced.
        window: Rows after which a row counts 1/e in steering the corrections; None forgets nothing.
        hard_rows: b_τ of the scalar rule: batches from this size on go through the hard layer; None never.
        eta: η₀ of the scalar rule.
        confidence: Of the intervals for the gaps in the population, over the whole stream and all gaps at once.
    """

    criteria: tuple[Criterion, ...]
    bounds: Bounds = (None, None)
    rule: Rule = "pooled"
    repayment: float = 4.0
    band: float = 1.0
    min_labels: int = 20
    window: float | None = None
    hard_rows: int | None = None
    eta: float = 0.5
    confidence: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", check_criteria(self.criteria))
        _check_config(self)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row's cell is made of, in order; never the label, which nobody knows at release."""
        return tuple(name for name in columns_of(self.criteria) if name != LABEL)

    @cached_property
    def by_label(self) -> bool:
        """Whether rows with different labels are told apart."""
        return any(LABEL in criterion.given for criterion in self.criteria)

    @cached_property
    def needs_labels(self) -> bool:
        """Whether labels are waited for."""
        return any(criterion.needs_labels for criterion in self.criteria)

    @cached_property
    def layouts(self) -> dict[Any, Any]:
        """What was compiled for cells that were seen, kept for the next batch."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values."""
        content = {name: getattr(self, name) for name in _PLAIN}
        return {
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "bounds": list(self.bounds),
            **content,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StreamConfig:
        """The configuration that `to_dict` wrote."""
        criteria = tuple(Criterion.from_dict(entry) for entry in content["criteria"])
        low, high = content["bounds"]
        return cls(criteria, (low, high), **{name: content[name] for name in _PLAIN})


_PLAIN = ("rule", "repayment", "band", "min_labels", "window", "hard_rows", "eta", "confidence")


def _check_config(config: StreamConfig) -> None:
    low, high = config.bounds
    for name, bound in (("lower", low), ("upper", high)):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float) or bound != bound):
            raise InputError(f"bounds must be two numbers or None; the {name} one is {bound!r}")
    if low is not None and high is not None and low > high:
        raise InputError(f"bounds must be (lb, ub) with lb ≤ ub; got {config.bounds}")
    if config.rule not in ("pooled", "scalar"):
        raise InputError(f'rule must be "pooled" or "scalar"; got {config.rule!r}')
    if config.window is not None and not config.window >= 1:
        raise InputError(f"window must be a number of rows ≥ 1, or None to forget nothing; got {config.window!r}")
    if config.window is not None and config.rule == "scalar":
        raise InputError('window belongs to rule="pooled"; the scalar rule keeps no sums to forget')
    for name, least in (("repayment", 0), ("band", 0), ("min_labels", 1), ("eta", 0), ("hard_rows", 1)):
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise InputError(f"{name} must be at least {least}; got {value!r}")
    if not 0 < config.confidence < 1:
        raise InputError(f"confidence must lie strictly between 0 and 1; got {config.confidence!r}")


@dataclass(frozen=True, eq=False)
class StreamState:
    """Everything a stream knows after some batches.

    Attributes:
        batches: Batches released.
        rows: Rows released.
        cells: Sums that steer the corrections, by cell; with a window, older rows weigh less.
        labelled: The same over rows whose label has arrived, by cell (and label where a criterion is given it).
        total: Sums over all released rows; the same as ``cells`` without a window.
        labelled_total: Likewise for labelled rows.
        violation: Σ b_t (gap_t − ε) over the batches, of the criteria that need no labels.
        weight: Σ b_t of those batches.
        late_violation: The same of the criteria that need labels, over the batches whose labels have arrived.
        late_weight: Σ b_t of those batches.
        dual: λ of the scalar rule.
        updates: Updates of λ.
        updated_violation: The part of ``violation`` of the batches that updated λ, which its bound is about.
        updated_weight: Their Σ b_t.
        relaxation: What had to be added to every tolerance in the last plan; zero unless the criteria conflict.
    """

    batches: int = 0
    rows: int = 0
    cells: Mapping[Key, CellSums] = field(default_factory=dict)
    labelled: Mapping[Key, LabelSums] = field(default_factory=dict)
    total: Mapping[Key, CellSums] = field(default_factory=dict)
    labelled_total: Mapping[Key, LabelSums] = field(default_factory=dict)
    violation: float = 0.0
    weight: float = 0.0
    late_violation: float = 0.0
    late_weight: float = 0.0
    dual: float = 0.0
    updates: int = 0
    updated_violation: float = 0.0
    updated_weight: float = 0.0
    relaxation: float = 0.0

    def with_changes(self, **changes: Any) -> StreamState:
        """The state with some fields changed: `dataclasses.replace` at a tenth of its price, once per step."""
        state = object.__new__(StreamState)
        vars(state).update(vars(self), **changes)
        return state

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON-ready values; JSON keeps every bit of them."""
        content = {name: getattr(self, name) for name in _NUMBERS}
        for name in _TABLES:
            table = getattr(self, name)
            if name.endswith("total") and table is getattr(self, _STEERING[name]):
                content[name] = None
            else:
                content[name] = [[list(key), list(sums)] for key, sums in table.items()]
        return {"schema": SCHEMA, **content}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StreamState:
        """The state that `to_dict` wrote.

        Raises:
            SchemaError: Of another schema, or not a state.
        """
        if content.get("schema") != SCHEMA:
            raise SchemaError(f"the state is of schema {content.get('schema')!r}; this version reads {SCHEMA!r}")
        tables: dict[str, Any] = {}
        for name, kind in _TABLES.items():
            rows = content[name]
            tables[name] = tables[_STEERING[name]] if rows is None else {tuple(key): kind(*sums) for key, sums in rows}
        return cls(**{name: content[name] for name in _NUMBERS}, **tables)


_NUMBERS = (
    "batches", "rows", "violation", "weight", "late_violation", "late_weight", "dual", "updates",
    "updated_violation", "updated_weight", "relaxation",
)  # fmt: skip
_TABLES: dict[str, Any] = {
    "cells": CellSums, "labelled": LabelSums, "total": CellSums, "labelled_total": LabelSums
}  # fmt: skip
_STEERING = {"total": "cells", "labelled_total": "labelled"}
