"""The projection as a sparse QP for OSQP: variables are the rows and the cell means."""

from __future__ import annotations

import numpy as np
import osqp
import scipy.sparse as sp
import torch

from auditkit._typing import FloatArray
from auditkit.errors import SolverError
from auditkit.projection import ProjectionProblem, Solution

SETTINGS = {
    "eps_abs": 1e-10, "eps_rel": 1e-10, "max_iter": 200_000, "polishing": True, "polish_refine_iter": 10,
    "verbose": False, "scaled_termination": False,
}  # fmt: skip


def solve(problem: ProjectionProblem) -> Solution:
    """Project with OSQP.

        min ½ Σ w y² − Σ w z y   over (y, v)   subject to   Σ_{i∈c} wᵢ yᵢ / √W_c = √W_c v_c,   L ≤ T v ≤ U,   lb ≤ y ≤
        ub

    The cell means v are variables of their own, so the matrix has as many entries as there are rows, whatever T is.

    Args:
        problem: A feasible problem.

    Returns:
        Scores and multipliers at OSQP's accuracy after polishing.

    Raises:
        SolverError: OSQP did not report a solution.
    """
    system = problem.system
    scores = problem.scores.cpu().numpy()
    weight = np.ones_like(scores) if problem.weights is None else problem.weights.cpu().numpy()
    n_rows, n_cells = len(scores), len(system.cell_weight)
    quadratic = sp.diags_array(np.concatenate([weight, np.zeros(n_cells)]), format="csc")
    linear = np.concatenate([-weight * scores, np.zeros(n_cells)])
    matrix, lower, upper = _constraints(problem, weight)
    solver = osqp.OSQP()
    solver.setup(P=sp.csc_matrix(quadratic), q=linear, A=matrix, l=lower, u=upper, **SETTINGS)
    answer = solver.solve(raise_error=False)
    if answer.info.status not in ("solved", "solved inaccurate"):
        raise SolverError(f"osqp ended as {answer.info.status!r} after {answer.info.iter} iterations")
    duals = np.asarray(answer.y[n_cells : n_cells + len(system.matrix)], dtype=np.float64)
    values = torch.as_tensor(answer.x[:n_rows], dtype=torch.float64, device=problem.scores.device)
    return Solution(values, duals, int(answer.info.iter), dual_accuracy=1e-7)


def _constraints(problem: ProjectionProblem, weight: FloatArray) -> tuple[sp.csc_matrix, FloatArray, FloatArray]:
    system = problem.system
    index = problem.index.cpu().numpy()
    n_rows, n_cells, n_contrasts = len(index), len(system.cell_weight), len(system.matrix)
    root = np.sqrt(system.safe_weight)
    sums = sp.csr_array((weight / root[index], (index, np.arange(n_rows))), shape=(n_cells, n_rows))
    blocks = [
        [sums, sp.diags_array(-root)],
        [sp.csr_array((n_contrasts, n_rows)), sp.csr_array(system.matrix)],
        [sp.eye_array(n_rows), sp.csr_array((n_rows, n_cells))],
    ]
    low, high = _row_bounds(problem.lower_bound, -np.inf, n_rows), _row_bounds(problem.upper_bound, np.inf, n_rows)
    zeros = np.zeros(n_cells)
    matrix = sp.csc_matrix(sp.block_array(blocks, format="csc"))
    return matrix, np.concatenate([zeros, system.lower, low]), np.concatenate([zeros, system.upper, high])


def _row_bounds(bound: torch.Tensor | None, default: float, n_rows: int) -> FloatArray:
    value = default if bound is None else bound.cpu().numpy()
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (n_rows,)).copy()
