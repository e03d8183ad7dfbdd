"""Sums over clusters of rows (the several rows of one person), by SQL: what `Moments.gram` holds.

    G = Σ_k u_k u_kᵀ        u_k: Σ w, Σ w (z − shift), Σ w (y − shift) and Σ w d of cluster k in every cell

The rows are aggregated once, to one row per cluster and combination of the keys, which the engine keeps (on disk where
memory does not hold it); G is a join of that table with itself. Both steps sum whole numbers, as `statements` does, so
that neither the order of the rows nor the number of threads changes a bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit.engines import statements
from auditkit.engines.base import Engine
from auditkit.engines.statements import LOW_BITS, Statement, Term, number
from auditkit.errors import InputError
from auditkit.moments import Rows, check_clustered_cells, reduced

PARTS = {"w": ("w",), "z": ("w", "z-shift"), "y": ("w", "y-shift"), "d": ("w", "d")}
"""What is summed in every cluster and cell; the first letter is what the rows must have."""

_ORDER = tuple(PARTS)


@dataclass(frozen=True)
class Combinations:
    """The combinations of the keys that occur, as the main aggregation found them.

    Attributes:
        keys: Their values, one tuple per combination.
        cells: The cell of every combination.
        n_cells: Number of cells c.
    """

    keys: Sequence[tuple[Any, ...]]
    cells: IntArray
    n_cells: int


def parts_of(given: set[str]) -> dict[str, tuple[str, ...]]:
    """The parts of u that rows with z and what else is given have, each with the factors that are multiplied."""
    return {name: reduced(factors, given) for name, factors in PARTS.items() if name == "w" or name in given}


def plan_parts(given: set[str], sample: Rows) -> tuple[Term, ...]:
    """How each part is summed: with both halves of its digits, for its scale is not that of a combination's total."""
    planned = [statements.plan_term(factors, sample, whole=set()) for factors in parts_of(given).values()]
    return tuple(replace(term, form="both") for term in planned)


def keep_clusters(
    engine: Engine, rows: Statement, keys: Sequence[str], terms: Sequence[Term], *, shift: float
) -> tuple[str, int]:
    """Aggregate the rows to one per cluster and combination of the keys, and have the engine keep those.

    Args:
        engine: Where the rows are.
        rows: The rows, from `statements.select_rows`, with their clusters g.
        keys: The key columns of ``rows``.
        terms: The parts, from `plan_parts`.
        shift: Constant taken off.

    Returns:
        What the engine calls the kept table, and how many rows have no cluster.

    Raises:
        OutOfRangeError: A part of a row is larger than the sample foretold.
    """
    taken = ["g", *keys]
    scaled = [f"{statements.scaled_product(term, shift)} AS x{i}" for i, term in enumerate(terms)]
    split = [f"{engine.integer(f'x{i}')} AS h{i}" for i in range(len(terms))]
    sums = [f"{_total_in_float64(engine, term, i)} AS s{i}" for i, term in enumerate(terms)]
    inner = f"SELECT {', '.join([*taken, *scaled])} FROM ({rows.text}) taken"
    halves = f"SELECT {', '.join(['*', *split])} FROM ({inner}) scaled"
    text = f"SELECT {', '.join([*taken, *sums, 'count(*) AS n'])} FROM ({halves}) split GROUP BY {', '.join(taken)}"
    kept = engine.keep(text, rows.parameters)
    return kept, int(engine.query(f"SELECT sum(n) FROM {kept} WHERE g IS NULL")[0][0] or 0)


def sum_over_clusters(
    engine: Engine, kept: str, given: set[str], keys: Sequence[str], combinations: Combinations
) -> FloatArray:
    """G, shape (4c, 4c).

    Args:
        engine: Where the clusters are kept.
        kept: What `keep_clusters` called them.
        given: Which of z, y, d and w the rows have.
        keys: The key columns.
        combinations: Their values, and which cell each is of.

    Raises:
        InputError: Too many cells.
    """
    check_clustered_cells(combinations.n_cells)
    names = list(parts_of(given))
    pairs = [(p, q) for p in range(len(names)) for q in range(p, len(names))]
    sizes = engine.query(f"SELECT {', '.join(f'max(abs(s{i}))' for i in range(len(names)))} FROM {kept}")[0]
    terms = [Term((), statements.exponent_for(float(sizes[p]) * float(sizes[q])), "both") for p, q in pairs]
    answer = engine.query(_join(engine, kept, keys, pairs, terms))
    place = {_comparable(key): int(cell) for key, cell in zip(combinations.keys, combinations.cells, strict=True)}
    rows = [place[_comparable(row[: len(keys)])] for row in answer]
    columns = [place[_comparable(row[len(keys) : 2 * len(keys)])] for row in answer]
    gram = np.zeros((4, combinations.n_cells, 4, combinations.n_cells))
    for i, ((p, q), term) in enumerate(zip(pairs, terms, strict=True)):
        start = 2 * len(keys) + 2 * i
        values = [total / (1 << term.power) for total in term.totals(answer, start)]
        first, second = _ORDER.index(names[p]), _ORDER.index(names[q])
        np.add.at(gram, (first, rows, second, columns), values)
        if p != q:
            np.add.at(gram, (second, columns, first, rows), values)
    return gram.reshape(4 * combinations.n_cells, 4 * combinations.n_cells)


def refuse_missing(column: str, source: str, count: int) -> None:
    """Raise where rows have no cluster.

    Raises:
        InputError: ``count`` is not 0.
    """
    if count:
        raise InputError(
            f"cluster column {column!r} of {source} holds {count} missing values; "
            "give every row the person that it is of"
        )


def _total_in_float64(engine: Engine, term: Term, i: int) -> str:
    high, low = statements.totals(engine, term, i)
    total = f"CAST({high} AS DOUBLE) + CAST({low} AS DOUBLE) * {number(2.0**-LOW_BITS)}"
    return f"({total}) * {number(2.0**-term.exponent)}"


def _join(
    engine: Engine, kept: str, keys: Sequence[str], pairs: Sequence[tuple[int, int]], terms: Sequence[Term]
) -> str:
    """SQL for the sums of products of two parts within a cluster, by the combinations that the two are of."""
    left, right = ([f"{side}.{key} AS {side}{key}" for key in keys] for side in ("a", "b"))
    named = [f"{side}{key}" for side in ("a", "b") for key in keys]
    products = [
        f"a.s{p} * b.s{q} * {number(2.0**term.exponent)} AS x{i}"
        for i, ((p, q), term) in enumerate(zip(pairs, terms, strict=True))
    ]
    split = [f"{engine.integer(f'x{i}')} AS h{i}" for i in range(len(pairs))]
    sums = [total for i, term in enumerate(terms) for total in statements.totals(engine, term, i)]
    joined = f"SELECT {', '.join([*left, *right, *products])} FROM {kept} a JOIN {kept} b ON a.g = b.g"
    halves = f"SELECT {', '.join(['*', *split])} FROM ({joined}) joined"
    grouped = f" GROUP BY {', '.join(named)}" if named else ""
    return f"SELECT {', '.join([*named, *sums])} FROM ({halves}) split{grouped}"


def _comparable(key: Sequence[Any]) -> tuple[Hashable, ...]:
    """The values of a combination as a key of a dictionary: NaN, which equals nothing, is missing like NULL."""
    return tuple(None if value is None or value != value else value for value in key)
