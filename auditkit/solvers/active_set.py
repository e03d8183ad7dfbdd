"""Small dense QPs in the moments: the reduced problem, solved by a dual active-set method."""

from __future__ import annotations

import math
from typing import Any

import daqp
import numpy as np

from auditkit._typing import BoolArray, FloatArray
from auditkit.errors import SolverError

_OPTIMAL, _SOFT_OPTIMAL, _INFEASIBLE = 1, 2, -1
_EQUALITY = 5
_NO_SIDE = 1e30
"""What the active-set solver takes for infinity."""
_NO_MOVE = 1e-10
"""A constraint that moves less than this share of its size does not move: what is left is rounding."""


def solve_reduced(matrix: FloatArray, lower: FloatArray, upper: FloatArray, gram: FloatArray) -> FloatArray | None:
    """Multipliers of  min ½ uᵀ G⁺ u  subject to  lower ≤ T·u ≤ upper  and u in the range of G.

    Args:
        matrix: T, shape (m, q).
        lower: Lower sides, shape (m,); −∞ where there is none.
        upper: Upper sides, shape (m,); ∞ where there is none.
        gram: G, how far a unit of multiplier moves every moment, positive semidefinite, shape (q, q), or its diagonal.

    Returns:
        λ of shape (m,), positive where the upper side is active, or None when the constraints contradict each other.

    Raises:
        SolverError: The active-set solver gave up.
    """
    if not len(matrix):
        return np.zeros(0)
    scaled = matrix * np.sqrt(gram) if gram.ndim == 1 else matrix @ _root(gram)
    norm = np.linalg.norm(scaled, axis=1)
    moves = norm > _NO_MOVE * np.linalg.norm(matrix, axis=1) * _largest(gram)
    if not moves.all():
        return _solve_moving(matrix, lower, upper, gram, moves)
    rows = np.ascontiguousarray(scaled / norm[:, None])
    low, high = lower / norm, upper / norm
    sides = np.abs(np.concatenate([low, high]))
    scale = max(1e-300, float(sides[np.isfinite(sides)].max(initial=0.0)))
    duals = _least_distance(rows, np.maximum(low / scale, -_NO_SIDE), np.minimum(high / scale, _NO_SIDE))
    if duals is None:
        return None
    return _refine(scaled, lower, upper, duals * scale / norm)


def _solve_moving(
    matrix: FloatArray, lower: FloatArray, upper: FloatArray, gram: FloatArray, moves: BoolArray
) -> FloatArray | None:
    """Leave out the constraints that no multiplier moves, such as those between groups that hold the same rows."""
    slack = 1e-9 * max(
        1.0, float(np.abs(np.concatenate([lower, upper]))[np.isfinite([*lower, *upper])].max(initial=0.0))
    )
    if (lower[~moves] > slack).any() or (upper[~moves] < -slack).any():
        return None
    duals = np.zeros(len(matrix))
    found = solve_reduced(matrix[moves], lower[moves], upper[moves], gram)
    if found is None:
        return None
    duals[moves] = found
    return duals


def _largest(gram: FloatArray) -> float:
    """How far a unit of multiplier moves the moment that answers most, as a length."""
    diagonal = gram if gram.ndim == 1 else np.diag(gram)
    return math.sqrt(max(float(diagonal.max(initial=0.0)), 0.0))


def _root(gram: FloatArray) -> FloatArray:
    """R with R·Rᵀ = G, one column per direction in which G does not vanish."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = values > 1e-14 * max(float(values[-1]), 1e-300) if len(values) else np.zeros(0, dtype=bool)
    return vectors[:, kept] * np.sqrt(values[kept])


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
        raise SolverError(
            f"the active-set solver stopped with code {flag} on {len(keep)} constraints over {size} moments"
        )
    duals = np.zeros(len(rows))
    duals[keep] = info["lam"]
    return duals


def _independent_equalities(rows: FloatArray, equal: np.ndarray) -> np.ndarray:
    """All inequalities and a maximal independent set of the equalities (pairwise equalities repeat each other)."""
    import scipy.linalg

    factors: Any = scipy.linalg.qr(rows[equal].T, mode="economic", pivoting=True)
    _, triangle, order = factors
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
