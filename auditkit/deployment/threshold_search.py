"""The thresholds of least cost whose decisions are within the tolerances, as a linear or mixed-integer program.

    min Σ_o Σ_k x_ok (c₊·FP_ok + c₋·FN_ok)   subject to   L ≤ T·R·x ≤ U,   Σ_k x_ok = 1,   x ≥ 0 (or x ∈ {0, 1})

x_ok is how often cell o is decided by its k-th threshold, and R·x are the mean decisions of the cells of the
constraints. A randomised rule can reach every point of the convex hull of a cell's thresholds in the plane of false
and true positives, so its vertices are all the linear program needs; a deterministic one chooses among all thresholds.

Sources: Hardt, Price and Srebro (2016), for the linear program at a tolerance of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, linprog, milp
from scipy.spatial import ConvexHull, QhullError

from auditkit._typing import FloatArray, IntArray
from auditkit.constraints import ConstraintSystem
from auditkit.deployment.threshold_pairs import find_pair, is_monotone
from auditkit.deployment.thresholds import ThresholdRule
from auditkit.errors import InfeasibleError, SolverError
from auditkit.groups import LABEL, Cells

SMALLEST_SHARE = 1e-9
"""A threshold that a solution uses less often than this is rounding."""
MAX_SECONDS = 120.0
ROUNDING = 1e-12
SCALES = (1.0, 1e3, 1e6)
"""Of the constraints of the mixed-integer program, tried in turn."""
FIRST_CANDIDATES = 16
"""Thresholds per cell among which a first deterministic choice is made."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What each threshold of a cell decides: the points of its ROC curve, not yet divided by the totals.

    Attributes:
        thresholds: Falling, ∞ first; between two scores that occur, so that no row lies on one.
        positives: Weight of the rows of label 1 at or above each threshold, from 0 to all.
        negatives: The same of label 0.
    """

    thresholds: FloatArray
    positives: FloatArray
    negatives: FloatArray

    def take(self, chosen: IntArray) -> Curve:
        """Some of the thresholds."""
        return Curve(self.thresholds[chosen], self.positives[chosen], self.negatives[chosen])

    def hull(self) -> Curve:
        """The thresholds at the vertices of the convex hull; those at the ends where all points lie on a line."""
        try:
            points = np.column_stack([self.negatives, self.positives])
            vertices = ConvexHull(points).vertices.astype(np.int64)
        except (QhullError, ValueError):  # a line, or fewer than three points
            vertices = np.array([0, len(self.thresholds) - 1])
        return self.take(np.unique(vertices))


def trace_curve(scores: FloatArray, labels: FloatArray, weights: FloatArray) -> Curve:
    """The curve of the rows of one cell.

    Args:
        scores: z, shape (n,).
        labels: 0 or 1, shape (n,).
        weights: Row weights, shape (n,).
    """
    order = np.argsort(-scores, kind="stable")
    z, mass, positive = scores[order], weights[order], (labels * weights)[order]
    last = np.flatnonzero(np.diff(z, append=-np.inf))  # the last row of every distinct score
    middle = z[last[:-1]] / 2 + z[last[:-1] + 1] / 2
    between = np.where(middle > z[last[:-1] + 1], middle, z[last[:-1]])  # of two neighbouring floats, the upper
    gained = np.concatenate([[0.0], np.cumsum(positive)[last]])
    selected = np.concatenate([[0.0], np.cumsum(mass)[last]])
    return Curve(np.concatenate([[np.inf], between, [-np.inf]]), gained, np.maximum(selected - gained, 0.0))


@dataclass(frozen=True, eq=False)
class ThresholdProgram:
    """The program of one set of calibration rows, to be solved at several tolerances.

    Attributes:
        curves: Candidate thresholds per observable cell.
        response: R, shape (c, Σ candidates).
        cost: Cost of every candidate, per unit of row weight, less what is the same for all; shape (Σ candidates,).
        owner: Observable cell of every candidate.
        randomize: Whether cells may mix thresholds.
    """

    curves: tuple[Curve, ...]
    response: FloatArray
    cost: FloatArray
    owner: IntArray
    randomize: bool

    def solve(self, system: ConstraintSystem) -> tuple[tuple[ThresholdRule, ...], float]:
        """Rules within the tolerances of the system, and their cost.

        Raises:
            InfeasibleError: No thresholds satisfy the criteria.
            SolverError: The program was not solved to optimality in time.
        """
        paired = None if self.randomize else self._pair(system)
        if paired is not None:
            return tuple(self._rule(k, paired[0]) for k in range(len(self.curves))), paired[1]
        mixed = self._mix(system, np.arange(len(self.cost)))
        if mixed.status == 2:
            raise self._infeasible(system)
        if mixed.status != 0:
            raise SolverError(f"the thresholds were not found: {mixed.message}; raise the tolerances")
        solution, cost = (mixed.x, mixed.fun) if self.randomize else self._choose(system, mixed)
        return tuple(self._rule(k, solution) for k in range(len(self.curves))), float(cost)

    def _constraints(self, system: ConstraintSystem, kept: IntArray) -> tuple[FloatArray, FloatArray]:
        """T·R and the sums over the candidates of every cell, for some of the candidates."""
        contrasts = system.matrix @ self.response[:, kept]
        return contrasts, (self.owner[kept] == np.arange(len(self.curves))[:, None]).astype(np.float64)

    def _mix(self, system: ConstraintSystem, kept: IntArray) -> Any:
        contrasts, one = self._constraints(system, kept)
        return linprog(
            self.cost[kept], A_ub=np.vstack([contrasts, -contrasts]),
            b_ub=np.concatenate([system.upper, -system.lower]), A_eq=one, b_eq=np.ones(len(one)), method="highs-ds",
        )  # fmt: skip

    def _pair(self, system: ConstraintSystem) -> tuple[FloatArray, float] | None:
        """The best single thresholds of two cells; None for other numbers of cells.

        Raises:
            InfeasibleError: No pair of thresholds satisfies the criteria.
        """
        mine = [np.flatnonzero(self.owner == k) for k in range(len(self.curves))]
        if len(mine) != 2:
            return None
        contrasts = system.matrix @ self.response
        first, second = (contrasts[:, candidates] for candidates in mine)
        if not is_monotone(second):
            return None
        limits = (system.lower - ROUNDING, system.upper + ROUNDING)
        pair = find_pair((self.cost[mine[0]], self.cost[mine[1]]), (first, second), limits)
        if pair is None:
            raise self._infeasible(system)
        solution = np.zeros(len(self.cost))
        solution[[mine[0][pair[0]], mine[1][pair[1]]]] = 1.0
        return solution, float(self.cost @ solution)

    def _choose(self, system: ConstraintSystem, mixed: Any) -> tuple[FloatArray, float]:
        """The best single threshold of every cell.

        The reduced cost of a candidate is what choosing it adds at least to the cost of the mixture. A first choice
        among the cheapest candidates therefore rules out all whose reduced cost exceeds what it lost.
        """
        contrasts, one = self._constraints(system, np.arange(len(self.cost)))
        m = len(contrasts)
        sides = mixed.ineqlin.marginals[:m] - mixed.ineqlin.marginals[m:]
        reduced = self.cost - contrasts.T @ sides - one.T @ mixed.eqlin.marginals
        rank = np.empty(len(reduced), dtype=np.int64)
        for k in range(len(self.curves)):
            mine = np.flatnonzero(self.owner == k)
            rank[mine[np.argsort(reduced[mine], kind="stable")]] = np.arange(len(mine))
        n_first, found = FIRST_CANDIDATES, None
        while found is None:
            kept = np.flatnonzero(rank < n_first)
            found = self._choose_among(system, kept)
            if found is None and len(kept) == len(reduced):
                raise self._infeasible(system)
            n_first *= 4
        lost = found[1] - mixed.fun
        kept = np.flatnonzero(reduced <= lost + 1e-12)
        return self._choose_among(system, kept) or found

    def _choose_among(self, system: ConstraintSystem, kept: IntArray) -> tuple[FloatArray, float] | None:
        """The best choice among some candidates, or None where none is within the tolerances.

        The solver takes sides that are passed by 1e-6 for kept; where that happened they are multiplied, which makes
        the same slack a smaller gap.
        """
        contrasts, one = self._constraints(system, kept)
        for scale in SCALES:
            found = milp(
                self.cost[kept], integrality=np.ones(len(kept)), bounds=Bounds(0, 1),
                constraints=[(scale * contrasts, scale * system.lower, scale * system.upper), (one, 1, 1)],
                options={"mip_rel_gap": 0.0, "time_limit": MAX_SECONDS},
            )  # fmt: skip
            if found.status == 2:
                return None
            if found.status != 0:
                raise SolverError(
                    f"single thresholds were not found: {found.message}; raise the tolerances or randomize"
                )
            choice = np.round(found.x)
            gaps = contrasts @ choice
            if (gaps <= system.upper + ROUNDING).all() and (gaps >= system.lower - ROUNDING).all():
                solution = np.zeros(len(self.cost))
                solution[kept] = choice
                return solution, float(self.cost[kept] @ choice)
        raise SolverError("single thresholds were not found within rounding; raise the tolerances or randomize")

    def _rule(self, cell: int, solution: FloatArray) -> ThresholdRule:
        share = solution[self.owner == cell]
        used = np.flatnonzero(share > SMALLEST_SHARE)
        falling = np.cumsum(share[used][::-1])[::-1]  # a score passes its own threshold and all the lower ones
        return ThresholdRule(
            tuple(self.curves[cell].thresholds[used].tolist()), (1.0, *(falling / falling[0])[1:].tolist())
        )

    def _infeasible(self, system: ConstraintSystem) -> InfeasibleError:
        names = tuple(criterion.name for criterion in system.criteria)
        remedy = "raise the tolerances" if self.randomize else "raise the tolerances or pass randomize=True"
        return InfeasibleError(f"no thresholds per group satisfy {' and '.join(names)}; {remedy}", criteria=names)


def build_program(
    scores: FloatArray,
    labels: FloatArray,
    weights: FloatArray,
    cells: Cells,
    system: ConstraintSystem,
    *,
    costs: tuple[float, float],
    randomize: bool,
) -> ThresholdProgram:
    """Trace the curves of all cells and say what their thresholds do to the constraints.

    Args:
        scores: z, shape (n,).
        labels: 0 or 1, shape (n,).
        weights: Row weights, shape (n,).
        cells: The observable cells; every cell of the constraints lies within one of them.
        system: The constraints of the same rows.
        costs: Costs of a false positive and of a false negative.
        randomize: Whether cells may mix thresholds.
    """
    size = cells.table.n_cells
    rows = [np.flatnonzero(cells.index == k) for k in range(size)]
    traced = [trace_curve(scores[mine], labels[mine], weights[mine]) for mine in rows]
    curves = tuple(curve.hull() if randomize else curve for curve in traced)
    owner = np.repeat(np.arange(size), [len(curve.thresholds) for curve in curves])
    positives = np.concatenate([curve.positives for curve in curves])
    negatives = np.concatenate([curve.negatives for curve in curves])
    missed = float((weights * labels).sum())
    total = float(weights.sum())
    cost = (costs[0] * negatives - costs[1] * positives) / total
    # the share of the positives that is missed by everyone is the same constant in every cell: put it in the first
    cost = cost + np.where(owner == 0, costs[1] * missed / total, 0.0)
    return ThresholdProgram(curves, _response(cells, system, owner, positives, negatives), cost, owner, randomize)


def _response(
    cells: Cells, system: ConstraintSystem, owner: IntArray, positives: FloatArray, negatives: FloatArray
) -> FloatArray:
    """Mean decision of every cell of the constraints under every candidate threshold."""
    table, columns = system.known_cells.table, cells.table.names
    parent = {tuple(code): k for k, code in enumerate(cells.table.codes.tolist())}
    place = table.columns(columns)
    matrix = np.zeros((table.n_cells, len(owner)))
    for c in range(table.n_cells):
        mine = owner == parent[tuple(table.codes[c, place].tolist())]
        label = table.value(c, LABEL) if LABEL in table.names else None
        selected = positives + negatives if label is None else positives if label == 1 else negatives
        matrix[c, mine] = selected[mine] / system.safe_weight[c]
    return matrix
