"""The SQL of a scan. Nothing that the caller wrote enters it: columns have aliases, numbers and texts are parameters.

Sums are exact. A term x is written as two 64-bit integers,

    h = ⌊x·2^k⌉,   l = ⌊(x·2^k − h)·2^59⌉,   Σx = (Σh + Σl·2^−59)·2^−k,

which keep every digit of a float64 within a factor of 2^110 of the largest term. Sums of integers do not depend on the
order of the rows, so that the same table gives the same bits on any number of threads and on any engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.engines.base import SOURCE, Column, Engine
from auditkit.moments import FACTORS, Rows, products

CENTRED: dict[tuple[str, ...], tuple[str, ...]] = {("z-shift",): ("z",), ("y-shift",): ("y",)}
"""Sums that follow from another and the number of rows: Σ(z − shift) = Σz − n·shift, in exact arithmetic."""

LOW_BITS = 59
SAMPLE_BITS = 52
"""The largest term of the sample takes this many bits, which leaves ten for larger ones among the other rows."""

MAX_COMBINATIONS = 1_000_000
"""More combinations of key values than this are no groups; an answer that holds them is refused."""


@dataclass(frozen=True)
class Roles:
    """Which columns of the table are what.

    Attributes:
        score: Column of scores z.
        label: Column of labels y.
        positive_label: Value of the label that counts as 1, every other as 0; None takes the numbers.
        weight: Column of row weights w.
        decision: Column of decisions d.
        threshold: Scores at or above it are positive decisions, where there is no column of them.
        keys: Attributes and strata: name → source column and bin edges.
        mentioned: Further roles with the columns they name, which must be there but are not read.
    """

    score: str
    label: str | None = None
    positive_label: Any = None
    weight: str | None = None
    decision: str | None = None
    threshold: float | None = None
    keys: Mapping[str, tuple[str, tuple[float, ...] | None]] = field(default_factory=dict)
    mentioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def named(self) -> dict[str, tuple[str, ...]]:
        """Role → the columns that it names."""
        single = {"score": self.score, "label": self.label, "weight": self.weight, "decision": self.decision}
        named = {role: (name,) for role, name in single.items() if name is not None}
        return {**named, "attributes": tuple(source for source, _ in self.keys.values())}

    @property
    def given(self) -> set[str]:
        """Which of z, y, d and w the rows have."""
        optional = {"y": self.label, "w": self.weight}
        decided = self.decision is not None or self.threshold is not None
        return {"z", *(name for name, column in optional.items() if column is not None), *({"d"} if decided else ())}


@dataclass(frozen=True)
class Term:
    """A product of factors that is summed.

    Attributes:
        factors: Names of ``FACTORS``.
        exponent: k of the module's equation; None where every term is a small whole number.
    """

    factors: tuple[str, ...]
    exponent: int | None


@dataclass(frozen=True)
class Statement:
    """SQL with the values of its question marks."""

    text: str
    parameters: tuple[Any, ...] = ()


def number(value: float) -> str:
    """A float64 in SQL, to the last bit."""
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def select_rows(
    roles: Roles, columns: Mapping[str, Column], keys: Sequence[str], *, label_key: bool = False
) -> Statement:
    """The rows as z, y, d, w and the keys k0, k1 and so on.

    Args:
        roles: Which columns are what.
        columns: The columns of the view.
        keys: Names of the keys to take.
        label_key: Whether to add the label as the key ky.

    Returns:
        A statement that yields one row per row.
    """
    z = _as_float(columns[roles.score])
    parts, parameters = [f"{z} AS z"], []
    if roles.label is not None:
        label = columns[roles.label].alias
        if roles.positive_label is None:
            parts.append(f"{_as_float(columns[roles.label])} AS y")
        else:
            parts.append(f"CASE WHEN {label} IS NULL THEN NULL WHEN {label} = ? THEN 1e0 ELSE 0e0 END AS y")
            parameters.append(roles.positive_label)
    if roles.decision is not None:
        parts.append(f"{_as_float(columns[roles.decision])} AS d")
    elif roles.threshold is not None:
        parts.append(f"CASE WHEN {z} IS NULL THEN NULL WHEN {z} >= {number(roles.threshold)} THEN 1 ELSE 0 END AS d")
    if roles.weight is not None:
        parts.append(f"{_as_float(columns[roles.weight])} AS w")
    parts += [f"{_key(columns[roles.keys[name][0]], roles.keys[name][1])} AS k{i}" for i, name in enumerate(keys)]
    text = f"SELECT {', '.join(parts)} FROM {SOURCE}"
    if label_key:
        text = f"SELECT *, y AS ky FROM ({text}) labelled"
    return Statement(text, tuple(parameters))


def _as_float(column: Column) -> str:
    return f"CAST({column.alias} AS DOUBLE)"


def _key(column: Column, bins: tuple[float, ...] | None) -> str:
    """A key: the value itself, or the number of its band; missing values stay missing."""
    if bins is None:
        return column.alias
    value = _as_float(column)
    bands = " ".join(f"WHEN {value} < {number(edge)} THEN {position}" for position, edge in enumerate(bins))
    return f"CASE WHEN {value} IS NULL OR isnan({value}) THEN NULL {bands} ELSE {len(bins)} END"


def plan_terms(given: set[str], sample: Rows, *, whole: set[str], label_is_key: bool) -> tuple[Term, ...]:
    """What must be summed within every combination of the keys.

    Args:
        given: Which of z, y, d and w the rows have.
        sample: Some of the rows; they say how large the terms are.
        whole: Which of z, y, d and w hold small whole numbers only.
        label_is_key: Whether the label is constant within a combination, so that its factors stay out of the sums.

    Returns:
        The terms; the count of the rows is not among them.
    """
    wanted = dict.fromkeys(inner_factors(product, label_is_key=label_is_key) for product in products(given))
    wanted |= dict.fromkeys(CENTRED[factors] for factors in wanted if factors in CENTRED)
    terms = [factors for factors in wanted if factors and factors not in CENTRED]
    return tuple(Term(factors, _exponent(factors, sample, whole)) for factors in terms)


def inner_factors(product: Sequence[str], *, label_is_key: bool) -> tuple[str, ...]:
    """The factors that vary within a combination of the keys."""
    return tuple(name for name in product if not (label_is_key and FACTORS[name].reads == ("y",)))


def label_factor(product: Sequence[str], labels: FloatArray, shift: float) -> FloatArray:
    """The product of the factors that depend on the label alone, for the label of every combination."""
    rows = Rows(z=labels, y=labels, d=None, w=None, shift=shift)
    outer = [FACTORS[name].values(rows) for name in product if FACTORS[name].reads == ("y",)]
    return reduce(np.multiply, outer, np.ones_like(labels))


def _exponent(factors: tuple[str, ...], sample: Rows, whole: set[str]) -> int | None:
    if all(name in whole for name in factors):
        return None
    largest = float(np.abs(reduce(np.multiply, [FACTORS[name].values(sample) for name in factors])).max(initial=0.0))
    return exponent_for(largest)


def exponent_for(largest: float) -> int:
    """The k that gives a term of this size ``SAMPLE_BITS`` bits; within what a power of two can be in float64."""
    return int(np.clip(SAMPLE_BITS - int(np.frexp(largest)[1]), -1000, 900))


def aggregate(
    engine: Engine, rows: Statement, keys: Sequence[str], terms: Sequence[Term], given: set[str], *, shift: float
) -> Statement:
    """Sum the terms within every combination of the keys.

    Args:
        engine: Where the rows are.
        rows: The rows, from `select_rows`.
        keys: The key columns of ``rows``.
        terms: What to sum.
        given: Which of z, y, d and w the rows have.
        shift: Constant taken off before squaring.

    Returns:
        A statement that yields, per combination: the keys, the number of rows, the number of missing values of each of
        z, y, d, w that is given, the smallest weight if there are weights, and Σh and Σl of every term.
    """
    checked = checks(given)
    columns = [*keys, *checked]
    scaled = [f"{_product(term, shift)} AS x{i}" for i, term in enumerate(terms)]
    high = [f"CAST(x{i} AS BIGINT) AS h{i}" for i in range(len(terms))]
    totals = []
    for i, term in enumerate(terms):
        totals.append(engine.integer_total(f"h{i}"))
        if term.exponent is not None:
            totals.append(engine.integer_total(f"(x{i} - h{i}) * {number(2.0**LOW_BITS)}"))
    missing = [f"count(*) - count({name})" for name in checked]
    smallest = ["min(w)"] if "w" in given else []
    inner = f"SELECT {', '.join([*columns, *scaled])} FROM ({rows.text}) taken"
    split = f"SELECT {', '.join(['*', *high])} FROM ({inner}) scaled"
    text = f"SELECT {', '.join([*keys, 'count(*)', *missing, *smallest, *totals])} FROM ({split}) split"
    return Statement(f"{text} GROUP BY {', '.join(keys)} LIMIT {MAX_COMBINATIONS + 1}", rows.parameters)


def checks(given: set[str]) -> list[str]:
    """The columns whose missing values are counted, in order."""
    return [name for name in ("z", "y", "d", "w") if name in given]


def _product(term: Term, shift: float) -> str:
    product = " * ".join(FACTORS[name].sql.replace("shift", number(shift)) for name in term.factors)
    return product if term.exponent is None else f"{product} * {number(2.0**term.exponent)}"


def count_unusable(rows: Statement, given: set[str], terms: Sequence[Term], *, shift: float) -> Statement:
    """Count the values of each of z, y, d and w that are missing or not finite; then find each term's largest size."""
    counts = [f"count(*) - sum(CASE WHEN {_usable(name)} THEN 1 ELSE 0 END)" for name in checks(given)]
    sizes = [f"max(abs({_product(Term(term.factors, None), shift)}))" for term in terms]
    return Statement(f"SELECT {', '.join([*counts, *sizes])} FROM ({rows.text}) taken", rows.parameters)


def first_unusable(rows: Statement, name: str) -> Statement:
    """The number of the first row, from 0, whose z, y, d or w is missing or not finite; for engines that keep order."""
    numbered = f"SELECT row_number() OVER () - 1 AS position, {_usable(name)} AS usable FROM ({rows.text}) taken"
    return Statement(f"SELECT min(position) FROM ({numbered}) numbered WHERE NOT usable", rows.parameters)


def _usable(name: str) -> str:
    """Whether a value is a finite number: only then is its difference from itself 0."""
    return f"coalesce(CAST({name} AS DOUBLE) - {name} = 0, FALSE)"


def exact_total(high: int, low: int | None, exponent: int | None) -> Fraction:
    """The sum that the two integer sums stand for."""
    if exponent is None or low is None:
        return Fraction(high)
    numerator, power = (high << LOW_BITS) + low, LOW_BITS + exponent
    return Fraction(numerator, 1 << power) if power >= 0 else Fraction(numerator << -power)
