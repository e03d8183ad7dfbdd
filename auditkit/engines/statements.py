"""The SQL of a scan. Nothing that the caller wrote enters it: columns have aliases, numbers and texts are parameters.

A term x is summed as whole numbers, so that the order of the rows, the number of threads and the engine change no bit:

    h = ⌊x·2^k⌉,   l = ⌊(x·2^k − h)·2^59⌉,   Σx = (Σh + Σl·2^−59)·2^−k

where k gives the largest term of the first rows 52 bits. Σh alone suffices unless the terms of some combination are far
smaller than the largest; `Term.needs_more` finds those, and they are summed again with l.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit.decision_rules import Cut, Rule
from auditkit.engines.base import SOURCE, Column, Engine
from auditkit.engines.expression_sql import write_expression
from auditkit.margins import SCORE_BIN, SCORE_BINS
from auditkit.moments import FACTORS, Rows, products
from auditkit.table_roles import Key

CENTRED: dict[tuple[str, ...], tuple[str, ...]] = {("z-shift",): ("z",), ("y-shift",): ("y",)}
"""Sums that follow from another and the number of rows: Σ(z − shift) = Σz − n·shift, in exact arithmetic."""

LOW_BITS = 59
SAMPLE_BITS = 52
"""The largest term of the sample takes this many bits, which leaves ten for larger ones among the other rows."""

UNIT_BITS = 61
"""Bits of a term that is 1, where none can be larger: where one is all the same, the scan learns it and asks again."""

POSITIVE_BITS, SIGNED_BITS = 42, 32
"""Bits of a mean that suffice: the rounding of h is then at most 2^−43 of a sum of positive terms. Where terms cancel,
the mean says less about their size, and the rounding is at most 2^−33 of the sum and 2^−53 of the largest term."""

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
        threshold: The rule that decisions are made by, where there is no column of them.
        cluster: Column that says whom each row is of.
        keys: Attributes and strata: name → what they are made of.
        mentioned: Further roles with the columns they name, which must be there but are not read.
        cut: Where the rule cuts the scores; None as long as that is not known.
    """

    score: str
    label: str | None = None
    positive_label: Any = None
    weight: str | None = None
    decision: str | None = None
    threshold: Rule | None = None
    cluster: str | None = None
    keys: Mapping[str, Key] = field(default_factory=dict)
    mentioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cut: Cut | None = None

    def named(self) -> dict[str, tuple[str, ...]]:
        """Role → the columns that it names."""
        single = {
            "score": self.score, "label": self.label, "weight": self.weight, "decision": self.decision,
            "cluster": self.cluster,
        }  # fmt: skip
        named = {role: (name,) for role, name in single.items() if name is not None}
        return {**named, "attributes": tuple(name for key in self.keys.values() for name in key.sources)}

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
        exponent: k of the module's equation; 0 for small whole numbers.
        form: What is asked of the engine: "high" is Σh, "both" is Σh and Σl, "none" is a number that is positive where
            some x is not 0, because every x of the first rows was 0, and "whole" is Σx of small whole numbers.
        enough: Bits that the mean of a combination's terms must have for Σh to suffice.
    """

    factors: tuple[str, ...]
    exponent: int
    form: Literal["whole", "high", "both", "none"]
    enough: int = POSITIVE_BITS

    @property
    def width(self) -> int:
        """Columns that it takes in the answer."""
        return 2 if self.form == "both" else 1

    @property
    def power(self) -> int:
        """Two to this power is what `totals` are to be divided by; at least 0."""
        return max(LOW_BITS + self.exponent, 0)

    def totals(self, answer: Sequence[Sequence[Any]], first: int) -> list[int]:
        """The sums that the columns from ``first`` on stand for, times 2^power: whole numbers, one per row."""
        more = self.power - self.exponent
        if self.form == "none":
            return [0] * len(answer)
        if self.form == "both":
            return [((int(row[first]) << LOW_BITS) + int(row[first + 1])) << (more - LOW_BITS) for row in answer]
        return [int(row[first]) << more for row in answer]

    def needs_more(self, values: Sequence[Any], count: int) -> bool:
        """Whether one combination's columns have too few digits to stand for its sum."""
        if self.form == "none":
            return float(values[0]) > 0
        return self.form == "high" and abs(int(values[0])) < count << self.enough

    def refined(self) -> Term:
        """The same term, asked so that its columns suffice."""
        return replace(self, form="high" if self.form == "none" else "both")


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
    """The rows as z, y, d, w, the cluster g, and the keys k0, k1 and so on.

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
            parts += [f"{label} AS ky"] * label_key  # as it is stored: whole numbers are quicker keys than float64
        else:
            parts.append(f"CASE WHEN {label} IS NULL THEN NULL WHEN {label} = ? THEN 1e0 ELSE 0e0 END AS y")
            parameters.append(roles.positive_label)
    if roles.decision is not None:
        parts.append(f"{_as_float(columns[roles.decision])} AS d")
    elif roles.cut is not None:
        parts.append(f"{_decision(z, roles.cut)} AS d")
    if roles.weight is not None:
        parts.append(f"{_as_float(columns[roles.weight])} AS w")
    if roles.cluster is not None:
        parts.append(f"{present(columns[roles.cluster])} AS g")
    for i, name in enumerate(keys):
        value, given = _key(roles.keys[name], columns)
        parts.append(f"{value} AS k{i}")
        parameters += given
    text = f"SELECT {', '.join(parts)} FROM {SOURCE}"
    if label_key and roles.positive_label is not None:
        text = f"SELECT *, y AS ky FROM ({text}) labelled"
    return Statement(text, tuple(parameters))


def _as_float(column: Column) -> str:
    return f"CAST({column.alias} AS DOUBLE)"


def _decision(z: str, cut: Cut) -> str:
    """The decision on a score; a whole number where no score shares a place, which sums need no scale for."""
    threshold = number(cut.threshold)
    if cut.share in (0.0, 1.0):
        positive = f"{z} {'>=' if cut.share else '>'} {threshold}"
        return f"CASE WHEN {z} IS NULL THEN NULL WHEN {positive} THEN 1 ELSE 0 END"
    shared = f"WHEN {z} = {threshold} THEN {number(cut.share)}"
    return f"CASE WHEN {z} IS NULL THEN NULL WHEN {z} > {threshold} THEN 1e0 {shared} ELSE 0e0 END"


def present(column: Column) -> str:
    """SQL for the values of a column, in which NaN is missing."""
    if column.kind != "number":
        return column.alias
    return f"CASE WHEN isnan({_as_float(column)}) THEN NULL ELSE {column.alias} END"


def _key(key: Key, columns: Mapping[str, Column]) -> tuple[str, tuple[Any, ...]]:
    """A key: the value itself, the number of its band, or an expression; missing values stay missing."""
    if key.expression is not None:
        return write_expression(key.expression, columns)
    column, bins = columns[key.source], key.bins
    if bins is None:
        return column.alias, ()
    value = _as_float(column)
    if key.name == SCORE_BIN:  # edges at even steps: quicker than a row of cases, and as exact, rounding being undone
        place = f"CASE WHEN {value} >= 1e0 THEN {SCORE_BINS - 1}e0 ELSE floor({value} * {SCORE_BINS}e0) END"
        # below 0 there are no bins, and no error either: what lies there is told by another sum
        return f"TRY_CAST({place} - CAST({value} < ({place}) / {SCORE_BINS}e0 AS TINYINT) AS TINYINT)", ()
    bands = " ".join(f"WHEN {value} < {number(edge)} THEN {position}" for position, edge in enumerate(bins))
    return f"CASE WHEN {value} IS NULL OR isnan({value}) THEN NULL {bands} ELSE {len(bins)} END", ()


def plan_terms(
    given: set[str], sample: Rows, *, whole: set[str], label_is_key: bool, parts: IntArray | None = None
) -> tuple[Term, ...]:
    """What must be summed within every combination of the keys.

    Args:
        given: Which of z, y, d and w the rows have.
        sample: Some of the rows; they say how large the terms are.
        whole: Which of z, y, d and w hold small whole numbers only.
        label_is_key: Whether the label is constant within a combination, so that its factors stay out of the sums.
        parts: Which part of the rows each of the sample is of, where terms may be far smaller in some than in others:
            what needs more digits there is asked for at once, instead of in another pass.

    Returns:
        The terms; the count of the rows is not among them.
    """
    wanted = dict.fromkeys(inner_factors(product, label_is_key=label_is_key) for product in products(given))
    wanted |= dict.fromkeys(CENTRED[factors] for factors in wanted if factors in CENTRED)
    terms = [factors for factors in wanted if factors and factors not in CENTRED]
    return tuple(plan_term(factors, sample, whole, parts) for factors in terms)


def inner_factors(product: Sequence[str], *, label_is_key: bool) -> tuple[str, ...]:
    """The factors that vary within a combination of the keys."""
    return tuple(name for name in product if not (label_is_key and FACTORS[name].reads == ("y",)))


def label_factor(product: Sequence[str], labels: FloatArray, shift: float) -> FloatArray:
    """The product of the factors that depend on the label alone, for the label of every combination."""
    rows = Rows(z=labels, y=labels, d=None, w=None, shift=shift)
    outer = [FACTORS[name].values(rows) for name in product if FACTORS[name].reads == ("y",)]
    return reduce(np.multiply, outer, np.ones_like(labels))


def plan_term(factors: tuple[str, ...], sample: Rows, whole: set[str], parts: IntArray | None = None) -> Term:
    """How a product is summed, as far as some of the rows tell; ``whole`` and ``parts`` as in `plan_terms`."""
    if all(name in whole for name in factors):
        return Term(factors, 0, "whole")
    values = reduce(np.multiply, [FACTORS[name].values(sample) for name in factors])
    largest = float(np.abs(values).max(initial=0.0))
    enough = SIGNED_BITS if (values < 0).any() else POSITIVE_BITS
    planned = Term(factors, exponent_for(largest), "high" if largest > 0 else "none", enough)
    if parts is None or planned.form == "none":
        return planned
    if "w" not in factors:  # parts are of scores and labels in [0, 1], and so is every term up to its sign
        planned = replace(planned, exponent=UNIT_BITS)
    counts = np.bincount(parts)
    means = np.abs(np.bincount(parts, weights=values))[counts > 0] / counts[counts > 0]
    return planned.refined() if (means * 2.0**planned.exponent < 2.0 ** (enough + 1)).any() else planned


def exponent_for(largest: float) -> int:
    """The k that gives a term of this size ``SAMPLE_BITS`` bits; within what a power of two can be in float64."""
    return int(np.clip(SAMPLE_BITS - int(np.frexp(largest)[1]), -1000, 900))


@dataclass(frozen=True)
class Checked:
    """What an aggregation states beside its sums, so that unusable values are found.

    Attributes:
        names: Columns whose missing values are counted.
        extremes: Expressions such as ``min(w)``.
    """

    names: Sequence[str]
    extremes: Sequence[str]

    @property
    def width(self) -> int:
        """Columns that it takes in the answer."""
        return len(self.names) + len(self.extremes)


def aggregate(
    engine: Engine, rows: Statement, keys: Sequence[str], terms: Sequence[Term], checked: Checked, *, shift: float
) -> Statement:
    """Sum the terms within every combination of the keys.

    Args:
        engine: Where the rows are.
        rows: The rows, from `select_rows`.
        keys: The key columns of ``rows``.
        terms: What to sum.
        checked: What is looked at beside the sums.
        shift: Constant taken off before squaring.

    Returns:
        A statement that yields, per combination: the keys, the number of rows, the number of missing values of every
        checked column, the extremes, and what the form of every term asks for.
    """
    columns = [*keys, *checked.names]
    scaled = [f"{scaled_product(term, shift)} AS x{i}" for i, term in enumerate(terms)]
    high = [f"{engine.integer(f'x{i}')} AS h{i}" for i, term in enumerate(terms) if term.form == "both"]
    sums = [total for i, term in enumerate(terms) for total in totals(engine, term, i)]
    missing = [f"count(*) - count({name})" for name in checked.names]
    inner = f"SELECT {', '.join([*columns, *scaled])} FROM ({rows.text}) taken"
    split = f"SELECT {', '.join(['*', *high])} FROM ({inner}) scaled"
    text = f"SELECT {', '.join([*keys, 'count(*)', *missing, *checked.extremes, *sums])} FROM ({split}) split"
    return Statement(f"{text} GROUP BY {', '.join(keys)} LIMIT {MAX_COMBINATIONS + 1}", rows.parameters)


def totals(engine: Engine, term: Term, i: int) -> list[str]:
    """SQL for what the form of a term asks for, over its scaled values x_i and the whole numbers h_i next to them."""
    if term.form == "none":
        return [f"max(x{i})"]
    if term.form != "both":
        return [engine.integer_total(f"x{i}")]
    return [engine.integer_total(f"h{i}"), engine.integer_total(f"(x{i} - h{i}) * {number(2.0**LOW_BITS)}")]


def checks(given: set[str]) -> list[str]:
    """The columns whose missing values are counted, in order."""
    return [name for name in ("z", "y", "d", "w") if name in given]


def scaled_product(term: Term, shift: float) -> str:
    """SQL for a term times its power of two, or for what tells whether it is zero."""
    if term.form == "none" and len(term.factors) == 1 and (nonzero := FACTORS[term.factors[0]].nonzero):
        return nonzero
    product = " * ".join(FACTORS[name].sql.replace("shift", number(shift)) for name in term.factors) or "1e0"
    if term.form == "none":
        return f"abs({product})"
    return product if term.form == "whole" else f"{product} * {number(2.0**term.exponent)}"


def count_unusable(rows: Statement, names: Sequence[str], terms: Sequence[Term], *, shift: float) -> Statement:
    """Count the values of each named column that are missing or not finite; then find each term's largest size."""
    counts = [f"count(*) - sum(CASE WHEN {_usable(name)} THEN 1 ELSE 0 END)" for name in names]
    sizes = [f"max(abs({scaled_product(replace(term, exponent=0, form='high'), shift)}))" for term in terms]
    return Statement(f"SELECT {', '.join([*counts, *sizes])} FROM ({rows.text}) taken", rows.parameters)


def first_unusable(rows: Statement, name: str) -> Statement:
    """The number of the first row, from 0, whose z, y, d or w is missing or not finite; for engines that keep order."""
    numbered = f"SELECT row_number() OVER () - 1 AS position, {_usable(name)} AS usable FROM ({rows.text}) taken"
    return Statement(f"SELECT min(position) FROM ({numbered}) numbered WHERE NOT usable", rows.parameters)


def _usable(name: str) -> str:
    """Whether a value is a finite number: only then is its difference from itself 0."""
    return f"coalesce(CAST({name} AS DOUBLE) - {name} = 0, FALSE)"
