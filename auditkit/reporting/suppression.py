"""Small counts that a public table must not give away, neither by itself nor by subtraction.

A count below k is hidden. What is left must not give it back: over all tables, with the unknown counts x ≥ 0 of the
finest crossing and one equation per published sum, each hidden sum c·x must still be able to vary by k or more,

    max c·x − min c·x ≥ k    subject to    A x = published,  x ≥ 0                                     (two LPs)

and while it cannot, the smallest published sum that overlaps it is hidden too. This is the usual protection of
linked tables (complementary suppression with an attacker who solves linear programs), made greedily.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.errors import SolverError

SMALL = 10
"""Counts below this are hidden unless another number is asked for."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the finest cells that some tables would publish.

    Attributes:
        members: Which cells make up which sum, 0 or 1, shape (m, c).
        values: The sums, shape (m,).
        tables: Number of the table that each sum stands in, shape (m,).
        total: Sum over all cells, which is always published.
    """

    members: FloatArray
    values: FloatArray
    tables: IntArray
    total: float


def hide_small(sums: Sums, hidden: BoolArray, *, smallest: float = SMALL) -> BoolArray:
    """Which sums must be hidden so that the others do not give back those hidden first.

    Args:
        sums: All sums.
        hidden: Those that are hidden for a reason of their own, shape (m,).
        smallest: k, by how much each of them must be able to vary.

    Returns:
        All that must be hidden, shape (m,).

    Raises:
        SolverError: A linear program was not solved.
    """
    result = hidden.copy()
    while (exposed := _first_exposed(sums, hidden, result, smallest)) is not None and not result.all():
        result[_next_to_hide(sums, result, exposed)] = True
    return _show_what_may_be(sums, hidden, result, smallest)


def _first_exposed(sums: Sums, secret: BoolArray, hidden: BoolArray, smallest: float) -> int | None:
    targets = map(int, np.flatnonzero(secret))
    return next((target for target in targets if _freedom(sums, hidden, target) < smallest), None)


def _show_what_may_be(sums: Sums, secret: BoolArray, hidden: BoolArray, smallest: float) -> BoolArray:
    """The same without what was hidden on the way and need not be, the largest sums first."""
    result = hidden.copy()
    helpers = np.flatnonzero(hidden & ~secret)
    for helper in helpers[np.argsort(-sums.values[helpers], kind="stable")]:
        result[helper] = False
        if _first_exposed(sums, secret, result, smallest) is not None:
            result[helper] = True
    return result


def _next_to_hide(sums: Sums, hidden: BoolArray, target: int) -> int:
    """The smallest published sum of the target's table; else of those that overlap it; else of all."""
    visible = ~hidden
    same_table = sums.tables == sums.tables[target]
    overlapping = sums.members @ sums.members[target] > 0
    for chosen in (same_table, overlapping, visible):
        candidates = np.flatnonzero(chosen & visible)
        if len(candidates):
            return int(candidates[np.argmin(sums.values[candidates])])
    raise ValueError("hidden: every sum is hidden already")


def _freedom(sums: Sums, hidden: BoolArray, target: int) -> float:
    """By how much a hidden sum may vary, given what is published."""
    equations = np.vstack([np.ones(sums.members.shape[1]), sums.members[~hidden]])
    published = np.concatenate([[sums.total], sums.values[~hidden]])
    ends = []
    for sign in (1.0, -1.0):
        solution = linprog(sign * sums.members[target], A_eq=equations, b_eq=published, bounds=(0, None))
        if solution.status == 3:
            return np.inf
        if solution.status != 0:
            raise SolverError(f"the linear program that protects small counts was not solved: {solution.message}")
        ends.append(solution.fun)
    return float(-ends[1] - ends[0])
