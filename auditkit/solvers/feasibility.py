"""Whether a projection has a solution at all; if not, which criteria are in conflict and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from auditkit._typing import FloatArray
from auditkit.errors import InfeasibleError, InputError, SolverError
from auditkit.projection import ConstraintSystem, ProjectionProblem

OnInfeasible = Literal["raise", "relax"]


@dataclass(frozen=True, eq=False)
class CellRange:
    """The interval that the bounds leave to every cell mean; both arrays have shape (c,)."""

    low: FloatArray
    high: FloatArray


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
    system, cell_range = problem.system, _cell_range(problem)
    relaxation = smallest_relaxation(system, cell_range, range(len(system.criteria)))
    if relaxation == 0:
        return problem
    if on_infeasible == "relax":
        return replace(problem, system=replace(system, relaxation=relaxation * (1 + 1e-6) + 1e-8, layouts={}))
    names = tuple(system.criteria[k].name for k in conflicting_criteria(system, cell_range))
    within = " within the bounds" if problem.is_bounded else ""
    raise InfeasibleError(
        f"no scores satisfy {' and '.join(names)}{within}; every tolerance would have to grow by {relaxation:.6g}. "
        "Raise the tolerances, widen the bounds, drop a criterion, or pass on_infeasible='relax'",
        criteria=names,
        smallest_relaxation=relaxation,
    )


def _is_always_feasible(problem: ProjectionProblem) -> bool:
    """Constant scores satisfy pairwise parity; without bounds the labels themselves satisfy residual criteria."""
    residual = problem.system.contrasts.residual
    if problem.is_bounded:
        scalar = all(b is None or b.ndim == 0 for b in (problem.lower_bound, problem.upper_bound))
        return scalar and not residual.any()
    return bool(residual.all() or not residual.any())


def _cell_range(problem: ProjectionProblem) -> CellRange | None:
    if not problem.is_bounded:
        return None
    ones = torch.ones_like(problem.scores)
    size = len(problem.system.cell_weight)
    low = None if problem.lower_bound is None else problem.cell_means(ones * problem.lower_bound)
    high = None if problem.upper_bound is None else problem.cell_means(ones * problem.upper_bound)
    return CellRange(np.full(size, -np.inf) if low is None else low, np.full(size, np.inf) if high is None else high)


def smallest_relaxation(system: ConstraintSystem, cell_range: CellRange | None, criteria: Sequence[int]) -> float:
    """The least amount by which the tolerances of some criteria must grow for a solution to exist.

        min s ≥ 0   subject to   L − s ≤ T·v ≤ U + s,   low ≤ v ≤ high

    Returns:
        s in score units; exactly 0 when the constraints can be met to within rounding.
    """
    import scipy.optimize

    chosen = np.isin(system.contrasts.criterion, list(criteria))
    rows, lower, upper = system.matrix[chosen], system.lower[chosen], system.upper[chosen]
    if not len(rows):
        return 0.0
    slack = -np.ones((2 * len(rows), 1))
    table = np.hstack([np.vstack([rows, -rows]), slack])
    limits = [(None, None)] * rows.shape[1]
    if cell_range is not None:
        limits = list(zip(cell_range.low, cell_range.high, strict=True))
    cost = np.zeros(rows.shape[1] + 1)
    cost[-1] = 1.0
    answer = scipy.optimize.linprog(
        cost, A_ub=table, b_ub=np.concatenate([upper, -lower]), bounds=[*limits, (0, None)], method="highs"
    )
    if answer.status != 0:
        raise SolverError(f"the feasibility check stopped: {answer.message}")
    scale = max(1.0, float(np.abs(np.concatenate([lower, upper])).max()))
    return float(answer.fun) if answer.fun > 1e-9 * scale else 0.0


def conflicting_criteria(system: ConstraintSystem, cell_range: CellRange | None) -> tuple[int, ...]:
    """A smallest set of criteria that cannot hold together: none can be left out of it."""
    conflict = list(range(len(system.criteria)))
    for criterion in tuple(conflict):
        rest = [other for other in conflict if other != criterion]
        if rest and smallest_relaxation(system, cell_range, rest) > 0:
            conflict = rest
    return tuple(conflict)
