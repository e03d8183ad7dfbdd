"""Small dense QPs and LPs in the cells: the reduced problem, and whether a problem has a solution at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import daqp
import numpy as np

from auditkit._typing import FloatArray
from auditkit.errors import SolverError
from auditkit.projection import ConstraintSystem

_OPTIMAL, _SOFT_OPTIMAL, _INFEASIBLE = 1, 2, -1
_EQUALITY = 5


@dataclass(frozen=True, eq=False)
class CellRange:
    """The interval that the bounds leave to every cell mean; both arrays have shape (c,)."""

    low: FloatArray
    high: FloatArray


def solve_reduced(
    matrix: FloatArray, lower: FloatArray, upper: FloatArray, curvature: FloatArray
) -> FloatArray | None:
    """Multipliers of  min ½ Σ u_c² / curvature_c  subject to  lower ≤ T·u ≤ upper.

    Args:
        matrix: T, shape (m, c).
        lower: Lower sides, shape (m,).
        upper: Upper sides, shape (m,).
        curvature: How far a unit of multiplier moves every cell mean, shape (c,), positive.

    Returns:
        λ of shape (m,), positive where the upper side is active, or None when the constraints contradict each other.

    Raises:
        SolverError: The active-set solver gave up.
    """
    if not len(matrix):
        return np.zeros(0)
    scaled = matrix * np.sqrt(curvature)
    norm = np.linalg.norm(scaled, axis=1)
    norm[norm == 0] = 1.0
    rows = np.ascontiguousarray(scaled / norm[:, None])
    low, high = lower / norm, upper / norm
    scale = max(1e-300, float(np.abs(np.concatenate([low, high])).max()))
    duals = _least_distance(rows, low / scale, high / scale)
    if duals is None:
        return None
    return _refine(scaled, lower, upper, duals * scale / norm)


def _least_distance(rows: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray | None:
    size = rows.shape[1]
    sense = np.where(low == high, _EQUALITY, 0).astype(np.int32)
    if (sense == _EQUALITY).any():
        keep = _independent_equalities(rows, sense == _EQUALITY)
        if not _consistent(rows, low, sense == _EQUALITY, keep):
            return None
    else:
        keep = np.arange(len(rows))
    _, _, flag, info = daqp.solve(
        np.eye(size), np.zeros(size), rows[keep], high[keep], low[keep], sense[keep],
        primal_tol=1e-13, dual_tol=1e-13, iter_limit=50 * (len(keep) + size) + 1000,
    )  # fmt: skip
    if flag == _INFEASIBLE:
        return None
    if flag not in (_OPTIMAL, _SOFT_OPTIMAL):
        raise SolverError(f"the active-set solver stopped with code {flag} on {len(keep)} constraints over {size} cells")
    duals = np.zeros(len(rows))
    duals[keep] = info["lam"]
    return duals


def _independent_equalities(rows: FloatArray, equal: np.ndarray) -> np.ndarray:
    """All inequalities and a maximal independent set of the equalities (pairwise equalities repeat each other)."""
    import scipy.linalg

    _, triangle, order = scipy.linalg.qr(rows[equal].T, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    rank = int((diagonal > 1e-10 * diagonal[0]).sum()) if len(diagonal) else 0
    chosen = np.flatnonzero(equal)[np.sort(order[:rank])]
    return np.sort(np.concatenate([np.flatnonzero(~equal), chosen]))


def _consistent(rows: FloatArray, value: FloatArray, equal: np.ndarray, keep: np.ndarray) -> bool:
    """Whether the equalities that were left out agree with those that were kept."""
    kept = np.intersect1d(np.flatnonzero(equal), keep)
    point, *_ = np.linalg.lstsq(rows[kept], value[kept], rcond=None)
    return bool(np.abs(rows[equal] @ point - value[equal]).max() <= 1e-9)


def _refine(scaled: FloatArray, lower: FloatArray, upper: FloatArray, duals: FloatArray) -> FloatArray:
    """Solve the equations of the active constraints once more, to the last digits."""
    active = np.flatnonzero(duals)
    if not active.size:
        return duals
    side = np.where(duals[active] > 0, upper[active], lower[active])
    rows = scaled[active]
    refined = np.zeros_like(duals)
    refined[active], *_ = np.linalg.lstsq(rows @ rows.T, -side, rcond=1e-13)
    kept_sign = (np.sign(refined[active]) == np.sign(duals[active])) | (lower[active] == upper[active])
    return refined if kept_sign.all() else duals


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
