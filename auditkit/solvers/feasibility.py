"""Whether a projection has a solution at all; if not, which criteria are in conflict and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from auditkit._typing import FloatArray
from auditkit.constraints import ConstraintSystem
from auditkit.errors import InfeasibleError, InputError, SolverError
from auditkit.moment_maps import ALONE, ColumnMap, MatrixMap
from auditkit.projection import ProjectionProblem
from auditkit.row_sets import Box, Simplex

OnInfeasible = Literal["raise", "relax"]


@dataclass(frozen=True, eq=False)
class Domain:
    """What the row set leaves to the unknowns x of which T·u is linear: cell means, or where need be the rows.

    Attributes:
        matrix: K with T·u = K·x, shape (m, v).
        low: Least value of every unknown, shape (v,).
        high: Largest value, shape (v,).
        sums: Unknowns that add up to one, a matrix of ones, shape (s, v); None where none have to.
    """

    matrix: Any
    low: FloatArray
    high: FloatArray
    sums: Any = None


def ensure_feasible(problem: ProjectionProblem, *, on_infeasible: OnInfeasible = "raise") -> ProjectionProblem:
    """The problem itself when it has a solution; else an error, or the least relaxation that gives it one.

    Args:
        problem: What is to be solved.
        on_infeasible: "raise" or "relax".

    Returns:
        A problem that has a solution.

    Raises:
        InputError: An unknown ``on_infeasible``.
        InfeasibleError: The criteria contradict each other or the bounds.
    """
    if on_infeasible not in ("raise", "relax"):
        raise InputError(f"on_infeasible must be 'raise' or 'relax'; got {on_infeasible!r}")
    if _is_always_feasible(problem):
        return problem
    system, domain = problem.system, _find_domain(problem)
    relaxation = smallest_relaxation(system, domain, range(len(system.criteria)))
    if relaxation == 0:
        return problem
    if on_infeasible == "relax":
        return replace(problem, system=replace(system, relaxation=relaxation * (1 + 1e-6) + 1e-8, layouts={}))
    names = tuple(system.criteria[k].name for k in conflicting_criteria(system, domain))
    within = " within the bounds" if isinstance(problem.row_set, Box) else " with probabilities that add up to 1"
    raise InfeasibleError(
        f"no scores satisfy {' and '.join(names)}{within if problem.is_bounded else ''}; every tolerance would have to "
        f"grow by {relaxation:.6g}. "
        "Raise the tolerances, widen the bounds, drop a criterion, or pass on_infeasible='relax'",
        criteria=names,
        smallest_relaxation=relaxation,
    )


def _is_always_feasible(problem: ProjectionProblem) -> bool:
    """Equal rows satisfy pairwise parity; without bounds the labels themselves satisfy residual criteria."""
    if problem.system.affine:
        return False
    residual, row_set = problem.system.contrasts.residual, problem.row_set
    if isinstance(row_set, Box) and row_set.is_everything:
        return bool(residual.all() or not residual.any())
    return not residual.any() and (isinstance(row_set, Simplex) or row_set.is_scalar)


def _find_domain(problem: ProjectionProblem) -> Domain:
    if not problem.system.is_cellwise:
        return _row_domain(problem)
    system = problem.system
    size = system.matrix.shape[1]
    if isinstance(problem.row_set, Simplex):
        cells = sp.kron(sp.eye_array(size // system.columns), np.ones((1, system.columns)))
        return Domain(system.matrix, np.zeros(size), np.ones(size), sp.csr_array(cells))
    low, high = _bounds_of(problem.row_set, problem.scores)
    collect = problem.moments.collect
    return Domain(
        system.matrix,
        np.full(size, -np.inf) if low is None else collect(low),
        np.full(size, np.inf) if high is None else collect(high),
    )


def _row_domain(problem: ProjectionProblem) -> Domain:
    """The rows themselves, where moments are no means of separate rows."""
    if problem.system.collective is not ALONE:
        raise InputError(
            "criteria that probabilities, bounds or matrices may put in conflict cannot be checked across processes; "
            "project them in one process"
        )
    n_rows, system = len(problem.scores), problem.system
    base = problem.moments.base if isinstance(problem.moments, ColumnMap) else problem.moments
    assert isinstance(base, MatrixMap)
    rows, k = base.matrix, system.columns
    matrix = sp.csr_array(system.matrix) @ (rows if k == 1 else sp.kron(rows, sp.eye_array(k)))
    if isinstance(problem.row_set, Simplex):
        sums = sp.csr_array(sp.kron(sp.eye_array(n_rows), np.ones((1, k))))
        return Domain(matrix, np.zeros(n_rows * k), np.ones(n_rows * k), sums)
    low, high = _bounds_of(problem.row_set, problem.scores)
    return Domain(
        matrix,
        np.full(n_rows, -np.inf) if low is None else low.cpu().numpy(),
        np.full(n_rows, np.inf) if high is None else high.cpu().numpy(),
    )


def _bounds_of(box: Box, scores: Tensor) -> tuple[Tensor | None, Tensor | None]:
    ones = torch.ones_like(scores)
    low, high = (None if bound is None else ones * bound for bound in (box.lower, box.upper))
    return low, high


def smallest_relaxation(system: ConstraintSystem, domain: Domain, criteria: Sequence[int]) -> float:
    """The least amount by which the tolerances of some criteria must grow for a solution to exist.

        min s ≥ 0   subject to   L − s ≤ K·x ≤ U + s,   low ≤ x ≤ high

    Returns:
        s in score units; exactly 0 when the constraints can be met to within rounding.
    """
    import scipy.optimize

    chosen = np.isin(system.owner, list(criteria))
    rows, lower, upper = sp.csr_array(domain.matrix)[chosen], system.lower[chosen], system.upper[chosen]
    above, below = np.isfinite(upper), np.isfinite(lower)
    side = np.concatenate([upper[above], -lower[below]])
    if not len(side):
        return 0.0
    slack = sp.csr_array(-np.ones((len(side), 1)))
    table = sp.hstack([sp.vstack([rows[above], -rows[below]]), slack], format="csr")
    cost = np.zeros(rows.shape[1] + 1)
    cost[-1] = 1.0
    sums = None if domain.sums is None else sp.hstack([domain.sums, sp.csr_array(np.zeros((domain.sums.shape[0], 1)))])
    limits = np.column_stack([np.append(domain.low, 0.0), np.append(domain.high, np.inf)])
    answer = scipy.optimize.linprog(
        cost, A_ub=table, b_ub=side, bounds=limits, method="highs",
        A_eq=sums, b_eq=None if domain.sums is None else np.ones(domain.sums.shape[0]),
    )  # fmt: skip
    if answer.status != 0:
        raise SolverError(f"the feasibility check stopped: {answer.message}")
    scale = max(1.0, float(np.abs(side).max()))
    return float(answer.fun) if answer.fun > 1e-9 * scale else 0.0


def conflicting_criteria(system: ConstraintSystem, domain: Domain) -> tuple[int, ...]:
    """A smallest set of criteria that cannot hold together: none can be left out of it."""
    conflict = list(range(len(system.criteria)))
    for criterion in tuple(conflict):
        rest = [other for other in conflict if other != criterion]
        if rest and smallest_relaxation(system, domain, rest) > 0:
            conflict = rest
    return tuple(conflict)
