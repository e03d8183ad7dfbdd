"""The projection as a CVXPY problem over the rows: the independent oracle, not meant for speed."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

from auditkit._typing import FloatArray
from auditkit.constraints import membership_of
from auditkit.errors import InputError, SolverError
from auditkit.projection import ProjectionProblem, Solution
from auditkit.row_sets import Box


def solve(
    problem: ProjectionProblem, *, backend: str = cp.CLARABEL, start: FloatArray | None = None, **options: float
) -> Solution:
    """Project with any CVXPY backend.

    Args:
        problem: A feasible problem.
        backend: A solver CVXPY knows.
        start: Not used.
        **options: Passed to the backend, e.g. its tolerances.

    Returns:
        Scores and multipliers at the backend's accuracy; nothing is polished.

    Raises:
        InputError: CVXPY has no such backend.
        SolverError: The backend did not report an optimum.
    """
    del start
    if backend not in cp.installed_solvers():
        raise InputError(f"CVXPY has no solver {backend!r} here; it has {', '.join(sorted(cp.installed_solvers()))}")
    system = problem.system
    scores = problem.scores.cpu().numpy()
    weight = np.ones(len(scores)) if problem.weights is None else problem.weights.cpu().numpy()
    values = cp.Variable(scores.shape)
    averaged = _constrained_values(problem, weight, values)
    constraints, pairs = _inside_row_set(problem, values), []
    for side, sign in ((system.upper, 1.0), (system.lower, -1.0)):
        finite = np.flatnonzero(np.isfinite(side))
        if finite.size:
            pairs.append((sign, finite, sign * averaged[finite] <= sign * side[finite]))
    square = cp.square(values - scores)
    distance = cp.sum(cp.multiply(weight, square if scores.ndim == 1 else cp.sum(square, axis=1)))
    model = cp.Problem(cp.Minimize(0.5 * distance), [*constraints, *(pair[2] for pair in pairs)])
    if backend == cp.CLARABEL:
        options = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, **options}
    try:
        model.solve(solver=backend, **options)
    except cp.SolverError as error:
        raise SolverError(f"cvxpy with {backend} failed: {error}") from error
    if model.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE) or values.value is None:
        raise SolverError(f"cvxpy with {backend} ended as {model.status!r}")
    duals = np.zeros(len(system.matrix))
    for sign, finite, constraint in pairs:
        duals[finite] += sign * np.asarray(constraint.dual_value)
    return Solution(
        torch.as_tensor(values.value, device=problem.scores.device), duals, _steps(model), dual_accuracy=1e-7
    )


def _constrained_values(problem: ProjectionProblem, weight: FloatArray, values: cp.Variable) -> Any:
    """T·B·y as an expression, shape (m,), built from the rows and not from what the other solvers use."""
    system = problem.system
    share = membership_of(system.cells)
    means = (share * weight[:, None]).T / system.safe_weight[:, None]
    rows = sp.csr_array(sp.vstack([sp.csr_array(means), *(criterion.matrix for criterion in system.affine)]))
    moments = rows @ values
    if problem.scores.ndim == 1:
        return system.matrix @ moments
    return system.matrix @ cp.reshape(moments, (len(system.matrix.T),), order="C")


def _inside_row_set(problem: ProjectionProblem, values: cp.Variable) -> list[Any]:
    if not isinstance(problem.row_set, Box):
        return [values >= 0, cp.sum(values, axis=1) == 1]
    low, high = problem.row_set.lower, problem.row_set.upper
    return [
        *([] if low is None else [values >= low.cpu().numpy()]),
        *([] if high is None else [values <= high.cpu().numpy()]),
    ]


def _steps(model: cp.Problem) -> int:
    stats = model.solver_stats
    return int(stats.num_iters or 0) if stats is not None else 0
