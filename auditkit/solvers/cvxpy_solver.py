"""The projection as a CVXPY problem over the rows: the independent oracle, not meant for speed."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

from auditkit._typing import FloatArray
from auditkit.errors import SolverError
from auditkit.projection import ProjectionProblem, Solution


def solve(problem: ProjectionProblem, *, backend: str = cp.CLARABEL, **options: float) -> Solution:
    """Project with any CVXPY backend.

    Args:
        problem: A feasible problem.
        backend: A solver CVXPY knows.
        **options: Passed to the backend, e.g. its tolerances.

    Returns:
        Scores and multipliers at the backend's accuracy; nothing is polished.

    Raises:
        SolverError: The backend did not report an optimum.
    """
    system = problem.system
    scores = problem.scores.cpu().numpy()
    weight = np.ones_like(scores) if problem.weights is None else problem.weights.cpu().numpy()
    values = cp.Variable(len(scores))
    averaged = system.matrix @ _averaging(problem, weight)
    constraints: list[cp.Constraint] = [averaged @ values <= system.upper, averaged @ values >= system.lower]
    if problem.lower_bound is not None:
        constraints.append(values >= problem.lower_bound.cpu().numpy())
    if problem.upper_bound is not None:
        constraints.append(values <= problem.upper_bound.cpu().numpy())
    model = cp.Problem(cp.Minimize(0.5 * cp.sum(cp.multiply(weight, cp.square(values - scores)))), constraints)
    if backend == cp.CLARABEL:
        options = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, **options}
    model.solve(solver=backend, **options)
    if model.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE) or values.value is None:
        raise SolverError(f"cvxpy with {backend} ended as {model.status!r}")
    duals: FloatArray = np.asarray(constraints[0].dual_value) - np.asarray(constraints[1].dual_value)
    return Solution(
        torch.as_tensor(values.value, device=problem.scores.device), duals, _steps(model), dual_accuracy=1e-7
    )


def _averaging(problem: ProjectionProblem, weight: FloatArray) -> sp.csr_array:
    """M: weighted mean of the rows of every cell, shape (c, n)."""
    system = problem.system
    mass = system.safe_weight
    index = problem.index.cpu().numpy()
    shape = (len(mass), len(index))
    return sp.csr_array((weight / mass[index], (index, np.arange(len(index)))), shape=shape)


def _steps(model: cp.Problem) -> int:
    stats = model.solver_stats
    return int(stats.num_iters or 0) if stats is not None else 0
