"""Sums of products of rows (or of clusters of rows): what every variance and covariance of an audit is made of.

    Σ_k (Σ_{i ∈ k} w_i f_i)(Σ_{i ∈ k} w_i f′_i)          k: a row, or a cluster of rows where those are not independent

for functions f that are linear, in every cell, in 1, the score, the label and the decision.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from auditkit._typing import FloatArray
from auditkit.moments import Moments

Linear: TypeAlias = "dict[str, FloatArray]"
"""Coefficients of "w" (the constant), "z" (score − shift), "y" (label − shift) and "d" (decision), each (k, c)."""

_BASES = ("w", "z", "y", "d")


def sum_products(moments: Moments, left: Linear, right: Linear | None = None) -> FloatArray:
    """Sums of the products of linear functions of the rows.

    Args:
        moments: Sums per cell.
        left: k functions.
        right: k′ functions; None takes the same.

    Returns:
        Shape (k, k′).
    """
    other = left if right is None else right
    if moments.gram is not None:
        return _stack(left, moments.table.n_cells) @ moments.gram @ _stack(other, moments.table.n_cells).T
    squares = _squares(moments)
    products = [
        (first * squares[min(p, q, key=_BASES.index), max(p, q, key=_BASES.index)]) @ second.T
        for p, first in left.items()
        for q, second in other.items()
    ]
    return np.sum(products, axis=0)


def effective_size(moments: Moments, member: FloatArray, *, of: str = "w") -> FloatArray:
    """(Σ w)² / Σ w² of unions of cells: the number of rows (or clusters) of equal weight that would say as much.

    Args:
        moments: Sums per cell.
        member: Which cells make up which union, shape (k, c).
        of: "w" for all rows, "d" for the selected ones.

    Returns:
        Shape (k,); 0 for no rows.
    """
    mass = member @ (moments.weight if of == "w" else moments.selected)
    square = np.diag(sum_products(moments, {of: member}))
    return np.divide(mass**2, square, out=np.zeros_like(mass), where=square > 0)


def _stack(linear: Linear, size: int) -> FloatArray:
    rows = len(next(iter(linear.values())))
    return np.hstack([linear.get(basis, np.zeros((rows, size))) for basis in _BASES])


def _squares(moments: Moments) -> dict[tuple[str, str], FloatArray]:
    label_shift = moments.shift if moments.has_labels else 0.0
    return {
        ("w", "w"): moments.weight2,
        ("w", "z"): moments.score_w2 - moments.shift * moments.weight2,
        ("w", "y"): moments.label_w2 - label_shift * moments.weight2,
        ("z", "z"): moments.score2_w2,
        ("z", "y"): moments.cross_w2,
        ("y", "y"): moments.label2_w2,
        ("w", "d"): moments.selected_w2,
        ("d", "d"): moments.selected_w2,
    }
